//! Services: containers beside a job, for as long as its session is open.
//!
//! ```text
//! job's session ◀──same network── session of `db` ─▶ its command ─▶ ready? ─▶ the job's first step
//!                                            └▶ its log, beside the job's ─▶ the artifact `services/db.log`
//! ```
//!
//! Each is a session of its own, whose only step is the image's command; it joins the network of the job's
//! session, and ends with that one at the latest, whoever was killed. All of a job's services share one
//! network with it, as containers of one Kubernetes pod do, so each is reached by its name and at
//! `localhost`, and two that listen on the same port of all addresses cannot be in one job.
//!
//! Always: no step runs before every service is ready; a service that ends early is said in the job's log;
//! after [`Services::stop`] none is left and every log is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{Assignment, JobSource};
use kiln_executor::{
    Attached, Container, Executor, LogPosition, Reach, Session, SessionNetwork, SessionSpec,
    StepCommand, StepDone, StepError, Streams, Voice,
};
use kiln_image::{Image, Policy};
use kiln_model::artifact::Artifact;
use kiln_model::limit::SERVICE_READY_TIMEOUT;
use kiln_model::plan::Service;
use kiln_model::{ServiceChange, ServiceEnd};
use kiln_stdx::duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::agent::Shared;
use crate::{environment, image, job};

/// Before a service is asked again whether it is ready: first, and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A question that is not answered in this time is asked anew.
const ANSWER_FOR: Duration = Duration::from_secs(30);
/// So much of the end of a log is shown when something went wrong.
const LAST_LINES: usize = 20;
const LAST_BYTES: u64 = 8 << 10;

/// The services of one job that run. Dropped without [`Services::stop`], they are left to a later owner.
pub(crate) struct Services {
    stop: watch::Sender<bool>,
    running: JoinSet<Option<Artifact>>,
}

/// Where what belongs to one service lies.
pub(crate) fn folder(attempt_dir: &Path, name: &str) -> PathBuf {
    attempt_dir.join(kiln_executor::host::BESIDE).join(name)
}

/// The images of a job's services, on this machine.
pub(crate) async fn fetch<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
) -> Result<(), String> {
    for (name, service) in &assignment.job.services {
        let image = job::fetch(shared, assignment, &service.image, Policy::Missing).await;
        image.map_err(|why| format!("service `{name}`: {why}"))?;
    }
    Ok(())
}

impl Services {
    /// Starts what is to run and goes on with what runs since before a restart. `begun`: steps have run,
    /// so a service that is not there has ended, and is not begun anew.
    pub fn start<S: JobSource, E: Executor>(
        shared: &Arc<Shared<S, E>>,
        assignment: &Arc<Assignment>,
        voice: &Voice,
        begun: bool,
    ) -> (Self, Waiting) {
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        let services = &assignment.job.services;
        let (tell, answers) = mpsc::channel(services.len().max(1));
        for (name, service) in services {
            let one = One {
                shared: shared.clone(),
                assignment: assignment.clone(),
                name: name.clone(),
                service: service.clone(),
                voice: voice.clone(),
                begun,
            };
            running.spawn(one.live(tell.clone(), stopped.clone()));
        }
        (Self { stop, running }, Waiting { n_open: services.len(), answers })
    }

    /// Ends them all: TERM, grace, KILL. Gives their logs, under `services/`.
    pub async fn stop(mut self) -> Vec<Artifact> {
        self.stop.send_replace(true);
        let mut logs = Vec::new();
        while let Some(ended) = self.running.join_next().await {
            logs.extend(ended.ok().flatten());
        }
        logs.sort_by(|one, other| one.path.cmp(&other.path));
        logs
    }
}

/// What services say when they are ready, or why they will not be: each once.
type Tell = mpsc::Sender<Result<(), String>>;

/// The services of which that is not known.
pub(crate) struct Waiting {
    n_open: usize,
    answers: mpsc::Receiver<Result<(), String>>,
}

impl Waiting {
    /// Resolves when all are ready, or when the first of them will not be.
    ///
    /// # Errors
    ///
    /// Which one is not, and why. Those that run are then to be stopped all the same.
    pub async fn ready(&mut self) -> Result<(), String> {
        while self.n_open > 0 {
            match self.answers.recv().await {
                Some(answer) => answer?,
                // A task has panicked, and no other is left.
                None => return Err("kiln failed to run a service of the job".to_owned()),
            }
            self.n_open -= 1;
        }
        Ok(())
    }
}

