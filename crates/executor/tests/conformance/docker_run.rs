//! Plain `docker run`, asked by the table: what proves that the table asks for what is right.
//!
//! A session is a container that sleeps, a step is a `docker exec` in it, by Docker's own command line. What
//! it is told it passes on, and what it hears it gives back; nothing of kiln's executors has a part in it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kiln_executor::{
    Attached, Executor, LogPosition, OpenError, Session, SessionSpec, StepCommand, StepDone,
    StepError, Streams,
};
use kiln_model::artifact::Artifact;
use kiln_model::plan::ArtifactRule;
use kiln_model::{AttemptId, Exit};
use tokio::sync::{mpsc, watch};

use crate::bench::{Bench, Case, Subject, without};
use crate::cases;
use crate::dockerd::{Dockerd, IMAGE};
use crate::{docker, suite, visit};

/// What is not asked of it, with the reason.
const NOT_ASKED: &[(&str, &str)] = &[
    ("the_environment_is_exact", "Docker adds HOSTNAME"),
    ("a_visitor_sees_what_a_step_sees", "Docker adds HOSTNAME"),
    ("a_signal_is_not_an_exit_code", "Docker tells 128 and the number"),
    ("a_visit_ends_as_its_command_does", "Docker tells 128 and the number"),
    ("a_terminal_that_goes_away_ends_its_command", "Docker tells 128 and the number"),
    ("signals_are_passed_on", "`docker exec` keeps signals to itself"),
    ("a_visit_whose_caller_left_is_ended_by_the_next", "`docker exec` leaves what it started"),
    ("nothing_else_is_inherited", "runc leaves signal 32 ignored"),
    ("a_missing_command_ends_with_127_and_is_named", "of an exec it says 126; see below for a run"),
    ("a_command_that_may_not_run_ends_with_126", "of a missing interpreter it says 1, a shell 126"),
    ("a_step_whose_caller_left_is_cancelled_by_the_next", "`docker exec` leaves what it started"),
    ("a_terminal_has_the_size_that_it_is_given", "its command line looks at its own terminal"),
    ("a_directory_that_is_not_there_is_kilns_error", "Docker makes the folder, or says 126 or 127"),
    ("a_script_without_a_first_line_is_run_by_sh", "Docker says `exec format error`, as exec does"),
    ("an_impossible_command_is_kilns_error", "the words are kiln's"),
    ("a_command_that_is_not_there_is_named_to_its_caller", "the words are kiln's"),
    ("output_and_errors_are_interleaved_as_written", "Docker carries them in two streams"),
    ("a_silent_step_makes_no_log", "the log is kiln's"),
    ("the_index_finds_lines", "the log is kiln's"),
    ("the_first_bytes_are_announced_at_once", "the log is kiln's"),
    ("a_full_log_says_so_once_and_the_step_goes_on", "the log is kiln's"),
    ("secrets_are_masked_also_when_written_in_pieces", "the log is kiln's"),
    ("a_message_of_kiln_is_masked_too", "the log is kiln's"),
    ("background_processes_outlive_the_step_and_are_heard", "Docker hears them while it waits"),
    ("a_busy_background_process_does_not_hold_the_step", "Docker waits for who has its pipe"),
];

/// Those that it is asked. Not of owners, artifacts and accounts: it has none of them.
pub fn cases() -> Vec<Case<DockerRun>> {
    let mut cases = suite::cases_of_steps();
    cases.extend(visit::cases());
    let mut cases = without(cases, NOT_ASKED);
    cases.extend(cases![what_cannot_run_is_told_by_the_codes_of_shells]);
    cases
}

/// What `docker exec` tells otherwise, `docker run` tells as the table has it.
async fn what_cannot_run_is_told_by_the_codes_of_shells(bench: Bench<DockerRun>) {
    std::fs::write(bench.path("work/plain"), "text").unwrap();
    let work = format!("{}:/work", bench.path("work").display());
    for (program, code) in
        [("no-such-program", 127), ("/no/such/program", 127), ("/work/plain", 126)]
    {
        let mut run = bench.executor.docker();
        run.args(["run", "--rm", "--network", "none", "--volume", &work, IMAGE, program]);
        let ended = run.stderr(Stdio::null()).status().unwrap();
        assert_eq!(ended.code(), Some(code), "{program}");
    }
}

#[derive(Clone, Default)]
pub struct DockerRun {
    daemon: Arc<OnceLock<Arc<Dockerd>>>,
}

impl DockerRun {
    fn docker(&self) -> Command {
        self.daemon.get().expect("it was begun").docker()
    }
}

impl Subject for DockerRun {
    fn begin(&self) {
        self.daemon.get_or_init(docker::shared);
    }

    fn words(&self) -> Vec<String> {
        Vec::new()
    }

    fn meters(&self) -> bool {
        false
    }

    fn speaks(&self) -> bool {
        false
    }
}

impl Executor for DockerRun {
    type Session = Container;

    async fn open(&self, spec: SessionSpec) -> Result<Container, OpenError> {
        let folder = spec.directory.parent().expect("it is in the bench's folder").to_owned();
        let mut run = self.docker();
        run.args(["run", "--detach", "--network", "none"]);
        for program in ["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(Path::new) {
            if program.exists() {
                run.arg("--volume").arg(format!("{0}:{0}:ro", program.display()));
            }
        }
        run.arg("--volume").arg(format!("{0}:{0}", folder.display()));
        for (name, value) in &spec.env {
            run.arg("--env").arg(format!("{name}={value}"));
        }
        if let Some(pids) = spec.limits.pids {
            run.arg("--pids-limit").arg(pids.to_string());
        }
        // Process 1, whom no signal from within can end, and who buries the others.
        run.arg(IMAGE).args(["/bin/sh", "-c", "while :; do sleep 1000; done"]);
        let said = run.stderr(Stdio::piped()).output().expect("docker runs");
        if !said.status.success() {
            return Err(OpenError::Other(String::from_utf8_lossy(&said.stderr).into_owned()));
        }
        let name = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        Ok(Container { docker: self.clone(), name, spec, closed: false })
    }

