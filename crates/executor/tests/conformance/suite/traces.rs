//! What a session leaves behind: nothing. Everything that it could leave is counted on the machine
//! itself, before and after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_executor::Session;
use kiln_model::Exit;
use kiln_model::plan::Limits;
use kiln_stdx::clock::Stopwatch;

use crate::bench::{
    Bench, Case, Subject, below_me, command, marked, n_zombies, read_when_there, sh, step, until,
};
use crate::cases;
use crate::limits::has_groups;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![nothing_is_left_behind, nothing_is_left_behind_by_many]
}

/// What there is now of a bench's sessions.
struct Traces {
    /// Below this process, with their programs.
    processes: BTreeSet<(i32, String)>,
    /// In every mount namespace in which any of them is.
    mounts: BTreeSet<String>,
    /// Of this process, and of the spawner.
    n_descriptors: Vec<usize>,
    /// In the bench's folder, but what the tests have put there.
    files: BTreeSet<PathBuf>,
}

impl Traces {
    fn of<E: Subject>(bench: &Bench<E>) -> Self {
        let pids = below_me();
        let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let processes =
            pids.iter().filter_map(|pid| Some((*pid, name(pid).ok()?.trim().to_owned())));
        let processes: BTreeSet<_> = processes.collect();
        let me = i32::try_from(std::process::id()).unwrap();
        let spawner = processes.iter().filter(|(_, name)| name == "kiln-spawner");
        let holders = [me].into_iter().chain(spawner.map(|(pid, _)| *pid));
        let n_open =
            |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let n_descriptors = holders.map(n_open).collect();
        let mut files = BTreeSet::new();
        walk(bench.folder.path(), &mut files);
        Self { mounts: mounts(&pids), processes, n_descriptors, files }
    }

    /// What there was not before.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut more: Vec<String> = Vec::new();
        more.extend(self.processes.difference(&before.processes).map(|new| format!("{new:?}")));
        more.extend(self.mounts.difference(&before.mounts).map(|new| format!("mount {new}")));
        more.extend(self.files.difference(&before.files).map(|new| format!("{}", new.display())));
        let grown = self.n_descriptors.iter().zip(&before.n_descriptors);
        let grown = grown.filter(|(now, before)| now > before);
        more.extend(grown.map(|(now, before)| format!("{now} descriptors, not {before}")));
        more
    }
}

fn mounts(pids: &[i32]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for pid in pids.iter().map(ToString::to_string).chain(["self".to_owned()]) {
        let Some(namespace) = namespace(&pid, "mnt") else { continue };
        if !seen.insert(namespace.clone()) {
            continue;
        }
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let place = |line: &str| Some(line.split(' ').nth(4)?.to_owned());
        found.extend(table.lines().filter_map(place).map(|place| format!("{namespace} {place}")));
    }
    found
}

fn namespace(pid: &str, kind: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(link.display().to_string())
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // Made by whoever puts sessions into containers here.
        if entry.file_name().to_string_lossy().starts_with("container-") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}

/// The folders of the control groups of a process that are not also ours.
fn groups(pid: i32) -> Vec<PathBuf> {
    let of = |pid: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let (theirs, ours) = (of(&pid.to_string()), of("self"));
    let folder = |line: &String| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (kinds, path) = (fields.next()?, fields.next()?);
        Some(Path::new("/sys/fs/cgroup").join(kinds).join(path.trim_start_matches('/')))
    };
    theirs.difference(&ours).filter_map(folder).filter(|folder| folder.exists()).collect()
}

/// Whether any process of this machine is in it.
fn is_in_use(namespace_of_net: &str) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        .any(|pid| namespace(&pid, "net").as_deref() == Some(namespace_of_net))
}

/// A session that does what leaves things behind.
async fn litter<E: Subject>(bench: &Bench<E>) {
    let limits = match has_groups() {
        true => Limits { pids: Some(500), ..Limits::default() },
        false => Limits::default(),
    };
    let bounded = |spec: &mut kiln_executor::SessionSpec| {
        (spec.limits, spec.grace) = (limits, Duration::from_millis(50));
    };
    let mut session = bench.open_with(bounded).await;
    let mark = bench.mark("left");
    let script = format!(
        "rm -f left; setsid sh -c 'trap \"\" TERM HUP; echo > left; while :; do sleep 1; done' {mark} \
         > /dev/null 2>&1 & sh -c 'true & exec sleep 1000' & mkdir -p locked/in; chmod 500 locked/in; echo said"
    );
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    read_when_there(&bench.seen("left")).await;
    let pid = *marked(&mark).first().expect("it runs");
    let (groups, network) = (groups(pid), namespace(&pid.to_string(), "net"));
    let network = network.filter(|network| namespace("self", "net").as_ref() != Some(network));
    let places = bench.executor.places(bench.folder.path());
    step(&mut session, command(["no-such-program"])).await.unwrap();
    session.close().await.unwrap();
    assert_eq!(marked(&mark), Vec::<i32>::new());
    for place in groups.iter().chain(&places) {
        until(&format!("{} is gone", place.display()), || !place.exists()).await;
    }
    if let Some(network) = network {
        until(&format!("{network} is gone"), || !is_in_use(&network)).await;
    }
}

/// Waits for what is closed a moment later: descriptors, and the far side of a connection.
async fn settled<E: Subject>(bench: &Bench<E>, before: &Traces) {
    let watch = Stopwatch::start();
    until("nothing is left behind", || {
        let more = Traces::of(bench).beyond(before);
        assert!(more.is_empty() || watch.elapsed().as_secs() < 30, "left behind: {more:#?}");
        more.is_empty()
    })
    .await;
}

async fn nothing_is_left_behind<E: Subject>(bench: Bench<E>) {
    // What is made once, by whoever is first.
    litter(&bench).await;
    until("none is a zombie", || n_zombies() == 0).await;
    let before = Traces::of(&bench);
    litter(&bench).await;
    settled(&bench, &before).await;
}

async fn nothing_is_left_behind_by_many<E: Subject>(bench: Bench<E>) {
    bench.run(command(["true"])).await;
    until("none is a zombie", || n_zombies() == 0).await;
    let before = Traces::of(&bench);
    for _ in 0..10 {
        bench.run(command(["true"])).await;
    }
    settled(&bench, &before).await;
}