/// One service of one job.
struct One<S, E: Executor> {
    shared: Arc<Shared<S, E>>,
    assignment: Arc<Assignment>,
    name: String,
    service: Service,
    voice: Voice,
    begun: bool,
}

impl<S: JobSource, E: Executor> One<S, E> {
    /// From its start to its end. `None`: it has no log.
    async fn live(self, tell: Tell, mut stop: watch::Receiver<bool>) -> Option<Artifact> {
        self.changed(ServiceChange::Started);
        let (mut session, ready) = match self.open().await {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                self.voice.say(format!("service `{}` has ended", self.name));
                self.changed(ServiceChange::Ended { end: ServiceEnd::Unseen, log_bytes: 0 });
                self.tell(&tell, Ok(()));
                return self.keep_log();
            }
            Err(why) => {
                let message = format!("cannot run: {why}");
                let end = ServiceEnd::Failed { message: message.clone() };
                self.changed(ServiceChange::Ended { end, log_bytes: 0 });
                self.tell(&tell, Err(message));
                return None;
            }
        };
        let mut log = session.log();
        let stopped = async { while !*stop.borrow() && stop.changed().await.is_ok() {} };
        let end = tokio::select! {
            end = self.serve(&mut session, ready, tell) => end,
            () = stopped => ServiceEnd::Stopped,
            () = self.tell_growth(log.clone()) => unreachable!("it never ends"),
        };
        if let Err(error) = session.close().await {
            self.voice.say(format!("service `{}`: {error}", self.name));
        }
        let log_bytes = log.borrow_and_update().n_bytes;
        self.changed(ServiceChange::Ended { end, log_bytes });
        self.shared.source.service_log_grew(self.assignment.lease, &self.name, log_bytes);
        self.keep_log()
    }

    /// Until it ends by itself, or is known not to become ready.
    async fn serve(
        &self,
        session: &mut E::Session,
        ready: Option<Ready>,
        tell: Tell,
    ) -> ServiceEnd {
        let answer = match &ready {
            Some(ready) => self.await_ready(session, ready).await,
            None => Ok(()),
        };
        if let Err(why) = answer {
            self.voice.say(format!("service `{}` {why}{}", self.name, self.last_lines()));
            self.tell(&tell, Err(why.clone()));
            return ServiceEnd::Failed { message: why };
        }
        if ready.is_some() {
            self.changed(ServiceChange::Ready);
        }
        self.tell(&tell, Ok(()));
        drop(tell);
        let end = ended(session).await;
        let (how, last) = (words(&end), self.last_lines());
        self.voice.say(format!("service `{}` has ended early: {how}{last}", self.name));
        match end {
            Ok(Some(done)) => ServiceEnd::Exited { exit: done.exit },
            _ => ServiceEnd::Failed { message: how },
        }
    }

    /// Once; nobody may be waiting any more.
    fn tell(&self, to: &Tell, answer: Result<(), String>) {
        let _ = to.try_send(answer.map_err(|why| format!("service `{}` {why}", self.name)));
    }

    /// Never resolves.
    async fn tell_growth(&self, mut log: watch::Receiver<LogPosition>) {
        while log.changed().await.is_ok() {
            let n_bytes = log.borrow_and_update().n_bytes;
            self.shared.source.service_log_grew(self.assignment.lease, &self.name, n_bytes);
        }
        std::future::pending().await
    }

    /// Nobody fails when that cannot be recorded: the attempt itself is then not the agent's any more.
    fn changed(&self, change: ServiceChange) {
        let _ = self.shared.source.service_changed(self.assignment.lease, &self.name, change);
    }

    /// Its session, in which its command runs, and what is asked to know whether it is ready (nothing:
    /// that is known). `None`: it ran, and has ended.
    async fn open(&self) -> Result<Option<(E::Session, Option<Ready>)>, String> {
        let folder = self.folder();
        match self.shared.executor.attach(&folder).await.map_err(|error| error.to_string())? {
            Some(Attached { mut session, running: Some(_), .. }) => {
                session.begin(None).await.map_err(|error| error.to_string())?;
                let image = if self.begun { None } else { Some(self.image().await?) };
                return Ok(Some((session, image.map(|image| Ready::of(&self.service, &image)))));
            }
            Some(Attached { mut session, .. }) => {
                let _ = session.close().await;
                if self.begun {
                    return Ok(None);
                }
            }
            None if self.begun => return Ok(None),
            None => {}
        }
        let image = self.image().await?;
        let (spec, command) = self.spec(&folder, &image).await?;
        let mut session =
            self.shared.executor.open(spec).await.map_err(|error| error.to_string())?;
        session.begin(Some(command)).await.map_err(|error| error.to_string())?;
        Ok(Some((session, Some(Ready::of(&self.service, &image)))))
    }

    async fn image(&self) -> Result<Image, String> {
        job::fetch(&self.shared, &self.assignment, &self.service.image, Policy::Missing).await
    }

    /// What to open, and what to run in it: the image's own, with the manifest's changes.
    async fn spec(
        &self,
        folder: &Path,
        image: &Image,
    ) -> Result<(SessionSpec, StepCommand), String> {
        let config = &image.config;
        let given = self.service.command.as_ref().unwrap_or(&config.command);
        let argv: Vec<String> = config.entrypoint.iter().chain(given).cloned().collect();
        if argv.is_empty() {
            return Err(format!(
                "`{}` names no command to run: give the service a `command`",
                self.service.image
            ));
        }
        let options = &self.shared.options;
        let (workspaces, stood_on, at) =
            (options.workspaces.clone(), image.clone(), folder.to_owned());
        let prepare = move || {
            // What a start that was cut short has left.
            workspaces.clear(&at).map_err(|error| error.to_string())?;
            kiln_stdx::fs::create_private_dir(&at).map_err(|error| error.to_string())?;
            image::root(&workspaces, &at, &stood_on)
        };
        let root = tokio::task::spawn_blocking(prepare).await.map_err(|e| e.to_string())??;
        let attempt = self.assignment.lease.attempt;
        let of_image: Vec<_> =
            config.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut env = environment::of_machine(&of_image);
        env.extend(self.service.env.clone());
        env.insert("KILN_ATTEMPT".to_owned(), attempt.to_string());
        let directory = if config.directory.is_empty() { "/" } else { &config.directory };
        let container = Container {
            root,
            workspace: directory.into(),
            binds: Vec::new(),
            user: config.user.clone(),
            hostname: self.name.clone(),
            volumes: Vec::new(),
            privileged: false,
        };
        let spec = SessionSpec {
            users: options.workspaces.users(),
            container: Some(container),
            network: SessionNetwork {
                reach: Reach::Of(options.workspaces.attempt_dir(attempt)),
                names: Vec::new(),
            },
            env,
            masked: self.assignment.secrets.values().cloned().collect(),
            log_bytes_max: options.log_bytes_max,
            grace: options.grace,
            stop_signal: config.stop_signal,
            orphan_for: options.orphan_for,
            limits: self.service.limits,
            ..SessionSpec::bare(attempt, folder.to_owned(), folder.to_owned(), self.log())
        };
        Ok((spec, command(argv)))
    }

    /// Asks until the answer is yes, it has ended, or its time is up.
    async fn await_ready(&self, session: &mut E::Session, ready: &Ready) -> Result<(), String> {
        let within = self.service.ready_timeout.unwrap_or(SERVICE_READY_TIMEOUT);
        let said = self.folder().join("ready");
        let asks = async {
            let (mut pause, longest) = ASK_AGAIN;
            loop {
                match tokio::time::timeout(ANSWER_FOR, ready.ask(session, &said)).await {
                    Ok(Ok(true)) => return still_runs(session).await,
                    Ok(Ok(false)) | Err(_) => {}
                    Ok(Err(error)) => {
                        return Err(format!("cannot be asked whether it is ready: {error}"));
                    }
                }
                tokio::select! {
                    end = ended(session) => return Err(format!("has ended before it was ready: {}", words(&end))),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
                }
            }
        };
        match tokio::time::timeout(within, asks).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "is not ready after {}: {}",
                duration::show(within),
                ready.unmet(&last_of(&said, 1))
            )),
        }
    }

    fn folder(&self) -> PathBuf {
        folder(
            &self.shared.options.workspaces.attempt_dir(self.assignment.lease.attempt),
            &self.name,
        )
    }

    /// Beside the job's.
    fn log(&self) -> PathBuf {
        kiln_model::log::of_service(&self.assignment.log, &self.name)
    }

    /// The end of its log, to follow a sentence.
    fn last_lines(&self) -> String {
        let last = last_of(&self.log(), LAST_LINES);
        match last.is_empty() {
            true => "; it has said nothing".to_owned(),
            false => format!("; its last lines:\n  {}", last.replace('\n', "\n  ")),
        }
    }

    fn keep_log(&self) -> Option<Artifact> {
        let log = self.log();
        let (folder, name) = (log.parent()?, log.file_name()?.to_str()?);
        let kept = kiln_executor::host::keep_file(folder, name, &self.assignment.objects);
        let log = kept.ok()?;
        Some(Artifact { path: format!("services/{}.log", self.name), ..log })
    }
}

