//! The process at the root of a session: owns its namespace, its log and its descendants.
//!
//! Single-threaded, and asleep in `poll` unless something happened: a word from the owner, output in
//! the pipe, a child's end, a deadline.
//!
//! ```text
//!   Owned ──owner gone──▶ Orphaned ──new owner──▶ Owned
//!     │                      │
//!   Close          time is up, or `orphan_for` is zero
//!     └──────────┬───────────┘
//!                ▼
//!   everything is killed, the log synced, the workspace unmounted; the process ends
//! ```
//!
//! After `Rest` everything is killed too, but the mount stays and the process waits, as long as its
//! owner lives, for another job that starts on the same layers. Only a mount table that nobody has
//! touched is handed on.
//!
//! Always: one pipe for all steps, of which init itself holds the writing end, so that a process
//! left in the background neither ends nor blocks the reading; a step's result is told only when all
//! that it wrote before its end is in the log.

mod collect;
mod descendants;
mod log;
mod meter;
mod setup;
mod users;
mod step;
mod remount;
mod rest;
mod lost;
mod visit;
mod guest;
mod far;
mod orphan;

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use kiln_stdx::{Clock, SystemClock};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::Pid;

pub use self::collect::keep_file;
use self::guest::Guests;
use self::log::Log;
use self::meter::{Gauge, Meter};
pub(in crate::host) use self::setup::Failed;
pub(super) use self::setup::{Users, enter_namespace};
use self::visit::Visit;
use super::attach;
use super::bound::Bounds;
use super::container::{Container, Looks, Private};
use super::network::{self, Network};
use super::ssh::Far;
use super::wire::{Ask, DESCRIPTORS_MAX, Inbox, Opening, State, Tell, encode};
use super::{cgroup, probe, sys};
use crate::{StepCommand, StepDone, StepError};

/// How long everything has to go at the end of a session, at most: nobody waits for its result.
const CLOSE_GRACE_MAX: Duration = Duration::from_secs(2);

/// How long a session in which nothing has run waits for a new owner. Its loss costs no work, and a
/// session that was just being made when its owner died may be one that no new owner looks for.
const UNBEGUN_FOR: Duration = Duration::from_secs(10);

/// How long killed processes may take to vanish. Only a process that hangs in the kernel (a dead
/// network file system) or that may not be killed (set-uid) takes longer.
const KILL_FOR: Duration = Duration::from_secs(10);

/// Between two words about the log's growth, unless nothing has grown for as long: people see no
/// difference, and a chatty step does not wake its owner for every line.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(10);

struct Init {
    spec: Opening,
    control: Option<UnixStream>,
    inbox: Inbox,
    /// Where a new owner comes in. Only with `orphan_for`.
    door: Option<UnixListener>,
    signals: OwnedFd,
    null: OwnedFd,
    /// Reading end, writing end.
    output: (OwnedFd, OwnedFd),
    log: Log,
    announced: Announced,
    running: Option<Running>,
    done: Vec<StepDone>,
    visit: Option<Visit>,
    guests: Guests,
    /// The command of the step that began last.
    latest: Option<StepCommand>,
    /// When an orphan's time is up.
    orphan_until: Option<Duration>,
    /// Tells an orphan that its door was removed. Only while there is no owner.
    deserted: Option<OwnedFd>,
    /// The mount table of its own namespace, to be asked whether it has changed.
    mounts: Option<OwnedFd>,
    /// Which mount the workspace is, where the kernel tells.
    mounted: Option<u64>,
    /// Where the steps run, when that is not the machine itself.
    container: Option<Container>,
    /// What that looked like before the first step; `None` when it can serve one job only.
    looks: Option<Looks>,
    /// It was a daemon's, and is no more.
    is_lost: bool,
    network: Network,
    /// The machine where the steps run, when that is not this one.
    far: Option<Far>,
    /// What a sandbox writes besides the workspace.
    private: Option<Private>,
    /// How much the steps may use.
    bounds: Bounds,
    gauge: Gauge,
    /// Between two jobs.
    resting: bool,
}

struct Running {
    counter: u32,
    child: Pid,
    timeout: Option<Duration>,
    /// On the monotonic clock.
    deadline: Option<Duration>,
    ended: Option<ExitStatus>,
    meter: Meter,
}

