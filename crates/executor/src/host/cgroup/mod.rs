//! A control group for a session: how much of the machine all its processes together may use.
//!
//! It lies below the group that kiln itself is in, so that whatever bounds kiln bounds its jobs too. The
//! steps' processes enter it before they become their programs; init stays outside, so that a job that is
//! out of memory cannot take along who is to say so.
//!
//! Always: its folders are in a file of the attempt's folder before they are made. So whoever finds the
//! attempt finds them, and [`reap`] removes them whatever has died.
//!
//! Elsewhere: what bounds a session where no group can be had (`bound`).

mod leaf;
mod find;
mod read;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_model::plan::Limits;
use kiln_stdx::clock::Stopwatch;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use self::find::Own;
pub(super) use self::leaf::settle;
pub(super) use self::read::Reading;
use crate::contract::words;

/// In the attempt's folder: the group's folders.
const FOLDERS: &str = "cgroups.json";

/// Groups bear it in front, so that nothing else is ever removed.
const PREFIX: &str = "kiln-";

/// How long killed processes may take to leave a group.
const EMPTY_FOR: Duration = Duration::from_secs(2);

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Cpu,
    Memory,
    Pids,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    fn is_in(self, limits: &Limits) -> bool {
        match self {
            Self::Cpu => limits.cpu_millis.is_some(),
            Self::Memory => limits.memory.is_some(),
            Self::Pids => limits.pids.is_some(),
        }
    }
}

/// What no group can bound here, and why.
pub(super) type Without = (Kind, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A folder of a tree.
#[derive(Clone, Debug)]
struct Folder {
    path: PathBuf,
    version: Version,
    kinds: Vec<Kind>,
}

/// A group that stands.
#[derive(Debug)]
pub(super) struct Cgroup {
    folders: Vec<Folder>,
    /// Writing `0` into each moves the writer.
    doors: Vec<OwnedFd>,
    /// Who has made it removes it.
    is_ours: bool,
}

impl Cgroup {
    /// Makes it with all of `limits` that a group can bound here, and gives what it cannot, with the reason.
    /// Without a limit there is no group.
    ///
    /// # Errors
    ///
    /// When a limit itself is refused. Nothing is left then.
    pub fn make(
        limits: &Limits,
        name: &str,
        attempt_dir: &Path,
    ) -> io::Result<(Option<Self>, Vec<Without>)> {
        let wanted: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.is_in(limits)).collect();
        if wanted.is_empty() {
            return Ok((None, Vec::new()));
        }
        let own = Own::find()?;
        let (folders, without) = plan(&own, &wanted, &format!("{PREFIX}{name}"));
        let paths: Vec<&Path> = folders.iter().map(|folder| folder.path.as_path()).collect();
        write_down(attempt_dir, &paths)?;
        let made = (|| {
            let mut doors = Vec::new();
            for folder in &folders {
                folder.make()?;
                folder.bound(limits)?;
                doors.push(open(&folder.path.join("cgroup.procs"))?);
            }
            Ok(doors)
        })();
        match made {
            Ok(doors) if !folders.is_empty() => {
                Ok((Some(Self { folders, doors, is_ours: true }), without))
            }
            Ok(_) => {
                reap(attempt_dir);
                Ok((None, without))
            }
            Err(cause) => {
                reap(attempt_dir);
                Err(cause)
            }
        }
    }

    /// The groups that another process is in, in every tree.
    ///
    /// # Errors
    ///
    /// When there is none, or one of them cannot be entered: its bounds would not hold.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let folders = find::all_of(pid)?;
        if folders.is_empty() {
            return Err(io::Error::other("it is in none that is seen from here"));
        }
        let doors = folders.iter().map(|folder| open(&folder.path.join("cgroup.procs")));
        let doors = doors.collect::<io::Result<_>>()?;
        Ok(Self { folders, doors, is_ours: false })
    }

    /// For a child to enter by.
    pub fn doors(&self) -> Vec<RawFd> {
        self.doors.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// As it is now.
    pub fn read(&self) -> Reading {
        let mut reading = Reading::default();
        for folder in &self.folders {
            reading.add(&folder.path, folder.version == Version::Two, &folder.kinds);
        }
        if !self.is_ours {
            // Process 1 is not the job's.
            reading.pids_peak = reading.pids_peak.map(|peak| peak.saturating_sub(1));
        }
        reading
    }

    /// Removes it, with what is left in it. Not by what is written down: that may be gone with its folder.
    pub fn remove(&self) {
        for folder in self.folders.iter().filter(|_| self.is_ours) {
            empty_and_remove(&folder.path);
        }
    }

    /// Lets the highest value begin anew, where the kernel does that.
    pub fn forget_peak(&self) {
        for folder in self.folders.iter().filter(|folder| folder.kinds.contains(&Kind::Memory)) {
            if folder.version == Version::One {
                let _ = std::fs::write(folder.path.join("memory.max_usage_in_bytes"), "0");
            }
        }
    }
}