    async fn attach(&self, _: &Path) -> Result<Option<Attached<Container>>, OpenError> {
        Ok(None)
    }

    fn reap(&self, _: AttemptId, _: &Path) {}
}

pub struct Container {
    docker: DockerRun,
    name: String,
    spec: SessionSpec,
    closed: bool,
}

impl Container {
    fn exec(&self, options: &[&str], command: &StepCommand) -> Command {
        let mut exec = self.docker.docker();
        exec.arg("exec").args(options);
        let directory = command.directory.as_deref().unwrap_or(".");
        exec.arg("--workdir").arg(self.spec.directory.join(directory));
        for (name, value) in &command.env {
            exec.arg("--env").arg(format!("{name}={value}"));
        }
        exec.arg(&self.name).args(&command.argv);
        exec
    }

    /// To all in the container but process 1.
    fn kill(&self, signal: &str) {
        let kill = ["exec", &self.name, "/bin/sh", "-c", "kill -$1 -1", "sh", signal];
        let _ = self.docker.docker().args(kill).stderr(Stdio::null()).status();
    }

    async fn wait(
        &self,
        exec: Command,
        timeout: Option<Duration>,
        mut cancel: watch::Receiver<bool>,
    ) -> Result<Exit, StepError> {
        let mut exec = tokio::process::Command::from(exec);
        let mut child = exec.spawn().map_err(|cause| StepError::Spawn(cause.to_string()))?;
        let cancelled = async {
            if cancel.wait_for(|asked| *asked).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let in_time = tokio::time::timeout(timeout.unwrap_or(Duration::MAX), async {
            tokio::select! {
                ended = child.wait() => Some(ended),
                () = cancelled => None,
            }
        });
        let exit = match in_time.await {
            Ok(Some(ended)) => {
                let code = ended.expect("it is our child").code();
                return Ok(Exit::Code { code: u8::try_from(code.unwrap_or(255)).unwrap() });
            }
            Ok(None) => Exit::Cancelled,
            Err(_) => {
                let after = timeout.unwrap_or_default().as_millis();
                Exit::TimedOut { after_ms: u64::try_from(after).unwrap() }
            }
        };
        self.kill("TERM");
        if tokio::time::timeout(self.spec.grace, child.wait()).await.is_err() {
            self.kill("KILL");
            let _ = child.wait().await;
        }
        self.kill("KILL");
        Ok(exit)
    }
}

impl Session for Container {
    async fn step(
        &mut self,
        command: StepCommand,
        cancel: watch::Receiver<bool>,
    ) -> Result<Exit, StepError> {
        if self.closed {
            return Err(StepError::Closed);
        }
        if *cancel.borrow() {
            return Ok(Exit::Cancelled);
        }
        let mut exec = self.exec(&[], &command);
        let log = File::options().append(true).create(true).open(&self.spec.log).unwrap();
        exec.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.wait(exec, command.timeout, cancel).await
    }

    async fn resume(&mut self, _: watch::Receiver<bool>) -> Result<Option<StepDone>, StepError> {
        Ok(None)
    }

    fn log(&self) -> watch::Receiver<LogPosition> {
        watch::Sender::default().subscribe()
    }

    async fn visit(
        &mut self,
        command: StepCommand,
        streams: Streams,
        _: &mut mpsc::UnboundedReceiver<i32>,
    ) -> Result<Exit, StepError> {
        if self.closed {
            return Err(StepError::Closed);
        }
        let exec = match streams {
            Streams::Terminal(end) => {
                let mut exec = self.exec(&["--interactive", "--tty"], &command);
                let both = [end.try_clone().unwrap(), end.try_clone().unwrap()];
                let [out, error] = both.map(Stdio::from);
                exec.stdin(end).stdout(out).stderr(error);
                exec
            }
            Streams::Plain([stdin, stdout, stderr]) => {
                let mut exec = self.exec(&["--interactive"], &command);
                exec.stdin(stdin).stdout(stdout).stderr(stderr);
                exec
            }
        };
        self.wait(exec, None, watch::channel(false).1).await
    }

    async fn collect(
        &mut self,
        _: Vec<ArtifactRule>,
        _: PathBuf,
    ) -> Result<Vec<Artifact>, StepError> {
        match self.closed {
            true => Err(StepError::Closed),
            false => Ok(Vec::new()),
        }
    }

    async fn remount(&mut self, _: Option<kiln_stdx::overlay::Mount>) -> Result<bool, StepError> {
        Ok(false)
    }

    async fn close(&mut self) -> Result<(), StepError> {
        if !std::mem::replace(&mut self.closed, true) {
            let mut remove = self.docker.docker();
            let done = remove.args(["rm", "--force", &self.name]).stdout(Stdio::null()).status();
            assert!(done.is_ok_and(|done| done.success()), "docker rm {}", self.name);
        }
        Ok(())
    }

    async fn rest(&mut self) -> Result<bool, StepError> {
        self.close().await.map(|()| false)
    }

    async fn renew(&mut self, _: SessionSpec) -> Result<(), OpenError> {
        Err(OpenError::Gone)
    }
}
