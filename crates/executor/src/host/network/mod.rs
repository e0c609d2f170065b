//! The network of a session: the machine's, one of its own, or that of another session.
//!
//! ```text
//! init ──clone──▶ keeper (stays outside) ──exec──▶ pasta or slirp4netns ──tap──┐
//!   └── a network namespace of its own: loopback, rules, ◀────────────────────┘
//!         └▶ the steps, the container; other sessions that join
//! ```
//!
//! Init itself lives in the namespace, so whatever it starts does too. A way out is a program that turns
//! packets into the machine's sockets; it needs no privilege and changes nothing of the machine. Its
//! keeper is the first process of a pid namespace and dies with init, so that the program cannot be left.
//!
//! With a way out it reaches what the machine reaches, except:
//! - the machine itself, its loopback above all: no port of it is mapped, its addresses are refused;
//! - the addresses at which clouds give credentials to whoever asks (`device::CLOUDS`).
//!
//! The names in it are kiln's: `hosts`, `resolv.conf` and `hostname` are written for the session.

mod device;
mod stack;
mod names;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(super) use names::Names;

use self::stack::Stack;
use super::attach;
use super::init::Failed;
use super::sys;
use super::wire::Opening;
use crate::{Reach, StepError};

/// What a session has of a network, besides being in it.
#[derive(Debug, Default)]
pub(super) struct Network {
    stack: Option<Stack>,
    /// Readable when the session whose network this is has ended.
    host: Option<OwnedFd>,
    /// It is not the machine's.
    pub is_apart: bool,
    /// What is to be said of it in the log.
    pub remark: Option<String>,
}

/// The session that is joined, held by its first process.
#[derive(Debug)]
pub(super) struct Joined {
    pid: i32,
    held: OwnedFd,
    /// Its network is not the machine's.
    is_apart: bool,
}

impl Joined {
    /// Finds it, when the network is to be another session's.
    pub fn find(reach: &Reach) -> Result<Option<Self>, Failed> {
        let Reach::Of(folder) = reach else { return Ok(None) };
        let gone = || Failed::words("the session whose network this one shares has ended");
        let pid = attach::living_pid(folder).ok_or_else(gone)?;
        let held = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let held = held.ok_or_else(gone)?;
        // Asked again now that the number cannot become another's.
        attach::living_pid(folder).filter(|again| *again == pid).ok_or_else(gone)?;
        let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let is_apart = network("self") != network(&pid.to_string());
        Ok(Some(Self { pid, held, is_apart }))
    }

    /// Its network, and where that takes them its users, are not the machine's.
    pub fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// Enters the network, as one of the users who own it where that takes them. Says whether we are one of
    /// those users now, and root is another.
    pub fn enter(&self, user: bool) -> Result<bool, Failed> {
        if !self.is_apart {
            return Ok(false);
        }
        if user {
            self.enter_one("user", LinkNameSpaceType::User)?;
        }
        self.enter_one("net", LinkNameSpaceType::Network)?;
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Ok(user && map.lines().any(|line| line.split_ascii_whitespace().next() == Some("0")))
    }

    fn enter_one(&self, name: &str, kind: LinkNameSpaceType) -> Result<(), Failed> {
        let what = "cannot enter the network of the job";
        let path = format!("/proc/{}/ns/{name}", self.pid);
        let file = File::open(path).map_err(|cause| Failed::isolation(what, &cause))?;
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
            .map_err(|cause| Failed::isolation(what, &cause.into()))
    }
}

impl Network {
    /// Enters the network that the session is to have. A way out may not be there yet: see
    /// [`Network::settle`].
    pub fn enter(spec: &Opening, joined: Option<Joined>) -> Result<Self, Failed> {
        let mut network = Self::default();
        match (&spec.network.reach, joined) {
            (Reach::Host, _) => {}
            // Entered already.
            (_, Some(joined)) => {
                network.is_apart = joined.is_apart;
                network.host = Some(joined.held);
            }
            (Reach::Internet { through }, None) => {
                let machine = device::addresses();
                let mut stack = Stack::start(through, spec)?;
                device::own()?;
                device::refuse(&machine).map_err(|why| Failed::words(&why))?;
                stack.go();
                network.stack = Some(stack);
                network.is_apart = true;
            }
            // Entered when the daemon has made it.
            (Reach::None | Reach::Bridge, None) if is_daemons(spec) => {}
            (Reach::None | Reach::Bridge | Reach::Of(_), None) => {
                device::own()?;
                network.is_apart = true;
            }
        }
        Ok(network)
    }