/// How it is known that a service can be used.
enum Ready {
    /// A command in its container succeeds.
    Command(Vec<String>),
    /// One of the ports that its image names is listened on.
    Listens(Vec<u16>),
    /// It runs.
    Runs,
}

impl Ready {
    fn of(service: &Service, image: &Image) -> Self {
        if let Some(script) = &service.ready {
            let shell = ["sh", "-c", script].map(str::to_owned);
            return Self::Command(shell.to_vec());
        }
        if let Some(health) = &image.config.health {
            return Self::Command(health.argv.clone());
        }
        let tcp = |port: &String| match port.split_once('/') {
            None => port.parse().ok(),
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
        };
        let ports: Vec<u16> = image.config.ports.iter().filter_map(tcp).collect();
        if ports.is_empty() { Self::Runs } else { Self::Listens(ports) }
    }

    /// `said` is where a command's output goes.
    async fn ask(&self, session: &mut impl Session, said: &Path) -> Result<bool, StepError> {
        match self {
            Self::Command(argv) => {
                let file = |cause: std::io::Error| StepError::Other(cause.to_string());
                let null = File::open("/dev/null").map_err(file)?;
                let out = File::create(said).map_err(file)?;
                let errors = out.try_clone().map_err(file)?;
                let streams = Streams::Plain([null.into(), out.into(), errors.into()]);
                let (_keep, mut signals) = mpsc::unbounded_channel();
                let exit = session.visit(command(argv.clone()), streams, &mut signals).await?;
                Ok(exit.is_success())
            }
            Self::Listens(ports) => {
                let listening = session.listening().await?;
                Ok(ports.iter().any(|port| listening.contains(port)))
            }
            Self::Runs => {
                // Whatever is asked is answered after its command was begun, or could not be.
                session.listening().await?;
                Ok(true)
            }
        }
    }