/// What the owner knows of the log.
#[derive(Default)]
struct Announced {
    n_bytes: u64,
    /// The owner has not heard the last word yet: say nothing more.
    unheard: bool,
    /// Not before this moment.
    next_at: Duration,
}

enum Flow {
    GoOn,
    End,
}

/// Serves one session (or one probe) on `control`. Gives the process's exit code.
pub(super) fn run(control: UnixStream) -> i32 {
    sys::heed_children();
    match serve(control) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn serve(mut control: UnixStream) -> io::Result<()> {
    let mut inbox = Inbox::default();
    let first = loop {
        match inbox.next::<Ask>() {
            Ok(Some(first)) => break first,
            Ok(None) => {}
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        if receive(&mut control, &mut inbox)? == 0 {
            return Ok(());
        }
    };
    match first {
        Ask::Open(spec) => {
            let attempt_dir = spec.attempt_dir.clone();
            match Init::open(*spec, inbox, &control) {
                Ok(mut init) => {
                    init.control = Some(control);
                    init.tell(&Tell::Opened);
                    init.live();
                    Ok(())
                }
                Err(Failed(refusal)) => {
                    cgroup::reap(&attempt_dir);
                    attach::remove_traces(&attempt_dir);
                    control.write_all(&encode(&Tell::Refused(refusal)))
                }
            }
        }
        Ask::Probe { folder } => {
            let answer = probe::overlay_in(&folder);
            control.write_all(&encode(&Tell::Probed(answer)))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(super) fn receive(from: &mut UnixStream, inbox: &mut Inbox) -> io::Result<usize> {
    let mut bytes = [0; 16 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let n = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&*from, &mut into, &mut attached, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    inbox.bytes.extend_from_slice(&bytes[..n]);
    bytes.fill(0);
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            inbox.descriptors.extend(received);
        }
    }
    Ok(n)
}

fn now() -> Duration {
    SystemClock.monotonic()
}

impl Init {
    fn live(&mut self) {
        loop {
            let ready = self.wait(self.next_deadline());
            if ready.output {
                self.take_output();
            }
            if ready.signals {
                self.reap();
            }
            if ready.far {
                self.hear_far();
            }
            if ready.lost {
                self.lose_container();
            }
            self.heed_log_trouble();
            if ready.control
                && let Flow::End = self.listen()
            {
                return;
            }
            if ready.door {
                self.let_in();
            }
            if ready.guests.contains(&true) {
                self.heed_guests(&ready.guests);
            }
            if ready.host_gone || ready.deserted && self.is_deserted() {
                self.spec.grace = Duration::ZERO;
                let closed = self.close();
                self.tell(&Tell::Closed(closed));
                return;
            }
            if let Flow::End = self.keep_time() {
                return;
            }
            self.announce();
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let step = self.running.as_ref().and_then(|running| running.deadline);
        let growth = (self.control.is_some()
            && !self.announced.unheard
            && self.log.n_bytes() > self.announced.n_bytes)
            .then_some(self.announced.next_at);
        [step, growth, self.orphan_until].into_iter().flatten().min()
    }

    /// Sleeps until something is ready or `until` has come.
    fn wait(&self, until: Option<Duration>) -> Ready {
        let timeout = until.map(|until| timespec(until.saturating_sub(now())));
        let mut fds = vec![
            PollFd::new(&self.output.0, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        let control_at = self.control.as_ref().map(|control| {
            fds.push(PollFd::new(control, PollFlags::IN));
            fds.len() - 1
        });
        let door_at = self.door.as_ref().filter(|_| !self.resting).map(|door| {
            fds.push(PollFd::new(door, PollFlags::IN));
            fds.len() - 1
        });
        let host_at = self.network.host().map(|host| {
            fds.push(PollFd::new(host, PollFlags::IN));
            fds.len() - 1
        });
        let far_at = self.far_line().map(|line| {
            fds.push(PollFd::new(line, PollFlags::IN));
            fds.len() - 1
        });
        let deserted_at = self.deserted.as_ref().map(|deserted| {
            fds.push(PollFd::new(deserted, PollFlags::IN));
            fds.len() - 1
        });
        let lost_at = self.containers_end().map(|end| {
            fds.push(PollFd::new(end, PollFlags::IN));
            fds.len() - 1
        });
        let guests_at = fds.len();
        if !self.resting {
            fds.extend(
                self.guests.lines().map(|line| PollFd::from_borrowed_fd(line, PollFlags::IN)),
            );
        }
        // Every signal is blocked, so nothing interrupts; an error leaves no event, and the loop
        // comes round again.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
        let at = |at: usize| !fds[at].revents().is_empty();
        Ready {
            output: at(0),
            signals: at(1),
            control: control_at.is_some_and(at),
            door: door_at.is_some_and(at),
            host_gone: host_at.is_some_and(at),
            far: far_at.is_some_and(at),
            lost: lost_at.is_some_and(at),
            deserted: deserted_at.is_some_and(at),
            guests: (guests_at..fds.len()).map(at).collect(),
        }
    }

    /// Reads once from the pipe into the log.
    fn take_output(&mut self) -> usize {
        self.log.take(self.output.0.as_fd())
    }

    /// Writes to the log all that is in the pipe now. What comes meanwhile may wait: a process in the
    /// background could go on for ever.
    fn drain(&mut self) {
        let mut left = rustix::io::ioctl_fionread(&self.output.0).unwrap_or(0);
        while left > 0 {
            match self.take_output() {
                0 => break,
                n => left = left.saturating_sub(n as u64),
            }
        }
        self.log.flush();
    }

    /// Takes note of every child that has ended. Says whether any is left.
    fn reap(&mut self) -> bool {
        let mut siginfo = [0; 128];
        while rustix::io::read(&self.signals, &mut siginfo[..]).is_ok() {}
        loop {
            match sys::next_ended() {
                Ok(Some(child)) => self.heed(&child),
                // The stage of a container and the keeper of a network are no processes of the job.
                Ok(None) => {
                    let all_are_jobs = self.container.is_none()
                        && !self.network.has_keeper()
                        && self.far.is_none();
                    return all_are_jobs || !self.descendants().is_empty();
                }
                // In a daemon's container, who has lost its parent is no child of ours.
                Err(_) => return self.containers_end().is_some() && !self.descendants().is_empty(),
            }
        }
    }

    fn heed(&mut self, child: &sys::Ended) {
        if let Some(remark) = self.network.heed(child.pid) {
            // Between two jobs there is no log.
            if !self.resting {
                self.log.say(remark);
            }
            return;
        }
        if self.guests.heed(child) {
            return;
        }
        if self.visit.as_mut().is_some_and(|visit| visit.heed(child.pid, child.status)) {
            return;
        }
        if let Some(running) = &mut self.running {
            running.meter.add(&child.used);
            if running.child == child.pid {
                running.ended = Some(child.status);
            }
        }
    }

    /// Does what the owner asks.
    fn listen(&mut self) -> Flow {
        let Some(control) = &mut self.control else { return Flow::GoOn };
        // An owner that died with unheard words leaves a reset connection: gone as well.
        let n_bytes = receive(control, &mut self.inbox).unwrap_or(0);
        loop {
            match self.inbox.next::<Ask>() {
                Ok(Some(ask)) => {
                    if let Flow::End = self.answer(ask) {
                        return Flow::End;
                    }
                }
                Ok(None) if n_bytes > 0 => return Flow::GoOn,
                Ok(None) | Err(_) => return self.lose_owner(),
            }
        }
    }

    fn answer(&mut self, ask: Ask) -> Flow {
        match ask {
            Ask::Step(command) => self.begin(command),
            Ask::Cancel => self.cancel(),
            Ask::Visit { command, on } => self.begin_visit(&command, on),
            Ask::Signal { number } => self.signal_visit(number),
            Ask::Seen => self.announced.unheard = false,
            Ask::Say { line } => {
                self.drain();
                self.log.say(&line);
            }
            Ask::Listening => self.tell(&Tell::Listening(network::listening())),
            Ask::Attach => {
                let state = Tell::State(State {
                    done: self.done.clone(),
                    running: self.running.as_ref().map(|running| running.counter),
                    n_log_bytes: self.log.n_bytes(),
                    mount: self.spec.mount.clone(),
                });
                self.announced = Announced { n_bytes: self.log.n_bytes(), ..Announced::default() };
                self.tell(&state);
            }
            Ask::Collect { rules, objects } => {
                let collected = self
                    .bring_back()
                    .and_then(|()| collect::collect(&self.spec.directory, &rules, &objects));
                self.tell(&Tell::Collected(collected));
            }
            Ask::Remount(mount) => {
                let remounted = self.remount(mount.map(|mount| *mount));
                self.tell(&Tell::Remounted(remounted));
            }
            Ask::Close => {
                let closed = self.close();
                self.tell(&Tell::Closed(closed));
                return Flow::End;
            }
            Ask::Rest => return self.rest(),
            Ask::Open(spec) if self.resting => return self.renew(*spec),
            // Only ever a first word.
            Ask::Open(_) | Ask::Probe { .. } | Ask::Join { .. } => return self.lose_owner(),
        }
        Flow::GoOn
    }

    fn keep_time(&mut self) -> Flow {
        if self.running.as_ref().is_some_and(|running| running.ended.is_some()) {
            self.finish_step();
        }
        self.finish_visit();
        let now = now();
        if self.running.as_ref().and_then(|running| running.deadline).is_some_and(|at| at <= now) {
            self.time_out();
        }
        if self.orphan_until.is_some_and(|until| until <= now) {
            let _ = self.close();
            return Flow::End;
        }
        Flow::GoOn
    }

    /// Tells the owner how far the log has come, if it should hear that now.
    fn announce(&mut self) {
        let n_bytes = self.log.n_bytes();
        let now = now();
        let quiet = self.announced.unheard || now < self.announced.next_at;
        if n_bytes > self.announced.n_bytes && !quiet && self.control.is_some() {
            self.announced = Announced { n_bytes, unheard: true, next_at: now + ANNOUNCE_EVERY };
            self.tell(&Tell::Log { n_bytes });
        }
    }

    /// Says something to the owner. That it is gone is heard when it is next listened to.
    fn tell(&mut self, message: &Tell) {
        if let Some(control) = &mut self.control {
            let _ = control.write_all(&encode(message));
        }
    }

    /// Keeps the results on disk, for when this process too is gone before they are asked for.
    fn write_results(&self) {
        let path = self.spec.attempt_dir.join(attach::RESULTS);
        if let Ok(text) = serde_json::to_vec(&self.done) {
            let _ = kiln_stdx::fs::write_atomic(&path, &text);
        }
    }

    /// Kills everything, syncs the log, unmounts.
    fn close(&mut self) -> Result<(), StepError> {
        let ended = self.end_job();
        let left = self.leave();
        ended.and(left)
    }

    /// No process of the job is left, and its log is whole.
    fn end_job(&mut self) -> Result<(), StepError> {
        self.dismiss_guests();
        let killed = self.quell(self.spec.grace.min(CLOSE_GRACE_MAX));
        self.running = None;
        self.visit = None;
        // Nobody waits for the files of a session whose owner is gone.
        let brought = if self.control.is_some() { self.bring_back() } else { Ok(()) };
        self.drain();
        // What was lost after the last step has had no other occasion to be told.
        let synced = self.log.sync().and(self.log.trouble().cloned().map_or(Ok(()), Err));
        killed.and(synced).and(brought)
    }

    fn leave(&mut self) -> Result<(), StepError> {
        if let Some(container) = &mut self.container {
            container.end();
        }
        if let Some(far) = &self.far {
            far.end();
        }
        self.network.end();
        if let Some(private) = &self.private {
            private.remove();
        }
        self.bounds.end();
        cgroup::reap(&self.spec.attempt_dir);
        let unmounted = self.unmount();
        if self.spec.users.is_some() {
            users::bring_home(&self.spec.attempt_dir);
        }
        attach::remove_traces(&self.spec.attempt_dir);
        unmounted
    }

    fn unmount(&self) -> Result<(), StepError> {
        // The last one first: it may lie in one before it.
        let mounts = self.spec.mount.iter().chain(&self.spec.further).rev();
        let mut done = Ok(());
        for mount in mounts {
            let unmounted = kiln_stdx::overlay::unmount(&mount.at).map_err(|cause| {
                let why = crate::contract::words(&cause);
                StepError::Close(format!("cannot unmount `{}`: {why}", mount.at.display()))
            });
            done = done.and(unmounted);
        }
        done
    }
}

struct Ready {
    output: bool,
    signals: bool,
    control: bool,
    door: bool,
    /// The session whose network this one shares has ended.
    host_gone: bool,
    far: bool,
    /// The container is gone.
    lost: bool,
    /// Something in the attempt's folder was removed.
    deserted: bool,
    /// In the order of their lines.
    guests: Vec<bool>,
}

pub(super) fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

/// A folder to run in or to look below, without reading it.
pub(super) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
