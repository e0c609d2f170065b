//! Files as each step of a job found them, as later attempts begin from them.

use std::collections::BTreeMap;
use std::path::Path;

use fastrand::Rng;
use kiln_executor::{Executor, Session, StepCommand};
use kiln_model::layer::LayerId;
use kiln_model::{AttemptId, Exit};
use kiln_stdx::overlay::Mount;
use kiln_workspace::Base;
use tokio::sync::watch;

use crate::lab::{Lab, shell_in};

/// Kind, mode, target and text of everything.
const SHOW: &str = "find . -mindepth 1 -printf '%P %y %m %l\\n' | sort; \
                    find . -type f | sort | xargs -r grep -H '' || true";

const N_HISTORIES: u64 = 6;
const N_STEPS: u32 = 8;

/// A step that some driver could not keep the files before is of no use to anybody.
struct Steps {
    attempt: AttemptId,
    session: <kiln_executor::HostExecutor as Executor>::Session,
    mount: Option<Mount>,
}

impl Steps {
    async fn begin(lab: &Lab, base: &Base, own: &[LayerId]) -> Self {
        let attempt = lab.next_attempt();
        let prepared = lab.workspaces.prepare(attempt, "place", base, &[], own).unwrap();
        let mount = prepared.mount.clone();
        let spec = lab.spec(attempt, prepared);
        let session = lab.executor.open(spec).await.unwrap();
        Self { attempt, session, mount }
    }

    /// Keeps what the step at this position finds, as an agent does.
    async fn keep(&mut self, lab: &Lab, step: u32) -> bool {
        let new = match &self.mount {
            Some(mount) => lab.workspaces.new_top(self.attempt, step, mount).unwrap(),
            None => None,
        };
        let asks = new.is_some() || self.mount.is_none();
        if asks && !self.session.remount(new.clone()).await.unwrap() {
            return false;
        }
        self.mount = new.or(self.mount.take());
        let output = format!("step={step}\n");
        lab.workspaces.keep_step(self.attempt, step, self.mount.as_ref(), Some(output)).unwrap();
        true
    }

    async fn run(&mut self, script: &str) {
        let command = StepCommand {
            argv: ["sh", "-ec", script].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            directory: None,
            timeout: None,
        };
        let (_keep, never) = watch::channel(false);
        assert_eq!(self.session.step(command, never).await, Ok(Exit::SUCCESS), "{script}");
    }

    /// What all steps have printed.
    async fn end(mut self, lab: &Lab) -> (AttemptId, Option<LayerId>, String) {
        self.session.close().await.unwrap();
        let printed = std::fs::read_to_string(lab.path(&format!("{}.log", self.attempt)));
        let layer = lab.workspaces.seal(self.attempt).unwrap();
        (self.attempt, layer, printed.unwrap_or_default())
    }
}

fn before(attempt: AttemptId, step: u32) -> LayerId {
    LayerId::Boundary(format!("{attempt}.{step}"))
}

async fn seen_from(lab: &Lab, base: &Base, own: &[LayerId]) -> String {
    let mut steps = Steps::begin(lab, base, own).await;
    steps.run(SHOW).await;
    steps.end(lab).await.2
}

fn shown_in(folder: &Path) -> String {
    shell_in(folder, &format!("({SHOW}) > ../shown")).unwrap();
    std::fs::read_to_string(folder.with_file_name("shown")).unwrap()
}