    /// Why it is not, after all.
    fn unmet(&self, said: &str) -> String {
        match self {
            Self::Command(argv) => {
                let asked = argv.last().map(String::as_str).unwrap_or_default();
                let said = if said.is_empty() { "fails without a word" } else { said };
                format!("`{asked}` says: {said}")
            }
            Self::Listens(ports) => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                format!("nothing listens on port {}", ports.join(" or "))
            }
            Self::Runs => "it does not run".to_owned(),
        }
    }
}

fn command(argv: Vec<String>) -> StepCommand {
    StepCommand { argv, env: BTreeMap::new(), directory: None, timeout: None }
}

/// Waits for the end of what a session serves.
async fn ended(session: &mut impl Session) -> Result<Option<StepDone>, StepError> {
    let (_keep, never) = watch::channel(false);
    session.resume(never).await
}

/// Whatever it answered: a service that has ended is not ready.
async fn still_runs(session: &mut impl Session) -> Result<(), String> {
    tokio::select! {
        biased;
        end = ended(session) => Err(format!("has ended before it was ready: {}", words(&end))),
        () = std::future::ready(()) => Ok(()),
    }
}

fn words(end: &Result<Option<StepDone>, StepError>) -> String {
    match end {
        Ok(Some(done)) => done.exit.to_string(),
        Ok(None) => StepError::Gone.to_string(),
        Err(error) => error.to_string(),
    }
}

/// The last lines of a file that may be large.
fn last_of(path: &Path, n_lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n_lines)..].join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_long_log_are_found_without_reading_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let long: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, long).unwrap();
        assert_eq!(last_of(&path, 2), "line 9998\nline 9999");
        assert_eq!(last_of(&folder.path().join("none"), 2), "");
    }
}
