//! Finding and ending every process that a session has started.
//!
//! Init is the subreaper of all of them: whoever loses its parent, by a double fork for example,
//! becomes init's child. So the tree below init is complete, and it is empty when `wait` says that
//! there is no child. Processes that fork while they are being killed are met by going round again:
//! a killed process forks no more, and one round is far quicker than one fork.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::{Init, KILL_FOR, now, sys};
use crate::StepError;

/// How long a round of killing may take effect before the next one.
const ROUND: Duration = Duration::from_millis(5);

impl Init {
    /// Ends every descendant: TERM (or what the step's program wants), up to `grace`, KILL. Output is taken
    /// meanwhile.
    pub(super) fn quell(&mut self, grace: Duration) -> Result<(), StepError> {
        if self.far.is_some() {
            return self.quell_far(grace);
        }
        if !self.reap() {
            return Ok(());
        }
        if !grace.is_zero() {
            self.ask_to_end();
            // A stopped process hears it only when it goes on.
            self.signal_all(Signal::CONT);
            if self.wait_for_all(now() + grace, Patience::WhileAwaited) {
                return Ok(());
            }
        }
        let give_up_at = now() + KILL_FOR;
        while now() < give_up_at {
            self.kill_all();
            if self.wait_for_all(now() + ROUND, Patience::ToTheEnd) {
                return Ok(());
            }
        }
        let left: Vec<String> = self.descendants().iter().map(ToString::to_string).collect();
        Err(StepError::Close(format!("these processes cannot be killed: {}", left.join(", "))))
    }

    fn ask_to_end(&self) {
        let wanted = self.spec.stop_signal.and_then(Signal::from_named_raw);
        match (wanted, &self.running) {
            // Its children are its own to end, as under a container engine.
            (Some(signal), Some(running)) if running.ended.is_none() => {
                let _ = rustix::process::kill_process(running.child, signal);
            }
            _ => self.signal_all(Signal::TERM),
        }
    }

    /// A program that ends its children by itself has ended: those that it has left wait for nothing.
    fn has_left_children(&self) -> bool {
        let ended = self.running.as_ref().is_none_or(|running| running.ended.is_some());
        self.spec.stop_signal.is_some() && ended
    }

    /// Every process of the job, parents before children.
    pub(super) fn descendants(&self) -> Vec<i32> {
        if self.far.is_some() {
            // What is here is kiln's own.
            return Vec::new();
        }
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let mut found = all(me, |pid| self.network.is_keeper(pid));
        if let Some(container) = &self.container {
            found.retain(|pid| !container.is_stage(*pid));
            // Where process 1 is no child of ours, who has lost its parent is its child.
            if let Some(started) = container.of_daemon().filter(|_| !self.is_lost) {
                found.extend(all(started.pid.as_raw_nonzero().get(), |_| false));
            }
        }
        found
    }

    /// Kills at one stroke what is in a namespace of processes of its own, however fast it forks, and one
    /// by one what is not.
    fn kill_all(&self) {
        let at_once = self.container.is_some() && !self.is_lost && sys::kill_beside_child().is_ok();
        if !at_once {
            self.signal_all(Signal::KILL);
        }
    }

    fn signal_all(&self, signal: Signal) {
        for pid in self.descendants() {
            if let Some(pid) = Pid::from_raw(pid) {
                // It may have ended by now.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    /// Whether all were gone before `until`.
    pub(super) fn wait_for_all(&mut self, until: Duration, patience: Patience) -> bool {
        loop {
            if !self.reap() {
                return true;
            }
            let left = patience == Patience::WhileAwaited && self.has_left_children();
            if left || now() >= until {
                return false;
            }
            let stirred = self.wait_for_children(until, patience);
            if stirred.output {
                self.take_output();
            }
            if stirred.owner_gone {
                return false;
            }
        }
    }

    /// One of those that live in a container. Who has lost its parent there is the child of process 1, and
    /// its end is not told to init.
    fn silent_one(&self) -> Option<OwnedFd> {
        self.container.as_ref()?;
        let lives = |fd: &OwnedFd| {
            let mut fds = [PollFd::new(fd, PollFlags::IN)];
            poll(&mut fds, Some(&super::timespec(Duration::ZERO))).is_ok_and(|n| n == 0)
        };
        let all = self.descendants().into_iter().filter_map(Pid::from_raw);
        all.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).find(lives)
    }

    /// Sleeps until a child has changed, there is output, it is `until`, or nobody waits any more.
    fn wait_for_children(&self, until: Duration, patience: Patience) -> Stirred {
        let timeout = super::timespec(until.saturating_sub(now()));
        let mut fds = vec![
            PollFd::new(&self.output.0, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        // Where a new owner may come, the old one's end changes nothing.
        if let (Some(control), None, Patience::WhileAwaited) = (&self.control, &self.door, patience)
        {
            fds.push(PollFd::new(control, PollFlags::RDHUP));
        } else {
            // Nothing ever happens to it, so that what follows has its place.
            fds.push(PollFd::new(&self.signals, PollFlags::empty()));
        }
        let orphan = self.silent_one().filter(|_| patience == Patience::WhileAwaited);
        fds.extend(orphan.as_ref().map(|orphan| PollFd::new(orphan, PollFlags::IN)));
        let _ = poll(&mut fds, Some(&timeout));
        let stirred = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Stirred { output: stirred(0), owner_gone: stirred(2) }
    }
}

/// How long a wait may go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as the owner is there. A grace that nobody waits for helps nobody: the owner was
    /// killed, or its person has pressed Ctrl-C twice.
    WhileAwaited,
    ToTheEnd,
}

struct Stirred {
    output: bool,
    owner_gone: bool,
}

/// Every descendant of a process, parents before children, but those that are `apart` and all below.
fn all(root: i32, apart: impl Fn(i32) -> bool) -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        let Some(mut children) = children_of(parent) else { continue };
        children.retain(|child| !apart(*child));
        found.extend(&children);
        next.extend(children);
    }
    match children_of(root) {
        Some(_) => found,
        None => all_by_parent(root, apart),
    }
}

/// The children of every thread of `pid`. `None` when it is gone or the kernel keeps no such list.
fn children_of(pid: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    let mut listed = false;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        if let Ok(text) = std::fs::read_to_string(task.path().join("children")) {
            listed = true;
            children
                .extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    listed.then_some(children)
}

/// For kernels without lists of children: every process whose chain of parents leads to `root`.
fn all_by_parent(root: i32, apart: impl Fn(i32) -> bool) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let parent = pid.and_then(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<i32>().ok()
        });
        parents.extend(pid.zip(parent).filter(|(pid, _)| !apart(*pid)));
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.remove(0);
    found
}
