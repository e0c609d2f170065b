//! What the command line says: help, errors and screens, with times masked.
//!
//! Each test has a home, a data folder and a repository of its own; nothing of the machine's settings
//! is seen. The stories with a server are in `tests/it`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// An empty folder that is no repository.
    fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("repo")).unwrap();
        Self { folder }
    }

    /// A repository without commits.
    fn repository() -> Self {
        let place = Self::bare();
        place.git(&["init", "--quiet", "--initial-branch=main"]);
        place
    }

    fn with(manifest: &str) -> Self {
        let place = Self::repository();
        fs::write(place.repo().join(".kiln.yml"), manifest).unwrap();
        place
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = command("git");
        git.current_dir(self.repo()).args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(args);
        git.env_clear().env("PATH", path());
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let done = git.output().unwrap();
        assert!(done.status.success(), "git {args:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn kiln(&self, args: &[&str]) -> Command {
        let mut kiln = command(env!("CARGO_BIN_EXE_kiln"));
        kiln.current_dir(self.repo()).args(args).env_clear().env("PATH", path());
        kiln.env("HOME", self.folder.path()).env("KILN_DATA", self.data()).env("USER", "ada");
        kiln.stdin(Stdio::null());
        kiln
    }

    fn run(&self, args: &[&str]) -> Said {
        self.said(self.kiln(args).output().unwrap())
    }

    fn said(&self, output: Output) -> Said {
        let masked = |bytes: &[u8]| mask(&String::from_utf8_lossy(bytes), self.folder.path());
        let (out, error) = (masked(&output.stdout), masked(&output.stderr));
        Said { code: output.status.code(), out, error }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test drives the program from outside")]
fn command(program: &str) -> Command {
    Command::new(program)
}

fn path() -> String {
    std::env::var("PATH").unwrap_or_default()
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.map_or("killed".to_owned(), |code| code.to_string());
        write!(f, "exit {code}\n--- out\n{}--- error\n{}", self.out, self.error)
    }
}

/// Replaces what differs from time to time and from machine to machine: the folder, the machine's
/// name, times, and the spaces that align columns of such width.
fn mask(text: &str, folder: &Path) -> String {
    let real = folder.canonicalize().unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let text = text
        .replace(real.to_str().unwrap(), "FOLDER")
        .replace(folder.to_str().unwrap(), "FOLDER")
        .replace(&format!("`{host}`"), "`HOST`");
    text.split_inclusive('\n').map(mask_line).collect()
}

fn mask_line(line: &str) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let words: Vec<String> =
        line[indent..].split(' ').filter(|w| !w.is_empty()).map(mask_word).collect();
    let text = words.join(" ");
    let text = if text.ends_with('\n') || !line.ends_with('\n') { text } else { text + "\n" };
    let n_ago = |n: &u32| text.contains(&format!(" {n} s ago"));
    let text = match (0..60).find(n_ago) {
        Some(n) => text.replace(&format!(" {n} s ago"), " TIME ago"),
        None => text,
    };
    format!("{}{text}", &line[..indent])
}

/// `1.2s`, `38ms`, a date.
fn mask_word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let number = bare.strip_suffix("ms").or(bare.strip_suffix('s'));
    let time = number.is_some_and(|number| number.parse::<f64>().is_ok());
    let date = bare.len() >= 20 && bare.starts_with("20") && bare.contains('T');
    if time || date { word.replace(bare, "TIME") } else { word.to_owned() }
}