pub async fn a_boundary_is_what_its_step_found(lab: Lab) {
    for seed in 0..N_HISTORIES {
        let mut random = Rng::with_seed(seed);
        let reference = lab.path(&format!("reference-{seed}"));
        std::fs::create_dir(&reference).unwrap();
        let begins = "umask 022; mkdir -p a/b d; echo 1 > a/x; echo 2 > a/b/y; echo 3 > z";
        shell_in(&reference, begins).unwrap();
        let base = lab.source(&format!("{seed:040x}"), begins);

        let mut steps = Steps::begin(&lab, &base, &[]).await;
        let mut found = Vec::new();
        for step in 0..N_STEPS {
            if step > 0 {
                assert!(steps.keep(&lab, step).await, "seed {seed}, step {step}");
                found.push((step, shown_in(&reference)));
            }
            let script = change(&mut random);
            steps.run(&script).await;
            shell_in(&reference, &script).unwrap();
        }
        let (attempt, layer, _) = steps.end(&lab).await;
        let kept: Vec<_> = found.iter().map(|(step, _)| *step).collect();
        assert_eq!(lab.workspaces.steps_kept(attempt), kept);
        for (step, files) in found {
            let what = format!("seed {seed}, before step {step}");
            let own = [before(attempt, step)];
            assert_eq!(seen_from(&lab, &base, &own).await, files, "{what}");
            let output = lab.workspaces.output_before(&own[0]);
            assert_eq!(output, Some(format!("step={step}\n")), "{what}");
        }
        let layers: Vec<_> = layer.into_iter().collect();
        let (seen, _) = lab.job(&base, &layers.iter().collect::<Vec<_>>(), SHOW).await;
        assert_eq!(seen, shown_in(&reference), "seed {seed}, a child of the whole job");
    }
}

/// Some changes of every kind; often none.
fn change(random: &mut Rng) -> String {
    let names = ["a", "a/x", "a/b", "a/b/y", "d", "d/e", "d/e/f", "z", "l"];
    let mut script = "umask 022".to_owned();
    for _ in 0..random.usize(..5) {
        let mut name = || names[random.usize(..names.len())];
        let (one, other) = (name(), name());
        let n = random.u32(..);
        let line = match random.u8(..9) {
            0 => format!("mkdir -p $(dirname {one}) && echo {n} > {one}"),
            1 => format!("rm -rf {one}"),
            2 => format!("rm -rf {one}; mkdir -p {one} && echo {n} > {one}/new"),
            3 => format!("rm -rf {one}; mkdir -p $(dirname {one}) && ln -s {other} {one}"),
            4 => format!("test -L {one} || chmod {} {one}", ["700", "750", "755"][n as usize % 3]),
            5 => format!("test ! -e {other} && mv {one} {other}"),
            6 => format!("test -f {one} && echo {n} >> {one}"),
            7 => format!("ln {one} {other}"),
            _ => format!("cp -a {one} {other}"),
        };
        script += &format!("; {{ {line}; }} 2> /dev/null || true");
    }
    script
}

/// From the middle of a job that began in the middle itself.
pub async fn an_attempt_goes_on_from_another(lab: Lab) {
    let base = lab.source(&"1".repeat(40), "echo s > s");
    let mut first = Steps::begin(&lab, &base, &[]).await;
    first.run("echo a > a; rm s").await;
    assert!(first.keep(&lab, 1).await);
    first.run("echo b > b; rm a").await;
    let (first, whole, _) = first.end(&lab).await;
    let mut second = Steps::begin(&lab, &base, &[before(first, 1)]).await;
    second.run("test -f a; test ! -e b; test ! -e s; echo c > c").await;
    assert!(second.keep(&lab, 2).await);
    second.run("rm a; echo d > d").await;
    let (second, layer, _) = second.end(&lab).await;

    let text = |names: &[&str]| -> String {
        let kinds: String = names.iter().map(|name| format!("{name} f 644 \n")).collect();
        let texts: String = names.iter().map(|name| format!("./{name}:{name}\n")).collect();
        kinds + &texts
    };
    assert_eq!(seen_from(&lab, &base, &[before(second, 2)]).await, text(&["a", "c"]));
    let layer = layer.expect("it wrote");
    assert_eq!(lab.job(&base, &[&layer], SHOW).await.0, text(&["c", "d"]));
    let whole = whole.expect("it wrote");
    assert_eq!(lab.job(&base, &[&whole], SHOW).await.0, text(&["b"]));
    for unknown in [before(second, 1), before(second, 3), before(first, 2)] {
        assert!(lab.workspaces.layer_paths(&unknown).is_none(), "{unknown:?}");
    }
}

