//! The owner's side of a session: asks over the control socket, and hears.
//!
//! One task per session reads what init says (`talk`), so that the growth of the log is known also between
//! steps, and asking never waits. So every method may be dropped half-way; the next one first cancels what was left running.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kiln_model::artifact::Artifact;
use kiln_model::plan::ArtifactRule;
use kiln_model::{AttemptId, Exit, Usage};
use kiln_stdx::overlay::Mount;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use super::attach;
use super::probe::OverlayKind;
use super::spawner::Spawner;
use super::talk::{Link, Talk, advance};
use super::wire::{Ask, Opening, StreamKind, Tell, encode};
use crate::contract::words;
use crate::{
    Attached, Executor, LogPosition, OpenError, Session, SessionSpec, StepCommand, StepDone,
    StepError, Streams, Voice,
};

/// Runs steps on this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HostExecutor {
    spawner: Arc<Spawner>,
    lines: Arc<Lines>,
}

/// The lines to all sessions that were opened here.
#[derive(Debug, Default)]
struct Lines {
    hurried: AtomicBool,
    open: Mutex<Vec<Weak<Link>>>,
}

impl HostExecutor {
    pub fn new(spawner: Spawner) -> Self {
        Self { spawner: Arc::new(spawner), lines: Arc::default() }
    }

    /// Ends every session at once, now and from now on: whatever runs in them is killed without
    /// grace. What they did is heard as before; whoever asks them for more hears that they are gone.
    ///
    /// Sessions that were opened with `orphan_for` take it as the death of their owner, and live on.
    pub fn hurry(&self) {
        self.lines.hurried.store(true, Ordering::SeqCst);
        let open = std::mem::take(&mut *self.lines.open());
        open.iter().filter_map(Weak::upgrade).for_each(|link| link.say_no_more());
    }

    /// Whether, and how, overlays can be mounted with their layers in `folder`. A fraction of a
    /// second at most; remember the answer.
    ///
    /// # Errors
    ///
    /// Only when nothing could be tried. That overlays cannot be mounted is `Ok(None)`.
    pub async fn probe_overlay(&self, folder: &Path) -> Result<Option<OverlayKind>, OpenError> {
        let mut talk = self.talk(None)?;
        talk.link.ask(&Ask::Probe { folder: folder.to_owned() });
        match talk.hear().await {
            Some(Tell::Probed(answer)) => Ok(answer),
            _ => Err(OpenError::Gone),
        }
    }

    /// A line to a new init.
    fn talk(&self, first: Option<&[u8]>) -> Result<Talk, OpenError> {
        let control =
            self.spawner.new_init().map_err(|cause| OpenError::SpawnerGone(words(&cause)))?;
        let talk = Talk::over(control)?;
        if let Some(first) = first {
            talk.link.send(first);
        }
        self.lines.add(&talk.link);
        Ok(talk)
    }
}

impl Lines {
    fn open(&self) -> MutexGuard<'_, Vec<Weak<Link>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, link: &Arc<Link>) {
        let mut open = self.open();
        open.retain(|link| link.strong_count() > 0);
        open.push(Arc::downgrade(link));
        drop(open);
        // After it was added: who hurries sets this first, and then looks.
        if self.hurried.load(Ordering::SeqCst) {
            link.say_no_more();
        }
    }
}