const THREE: &str = "\
jobs:
  build: { steps: [\"echo building\"] }
  test: { needs: build, steps: [\"echo testing; printf 'no newline'; exit 3\"] }
  publish: { needs: test, steps: [\"echo never\"] }
";

#[test]
fn outside_a_repository_the_way_out_is_named() {
    let place = Place::bare();
    insta::assert_snapshot!(place.run(&["run"]));
    insta::assert_snapshot!(place.run(&["show", "#1"]));
}

#[test]
fn a_repository_without_a_manifest_is_offered_one() {
    insta::assert_snapshot!(Place::repository().run(&["run"]));
}

#[test]
fn a_manifest_that_is_a_folder_or_missing_is_named() {
    let place = Place::repository();
    fs::create_dir(place.repo().join(".kiln.yml")).unwrap();
    insta::assert_snapshot!(place.run(&["run"]));
    insta::assert_snapshot!(place.run(&["check", "nowhere.yml"]));
}

#[test]
fn the_screens_of_a_run_that_fails() {
    let place = Place::with(THREE);
    insta::assert_snapshot!(place.run(&[]));
    insta::assert_snapshot!(place.run(&["run"]));
    insta::assert_snapshot!(place.run(&["runs"]));
    insta::assert_snapshot!(place.run(&["show", "#1"]));
    insta::assert_snapshot!(place.run(&["why", "#1/publish"]));
    insta::assert_snapshot!(place.run(&["logs", "#1"]));
    insta::assert_snapshot!(place.run(&["rerun", "1", "--failed"]));
}

#[test]
fn a_part_of_the_pipeline_is_what_was_named_and_what_it_needs() {
    let place = Place::with(THREE);
    let said = place.run(&["run", "build"]);
    assert_eq!(said.code, Some(0));
    assert!(!said.out.contains("test"), "{said}");
    insta::assert_snapshot!(place.run(&["run", "biuld"]));
}

#[test]
fn a_log_is_given_byte_for_byte() {
    let place = Place::with("jobs: { j: { steps: [\"printf 'a\\\\377\\\\r\\\\nb'\"] } }\n");
    assert_eq!(place.run(&["run"]).code, Some(0));
    let output = place.kiln(&["logs", "#1/j"]).output().unwrap();
    assert_eq!(output.stdout, b"a\xff\r\nb");
}

#[test]
fn json_has_one_event_a_line_and_ends_with_the_result() {
    let place = Place::with(THREE);
    let output = place.kiln(&["run", "--json"]).output().unwrap();
    let events: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let log: String = events
        .iter()
        .filter(|event| event["type"] == "log" && event["job"] == "test")
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    assert_eq!(log, "testing\nno newline");
    let last = events.last().unwrap();
    let shown = (&last["type"], &last["state"], &last["exit_code"]);
    assert_eq!(format!("{shown:?}"), r#"(String("result"), String("failed"), Number(1))"#);
    let state = |job: &str, at: usize| {
        let of = |event: &&serde_json::Value| event["type"] == "job" && event["job"] == job;
        events.iter().filter(of).nth(at).map(|event| event["state"].clone())
    };
    assert_eq!(state("build", 0), Some("running".into()));
    assert_eq!(state("build", 1), Some("success".into()));
    assert_eq!(state("publish", 0), Some("skipped".into()));
}

#[test]
fn a_repository_is_not_changed_by_a_run() {
    let place =
        Place::with("jobs: { j: { steps: [\"echo x > file; rm .kiln.yml; mkdir folder\"] } }\n");
    assert_eq!(place.run(&["run"]).code, Some(0));
    let mut names: Vec<_> =
        fs::read_dir(place.repo()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".git", ".kiln.yml"]);
}

#[test]
fn ctrl_c_cancels_and_exits_with_130() {
    let place = Place::with("jobs: { j: { steps: [\"echo begun; exec sleep 600\"] } }\n");
    let mut kiln = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_line(kiln.stdout.as_mut().unwrap(), "j | begun");
    interrupt(&kiln);
    let said = place.said(kiln.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said}");
    assert!(said.out.contains("cancelled by ada (Ctrl-C)"), "{said}");
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_what_will_not_end() {
    let place = Place::with(
        "jobs: { j: { steps: [\"trap '' TERM; echo begun; while :; do sleep 1; done\"] } }\n",
    );
    let mut kiln = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = kiln.stdout.take().unwrap();
    wait_for_line(&mut out, "j | begun");
    interrupt(&kiln);
    wait_for_line(&mut out, "kiln: cancelling; press Ctrl-C again to leave at once");
    interrupt(&kiln);
    let said = place.said(kiln.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said}");
    let why = place.run(&["why", "#1"]).out;
    assert!(why.contains("cancelled by ada (Ctrl-C)"), "{why}");
}

#[test]
fn a_run_can_be_cancelled_from_another_terminal() {
    let place = Place::with("jobs: { j: { steps: [\"echo begun; exec sleep 600\"] } }\n");
    let mut kiln = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_line(kiln.stdout.as_mut().unwrap(), "j | begun");
    assert_eq!(place.run(&["cancel", "#1"]).out, "#1 is being cancelled\n");
    let said = place.said(kiln.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said}");
    assert!(place.run(&["why", "#1"]).out.contains("cancelled by ada"));
    assert_eq!(place.run(&["cancel", "#1"]).out, "#1 is over already\n");
}

/// Each process queues its own jobs, and two in one repository did not know of each other.
#[test]
fn a_lock_keeps_jobs_of_two_processes_apart() {
    let place =
        Place::with("jobs: { j: { lock: board, steps: [\"echo begun; exec sleep 600\"] } }\n");
    let mut first = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_line(first.stdout.as_mut().unwrap(), "j | begun");
    let second = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    while !place.run(&["why", "#2/j"]).out.contains("was taken") {}
    assert!(!place.run(&["why", "#2/j"]).out.contains("started"));
    assert_eq!(place.run(&["cancel", "#2"]).out, "#2 is being cancelled\n");
    let said = place.said(second.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said}");
    assert!(!said.out.contains("begun"), "{said}");
    interrupt(&first);
    place.said(first.wait_with_output().unwrap());
}

/// The queue is in the memory of the process that runs it; `why` in another terminal said that a job
/// which waits for a lock waits for an agent.
#[test]
fn why_in_another_terminal_names_the_lock() {
    let place = Place::with(
        "jobs:\n  a: { lock: board, steps: [\"echo begun; exec sleep 600\"] }\n  \
         b: { lock: board, steps: [\"true\"] }\n",
    );
    let mut kiln = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_line(kiln.stdout.as_mut().unwrap(), "a | begun");
    let why = place.run(&["why", "#1/b"]).out;
    assert!(why.contains("waits for the lock `board`, held by `a`"), "{why}");
    interrupt(&kiln);
    place.said(kiln.wait_with_output().unwrap());
}

/// Attempts of a killed process filled the data folder for ever.
#[test]
fn what_a_killed_process_left_is_removed() {
    let place = Place::with("jobs: { j: { steps: [\"echo begun; exec sleep 600\"] } }\n");
    let mut kiln = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_line(kiln.stdout.as_mut().unwrap(), "j | begun");
    kiln.kill().unwrap();
    kiln.wait().unwrap();
    place.run(&["runs"]);
    let attempts = place.data().join("local/layers/attempts");
    assert_eq!(std::fs::read_dir(attempts).unwrap().count(), 0);
}

/// A job that commits did so in the person's repository, where `.git` leads out of the tree.
#[test]
fn a_job_in_a_linked_tree_leaves_the_repository_alone() {
    let place = Place::with(
        "jobs: { j: { steps: [\"echo x > new; git add new; git -c user.name=J -c user.email=j@x \
         commit -qm of-the-job; git tag of-the-job; git log --format=%s\"] } }\n",
    );
    place.git(&["add", "--all"]);
    place.git(&["commit", "--quiet", "--message", "first"]);
    let linked = place.data().with_file_name("linked");
    place.git(&["worktree", "add", "--quiet", linked.to_str().unwrap()]);
    let said = place.run(&["run", "-C", linked.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said}");
    assert!(said.out.contains("j | of-the-job\nj | first\n"), "{said}");
    let refs = place.git(&["for-each-ref", "--format=%(refname:short) %(contents:subject)"]);
    assert_eq!(refs, "linked first\nmain first\n");
    assert!(!linked.join("new").exists());
}

#[test]
fn a_run_whose_process_was_killed_is_lost_and_says_so() {
    let place = Place::with("jobs: { j: { steps: [\"echo begun; exec sleep 600\"] } }\n");
    let mut kiln = place.kiln(&["run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_line(kiln.stdout.as_mut().unwrap(), "j | begun");
    kiln.kill().unwrap();
    kiln.wait().unwrap();
    insta::assert_snapshot!(place.run(&["runs"]));
    let why = place.run(&["why", "#1/j"]).out;
    assert!(why.contains("lost") && why.contains("the process that ran it is gone"), "{why}");
}

#[test]
fn a_reader_that_goes_away_ends_the_run_in_silence() {
    let place = Place::with("jobs: { j: { steps: [\"yes\"] } }\n");
    let mut kiln =
        place.kiln(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_line(kiln.stdout.as_mut().unwrap(), "j | y");
    drop(kiln.stdout.take());
    let said = place.said(kiln.wait_with_output().unwrap());
    assert_eq!((said.code, said.error.as_str()), (Some(141), ""));
}

#[test]
fn secrets_come_from_the_environment_and_are_masked() {
    let place = Place::with("jobs: { j: { secrets: [TOKEN], steps: [\"echo it is $TOKEN\"] } }\n");
    let given = place.kiln(&["run", "--secret", "TOKEN=OTHER"]).env("OTHER", "hunter2").output();
    let said = place.said(given.unwrap());
    assert_eq!(said.code, Some(0), "{said}");
    assert!(said.out.contains("j | it is ***"), "{said}");
    insta::assert_snapshot!(place.run(&["run", "--secret", "TOKEN"]));
}

#[test]
fn what_was_typed_wrong_is_said() {
    let place = Place::repository();
    insta::assert_snapshot!(place.run(&["rnu"]));
    insta::assert_snapshot!(place.run(&["show", "x"]));
    insta::assert_snapshot!(place.run(&["run", "-i", "x"]));
    insta::assert_snapshot!(place.run(&["runs", "--server", "http://127.0.0.1:1"]));
    insta::assert_snapshot!(place.run(&["runs", "--data", "nowhere"]));
    insta::assert_snapshot!(place.run(&["serve", "--listen", "0.0.0.0:0"]));
}

#[test]
fn every_command_has_help_with_examples() {
    let place = Place::bare();
    let help = place.run(&["--help"]).out;
    insta::assert_snapshot!(help);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(names.contains(&"run") && names.len() > 15, "{names:?}");
    for name in names {
        let below: &[&str] = match name {
            "project" => &["add", "ls", "rm", "hook"],
            "secret" => &["set", "ls", "rm"],
            "workspace" => &["pack", "unpack"],
            "image" => &["pull", "ls", "rm"],
            _ => &[""],
        };
        for below in below {
            let args: Vec<&str> =
                [name, below, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
            let said = place.run(&args);
            assert!(said.code == Some(0) && said.out.contains("Examples:"), "{args:?}: {said}");
        }
    }
}

/// Reads until a line is there.
fn wait_for_line(from: &mut impl std::io::Read, line: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
        if byte[0] == b'\n' {
            if String::from_utf8_lossy(&seen).trim_end() == line {
                return;
            }
            seen.clear();
        }
    }
    panic!("the output ended without the line `{line}`");
}

fn interrupt(kiln: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(kiln);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