impl Folder {
    /// One of this name is of this very attempt, by an init that is dead.
    fn make(&self) -> io::Result<()> {
        match std::fs::create_dir(&self.path) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                empty_and_remove(&self.path);
                std::fs::create_dir(&self.path)
            }
            other => other,
        }
        .map_err(|cause| named("make the control group", &self.path, &cause))
    }

    fn bound(&self, limits: &Limits) -> io::Result<()> {
        let two = self.version == Version::Two;
        for kind in &self.kinds {
            match kind {
                Kind::Cpu => self.bound_cpu(limits.cpu_millis.unwrap_or_default(), two)?,
                Kind::Memory => self.bound_memory(limits.memory.unwrap_or_default(), two)?,
                Kind::Pids => self.set("pids.max", limits.pids.unwrap_or_default())?,
            }
        }
        Ok(())
    }

    fn bound_cpu(&self, millis: u32, two: bool) -> io::Result<()> {
        const PERIOD_US: u64 = 100_000;
        // The kernel refuses less than a millisecond in a period.
        let quota_us = (u64::from(millis) * PERIOD_US / 1_000).max(1_000);
        if two {
            return self.set("cpu.max", format!("{quota_us} {PERIOD_US}"));
        }
        self.set("cpu.cfs_period_us", PERIOD_US)?;
        self.set("cpu.cfs_quota_us", quota_us)
    }

    fn bound_memory(&self, n_bytes: u64, two: bool) -> io::Result<()> {
        let (memory, swap, swapped) = match two {
            true => ("memory.max", "memory.swap.max", 0),
            // There the second is for both together.
            false => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", n_bytes),
        };
        self.set(memory, n_bytes)?;
        // A kernel that does not count swap has no such file.
        match self.path.join(swap).exists() {
            true => self.set(swap, swapped),
            false => Ok(()),
        }
    }

    fn set(&self, file: &str, value: impl ToString) -> io::Result<()> {
        let path = self.path.join(file);
        let value = value.to_string();
        std::fs::write(&path, &value)
            .map_err(|cause| named(&format!("write `{value}` into"), &path, &cause))
    }
}

/// Which folders there shall be, and which kinds have none.
fn plan(own: &Own, wanted: &[Kind], name: &str) -> (Vec<Folder>, Vec<Without>) {
    let mut folders: Vec<Folder> = Vec::new();
    let mut without = Vec::new();
    let (one, rest): (Vec<Kind>, Vec<Kind>) =
        wanted.iter().partition(|kind| own.one.contains_key(kind));
    for kind in one {
        let parent = &own.one[&kind];
        let path = parent.join(name);
        if let Some(same) = folders.iter_mut().find(|folder| folder.path == path) {
            same.kinds.push(kind);
        } else if let Err(cause) = may_write(parent) {
            without.push((kind, format!("`{}`: {}", parent.display(), words(&cause))));
        } else {
            folders.push(Folder { path, version: Version::One, kinds: vec![kind] });
        }
    }
    if rest.is_empty() {
        return (folders, without);
    }
    let parent = match &own.two {
        Some((root, group)) => parent_of_two(root, group, &rest),
        None => Err("this machine mounts no control groups for it".to_owned()),
    };
    match parent {
        Ok(parent) => {
            folders.push(Folder { path: parent.join(name), version: Version::Two, kinds: rest })
        }
        Err(why) => without.extend(rest.into_iter().map(|kind| (kind, why.clone()))),
    }
    (folders, without)
}