    /// Enters the network that a daemon has made for its container, and makes it refuse what ours refuse, and
    /// the other containers on the same bridge. `resolvers` can be asked for names.
    pub fn enter_daemons(
        &mut self,
        reach: &Reach,
        stage: &OwnedFd,
        resolvers: &[IpAddr],
    ) -> Result<(), Failed> {
        if !matches!(reach, Reach::None | Reach::Bridge) {
            return Ok(());
        }
        let mut machine = device::addresses();
        machine.retain(|address| !resolvers.contains(address));
        let network = rustix::thread::ThreadNameSpaceType::NETWORK;
        rustix::thread::move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(stage), network)
            .map_err(|cause| {
                Failed::isolation("cannot enter the container's network", &cause.into())
            })?;
        self.is_apart = true;
        if *reach == Reach::Bridge {
            let refused = device::refuse(&machine).and_then(|()| device::refuse_neighbours());
            refused.map_err(|why| Failed::words(&why))?;
        }
        Ok(())
    }

    /// Waits until there is a way out, or it is known why there is none.
    pub fn settle(&mut self) {
        if let Some(Err(why)) = self.stack.as_mut().map(Stack::wait) {
            self.remark = Some(format!("nothing outside can be reached: {why}"));
        }
    }

    /// A process that is not the job's, with all that is below it.
    pub fn is_keeper(&self, pid: i32) -> bool {
        self.stack.as_ref().is_some_and(|stack| stack.is_keeper(pid))
    }

    /// Whether no connection is left in this process's network: the kernel keeps what it remembers of one, and
    /// its port, for a minute.
    pub fn is_without_connections() -> bool {
        ["tcp", "tcp6"].into_iter().all(|table| {
            let text = std::fs::read_to_string(format!("/proc/self/net/{table}"));
            // A head line; a kernel without IPv6 has no second table.
            text.unwrap_or_default().lines().count() <= 1
        })
    }

    pub fn has_keeper(&self) -> bool {
        self.stack.as_ref().is_some_and(Stack::lives)
    }

    /// Takes note of the keeper's end. Gives what to say of it.
    pub fn heed(&mut self, pid: Pid) -> Option<&'static str> {
        let stack =
            self.stack.as_mut().filter(|stack| stack.is_keeper(pid.as_raw_nonzero().get()))?;
        let remark = "the program that connects this job to the network has ended: nothing outside can be \
                      reached any more";
        stack.ended().then_some(remark)
    }

    pub fn host(&self) -> Option<&OwnedFd> {
        self.host.as_ref()
    }

    pub fn end(&mut self) {
        if let Some(stack) = &mut self.stack {
            stack.end();
        }
    }
}

fn is_daemons(spec: &Opening) -> bool {
    spec.container.as_ref().is_some_and(|container| container.root.daemon().is_some())
}

/// Where files of the network of a session are, below its folder.
fn folder(attempt_dir: &Path) -> std::path::PathBuf {
    attempt_dir.join("network")
}

/// Names the keeper in `ps`.
fn name_keeper(attempt: &impl std::fmt::Display) {
    sys::set_process_name(c"kiln-network", &format!("kiln-network {attempt}"));
}

/// The TCP ports on which anything in this process's network listens.
pub(super) fn listening() -> Result<BTreeSet<u16>, StepError> {
    /// `TCP_LISTEN` of the kernel, as its tables write it.
    const LISTENS: &str = "0A";
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        // A kernel without IPv6 has no second table.
        let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, state, ..] = fields[..]
                && state == LISTENS
                && let Some((_, port)) = local.rsplit_once(':')
            {
                ports.extend(u16::from_str_radix(port, 16).ok());
            }
        }
    }
    Ok(ports)
}