pub(super) fn is_nobody(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

impl Executor for HostExecutor {
    type Session = HostSession;

    async fn open(&self, spec: SessionSpec) -> Result<HostSession, OpenError> {
        let (attempt, folder) = (spec.attempt, spec.attempt_dir.clone());
        let first = Zeroizing::new(encode(&Ask::Open(Box::new(Opening::from(spec)))));
        let mut talk = self.talk(Some(&first))?;
        match talk.hear_opened().await {
            Ok(()) => Ok(HostSession::over(talk, false)),
            Err(error) => {
                if let OpenError::Gone = error {
                    // Who would have removed what it had made was killed.
                    let reaped =
                        tokio::task::spawn_blocking(move || attach::reap(attempt, &folder));
                    let _ = reaped.await;
                }
                Err(error)
            }
        }
    }

    async fn attach(&self, attempt_dir: &Path) -> Result<Option<Attached<HostSession>>, OpenError> {
        let path = attempt_dir.join(attach::SOCKET);
        let stream = match attach::with_short_path(&path, |short| StdUnixStream::connect(short)) {
            Ok(stream) => stream,
            Err(cause) if is_nobody(&cause) => return Ok(None),
            Err(cause) => {
                let why = words(&cause);
                return Err(OpenError::Other(format!(
                    "cannot reach the session at `{}`: {why}",
                    path.display()
                )));
            }
        };
        let mut talk = Talk::over(stream)?;
        talk.link.ask(&Ask::Attach);
        let state = loop {
            match talk.hear().await {
                Some(Tell::State(state)) => break state,
                // A step that ended before our question was read; the answer has it too.
                Some(_) => {}
                // The session was ending just now.
                None => return Ok(None),
            }
        };
        // Never back: what was said after the state may have been heard by now.
        advance(&talk.position, state.n_log_bytes);
        let session = HostSession::over(talk, state.running.is_some());
        Ok(Some(Attached {
            session,
            steps_done: state.done,
            running: state.running,
            mount: state.mount,
        }))
    }

    fn reap(&self, attempt: AttemptId, attempt_dir: &Path) {
        attach::reap(attempt, attempt_dir);
    }
}

/// A job's session on this machine.
///
/// Dropping it without [`Session::close`] is what the death of the owner is: the session kills
/// everything, or waits for a new owner when it was opened with `orphan_for`.
#[derive(Debug)]
pub struct HostSession {
    talk: Talk,
    /// A step was asked for whose result has not been taken.
    pending: bool,
    /// The step that is pending goes on whatever else is asked.
    serves: bool,
    /// Its result, when it came while something else was awaited.
    over: Option<Result<StepDone, StepError>>,
    /// A visit was asked for whose result has not been taken.
    visited: bool,
    closed: Option<Result<(), StepError>>,
    usage: Option<Usage>,
    /// Waits for another job.
    resting: bool,
}

impl HostSession {
    fn over(talk: Talk, pending: bool) -> Self {
        let (serves, over) = (false, None);
        Self {
            talk,
            pending,
            serves,
            over,
            visited: false,
            closed: None,
            usage: None,
            resting: false,
        }
    }

    async fn hear_closed(&mut self) -> Result<(), StepError> {
        loop {
            match self.talk.hear().await {
                Some(Tell::Closed(closed)) => return closed,
                // A step that was running when its caller went away.
                Some(_) => {}
                None => return Err(StepError::Gone),
            }
        }
    }

    /// What init answers to [`Ask::Rest`]: that it rests, or how it was closed.
    async fn hear_resting(&mut self) -> Result<bool, StepError> {
        loop {
            match self.talk.hear().await {
                Some(Tell::Resting) => return Ok(true),
                Some(Tell::Closed(closed)) => return closed.map(|()| false),
                Some(_) => {}
                None => return Err(StepError::Gone),
            }
        }
    }

    async fn result(&mut self, mut cancel: watch::Receiver<bool>) -> Result<StepDone, StepError> {
        let link = self.talk.link.clone();
        let cancelled = async move {
            // A canceller that is gone cancels nothing any more.
            if cancel.wait_for(|asked| *asked).await.is_ok() {
                link.ask(&Ask::Cancel);
            }
            std::future::pending::<()>().await;
        };
        let heard = match self.over.take() {
            Some(over) => Some(over),
            None => tokio::select! {
                heard = self.talk.hear_step() => heard,
                () = cancelled => unreachable!("it waits for ever"),
            },
        };
        self.pending = false;
        let done = heard.ok_or(StepError::Gone)??;
        self.usage.clone_from(&done.usage);
        Ok(done)
    }

    /// Makes an end of a step whose caller went away.
    async fn settle(&mut self) -> Result<(), StepError> {
        if self.closed.is_some() {
            return Err(StepError::Closed);
        }
        if self.pending && !self.serves {
            self.talk.link.ask(&Ask::Cancel);
            let heard = self.talk.hear_step().await;
            self.pending = false;
            heard.ok_or(StepError::Gone)?.map(drop)?;
        }
        if self.visited {
            self.talk.link.ask(&Ask::Signal { number: Signal::KILL.as_raw() });
            self.hear_visit().await?.map(drop)?;
        }
        Ok(())
    }

    async fn hear_visit(&mut self) -> Result<Result<Exit, StepError>, StepError> {
        loop {
            match self.talk.hear().await {
                Some(Tell::VisitOver(over)) => {
                    self.visited = false;
                    return Ok(over);
                }
                Some(Tell::StepOver(over)) => self.over = Some(over),
                Some(_) => {}
                None => return Err(StepError::Gone),
            }
        }
    }
}

impl Session for HostSession {
    async fn step(
        &mut self,
        command: StepCommand,
        cancel: watch::Receiver<bool>,
    ) -> Result<Exit, StepError> {
        self.settle().await?;
        if *cancel.borrow() {
            return Ok(Exit::Cancelled);
        }
        self.usage = None;
        self.talk.link.ask(&Ask::Step(command));
        self.pending = true;
        self.result(cancel).await.map(|done| done.exit)
    }

    async fn resume(
        &mut self,
        cancel: watch::Receiver<bool>,
    ) -> Result<Option<StepDone>, StepError> {
        if !self.pending {
            return Ok(None);
        }
        self.result(cancel).await.map(Some)
    }

    async fn visit(
        &mut self,
        command: StepCommand,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> Result<Exit, StepError> {
        self.settle().await?;
        let link = self.talk.link.clone();
        let (on, lent) = match &streams {
            Streams::Terminal(end) => (StreamKind::Terminal, std::slice::from_ref(end)),
            Streams::Plain(all) => (StreamKind::Plain, all.as_slice()),
        };
        let lent: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
        self.visited = true;
        link.send_with(&encode(&Ask::Visit { command, on }), &lent)
            .await
            .map_err(|_| StepError::Gone)?;
        // The command has its own by now: who reads from the other side shall hear of its end.
        drop(streams);
        let passed_on = async move {
            while let Some(number) = signals.recv().await {
                link.ask(&Ask::Signal { number });
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            over = self.hear_visit() => over?,
            () = passed_on => unreachable!("it waits for ever"),
        }
    }

    async fn begin(&mut self, command: Option<StepCommand>) -> Result<(), StepError> {
        if let Some(command) = command {
            self.settle().await?;
            self.talk.link.ask(&Ask::Step(command));
            self.pending = true;
        }
        self.serves = true;
        Ok(())
    }

    async fn listening(&mut self) -> Result<BTreeSet<u16>, StepError> {
        self.settle().await?;
        self.talk.link.ask(&Ask::Listening);
        loop {
            match self.talk.hear().await {
                Some(Tell::Listening(ports)) => return ports,
                Some(Tell::StepOver(over)) => self.over = Some(over),
                Some(_) => {}
                None => return Err(StepError::Gone),
            }
        }
    }

    fn voice(&self) -> Voice {
        let link = Arc::downgrade(&self.talk.link);
        Voice::new(move |line| {
            if let Some(link) = link.upgrade() {
                link.ask(&Ask::Say { line });
            }
        })
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.clone()
    }

    fn log(&self) -> watch::Receiver<LogPosition> {
        self.talk.position.subscribe()
    }

    async fn collect(
        &mut self,
        rules: Vec<ArtifactRule>,
        objects: PathBuf,
    ) -> Result<Vec<Artifact>, StepError> {
        self.settle().await?;
        self.talk.link.ask(&Ask::Collect { rules, objects });
        loop {
            match self.talk.hear().await {
                Some(Tell::Collected(collected)) => return collected,
                Some(_) => {}
                None => return Err(StepError::Gone),
            }
        }
    }

    async fn remount(&mut self, mount: Option<Mount>) -> Result<bool, StepError> {
        self.settle().await?;
        self.talk.link.ask(&Ask::Remount(mount.map(Box::new)));
        loop {
            match self.talk.hear().await {
                Some(Tell::Remounted(remounted)) => return remounted,
                Some(_) => {}
                None => return Err(StepError::Gone),
            }
        }
    }

    async fn close(&mut self) -> Result<(), StepError> {
        if let Some(closed) = &self.closed {
            return closed.clone();
        }
        self.talk.link.ask(&Ask::Close);
        let closed = self.hear_closed().await;
        self.closed = Some(closed.clone());
        closed
    }

    async fn rest(&mut self) -> Result<bool, StepError> {
        if let Some(closed) = &self.closed {
            return closed.clone().map(|()| false);
        }
        self.talk.link.ask(&Ask::Rest);
        let ended = self.hear_resting().await;
        self.pending = false;
        self.resting = ended == Ok(true);
        if !self.resting {
            self.closed = Some(ended.clone().map(drop));
        }
        ended
    }

    async fn renew(&mut self, spec: SessionSpec) -> Result<(), OpenError> {
        if self.closed.is_some() || !std::mem::take(&mut self.resting) {
            return Err(OpenError::Gone);
        }
        self.talk.position.send_replace(LogPosition::default());
        let ask = Ask::Open(Box::new(Opening::from(spec)));
        self.talk.link.send(&Zeroizing::new(encode(&ask)));
        let opened = self.talk.hear_opened().await;
        if opened.is_err() {
            self.closed = Some(Err(StepError::Gone));
        }
        opened
    }
}