pub async fn a_job_that_only_looks_has_boundaries_of_nothing(lab: Lab) {
    let base = lab.source(&"2".repeat(40), "echo s > s");
    let mut steps = Steps::begin(&lab, &base, &[]).await;
    for step in 1..4 {
        steps.run("cat s").await;
        assert!(steps.keep(&lab, step).await);
    }
    let (attempt, layer, _) = steps.end(&lab).await;
    assert_eq!(layer, None);
    assert_eq!(lab.workspaces.steps_kept(attempt), [1, 2, 3]);
    assert_eq!(seen_from(&lab, &base, &[before(attempt, 2)]).await, "s f 644 \n./s:s\n");
}

/// What a crash leaves between making a top, mounting it and saying so.
pub async fn a_crash_between_two_steps_loses_no_file(lab: Lab) {
    let base = lab.source(&"3".repeat(40), "echo s > s");
    let mut steps = Steps::begin(&lab, &base, &[]).await;
    let Some(mount) = steps.mount.clone() else { return };
    steps.run("echo a > a").await;
    let workspaces = &lab.workspaces;
    // Made, and never mounted.
    workspaces.new_top(steps.attempt, 1, &mount).unwrap().expect("it wrote");
    steps.run("echo b > b").await;
    // Mounted, and never noted.
    let new = workspaces.new_top(steps.attempt, 2, &mount).unwrap().expect("it wrote");
    assert!(steps.session.remount(Some(new.clone())).await.unwrap());
    steps.mount = Some(new);
    // Asked for again by whoever comes after.
    assert!(steps.keep(&lab, 2).await);
    steps.run("echo c > c; rm a").await;
    let (attempt, layer, _) = steps.end(&lab).await;
    assert_eq!(workspaces.steps_kept(attempt), [2]);
    let found = seen_from(&lab, &base, &[before(attempt, 2)]).await;
    assert_eq!(found, "a f 644 \nb f 644 \ns f 644 \n./a:a\n./b:b\n./s:s\n");
    let layer = layer.expect("it wrote");
    let left = lab.job(&base, &[&layer], SHOW).await.0;
    assert_eq!(left, "b f 644 \nc f 644 \ns f 644 \n./b:b\n./c:c\n./s:s\n");
}

pub async fn a_lost_piece_is_missed_by_all_that_stand_on_it(lab: Lab) {
    let base = lab.source(&"4".repeat(40), "echo s > s");
    let mut steps = Steps::begin(&lab, &base, &[]).await;
    if steps.mount.is_none() {
        return;
    }
    for step in 1..3 {
        steps.run(&format!("echo {step} > {step}")).await;
        assert!(steps.keep(&lab, step).await);
    }
    steps.run("echo 3 > 3").await;
    let (attempt, layer, _) = steps.end(&lab).await;
    let layer = layer.expect("it wrote");
    let there = |layer: &LayerId| lab.workspaces.layer_paths(layer).is_some();
    assert!(there(&layer) && there(&before(attempt, 1)) && there(&before(attempt, 2)));
    let folders = lab.workspaces.layer_paths(&layer).unwrap();
    std::fs::remove_dir_all(&folders[1]).unwrap();
    assert!(there(&before(attempt, 1)), "it does not stand on what is gone");
    assert!(!there(&layer) && !there(&before(attempt, 2)));
}

/// More than the kernel stacks, below the living job and below its child.
pub async fn a_job_of_very_many_steps_keeps_them_all(lab: Lab) {
    const N: u32 = 490;
    if !lab.workspaces.driver().mounts() {
        return;
    }
    let base = lab.source(&"5".repeat(40), "echo s > s");
    let mut steps = Steps::begin(&lab, &base, &[]).await;
    for step in 1..=N {
        steps.run(&format!("echo {step} > {step}; rm -f {}; echo {step} > last", step - 1)).await;
        assert!(steps.keep(&lab, step).await, "step {step}");
    }
    steps.run("echo end > end").await;
    let (attempt, layer, _) = steps.end(&lab).await;
    assert_eq!(lab.workspaces.steps_kept(attempt).len(), N as usize);
    let show = "echo $(ls) $(cat last)";
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], show).await;
    assert_eq!(seen, format!("{N} end last s {N}\n"));
    for step in [1, 250, N] {
        let mut from = Steps::begin(&lab, &base, &[before(attempt, step)]).await;
        from.run(show).await;
        assert_eq!(from.end(&lab).await.2, format!("{step} last s {step}\n"));
    }
}