/// The nearest group of version 2, from our own upwards, that may have children with these bounds.
///
/// A group with processes in it cannot give bounds to its children, so it is mostly the one above ours:
/// the slice that a service manager has put kiln into.
fn parent_of_two(root: &Path, own: &Path, wanted: &[Kind]) -> Result<PathBuf, String> {
    let mut why = String::new();
    for at in own.ancestors().take_while(|at| at.starts_with(root)) {
        match gives(at, wanted) {
            Ok(()) => return Ok(at.to_owned()),
            // The nearest refusal is the one that a person can do something about.
            Err(refused) if why.is_empty() => why = refused,
            Err(_) => {}
        }
    }
    Err(why)
}

fn gives(at: &Path, wanted: &[Kind]) -> Result<(), String> {
    let told = |cause: &io::Error| format!("`{}`: {}", at.display(), words(cause));
    let list = |file: &str| std::fs::read_to_string(at.join(file)).unwrap_or_default();
    let there = list("cgroup.controllers");
    if let Some(kind) = wanted.iter().find(|kind| !has(&there, **kind)) {
        return Err(format!("`{}` does not have the controller `{}`", at.display(), kind.as_str()));
    }
    may_write(at).map_err(|cause| told(&cause))?;
    let given = list("cgroup.subtree_control");
    let missing: Vec<String> = wanted
        .iter()
        .filter(|kind| !has(&given, **kind))
        .map(|kind| format!("+{}", kind.as_str()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    std::fs::write(at.join("cgroup.subtree_control"), missing.join(" ")).map_err(
        |cause| match cause.kind() {
            io::ErrorKind::ResourceBusy => format!(
                "`{}` has processes in it, so the kernel lets it bound no others",
                at.display()
            ),
            _ => told(&cause),
        },
    )
}

/// Whether a list of controllers has the one for this.
fn has(list: &str, kind: Kind) -> bool {
    list.split_ascii_whitespace().any(|name| name == kind.as_str())
}

/// Whether we may make groups below this one, and move our own processes into them.
fn may_write(group: &Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD};
    let may = |path: &Path| rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
    may(group)?;
    Ok(may(&group.join("cgroup.procs"))?)
}

fn open(file: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|cause| named("open", file, &cause.into()))
}

fn named(what: &str, path: &Path, cause: &io::Error) -> io::Error {
    let text = format!("cannot {what} `{}`: {}", path.display(), words(cause));
    io::Error::new(cause.kind(), text)
}

fn write_down(attempt_dir: &Path, folders: &[&Path]) -> io::Result<()> {
    let text = serde_json::to_vec(folders).map_err(io::Error::other)?;
    std::fs::write(attempt_dir.join(FOLDERS), text)
}

/// Kills what is left in the attempt's group, and removes it. Gives the number of processes killed.
pub(super) fn reap(attempt_dir: &Path) -> usize {
    let Ok(text) = std::fs::read(attempt_dir.join(FOLDERS)) else { return 0 };
    let folders: Vec<PathBuf> = serde_json::from_slice(&text).unwrap_or_default();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(PREFIX))
    };
    let n_killed =
        folders.iter().filter(|path| is_ours(path)).map(|path| empty_and_remove(path)).sum();
    let _ = std::fs::remove_file(attempt_dir.join(FOLDERS));
    n_killed
}

/// A killed process leaves its group when it has ended, which is soon.
fn empty_and_remove(group: &Path) -> usize {
    let mut killed = std::collections::BTreeSet::new();
    let watch = Stopwatch::start();
    loop {
        match std::fs::remove_dir(group) {
            Err(cause) if cause.kind() == io::ErrorKind::ResourceBusy => {}
            _ => break,
        }
        if watch.elapsed() > EMPTY_FOR {
            break;
        }
        let inside = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            if let Some(pid) = Pid::from_raw(pid)
                && rustix::process::kill_process(pid, Signal::KILL).is_ok()
            {
                killed.insert(pid.as_raw_nonzero());
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.len()
}
