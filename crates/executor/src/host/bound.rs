//! How much of the machine a session may use: held by a control group, and where none can be had, by what
//! single processes can be held to.
//!
//! ```text
//!            control group                  without one
//! memory     all processes together         each by itself (the memory that it may write to)
//! cpu        time                           whole processors
//! pids       all processes together         the same, in a user namespace; else not at all
//! ```
//!
//! What is not held as it is written is said at the head of the log.

#![allow(unsafe_code, reason = "fork has no safe interface")]

use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;

use kiln_model::Exit;
use kiln_model::plan::Limits;
use kiln_stdx::bytes;
use rustix::process::{Pid, Resource, WaitOptions};
use rustix::thread::CpuSet;

use super::cgroup::{Cgroup, Kind, Reading};
use super::sys::{self, Forked};
use super::wire::Opening;
use crate::OpenError;
use crate::contract::words;

/// What holds a session's processes.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    limits: Limits,
    group: Option<Cgroup>,
    scout: Option<Scout>,
    each: Each,
    /// What is not held as it is written.
    pub remarks: Vec<String>,
}

/// For each process, where no group does it.
#[derive(Clone, Copy, Debug, Default)]
struct Each {
    data_bytes: Option<u64>,
    n_processes: Option<u64>,
    cpus: Option<CpuSet>,
}

/// A process that enters a group before the first step does, and ends.
///
/// The kernel lets the first process of a while wait some milliseconds, until every processor has taken note,
/// and the next ones not. So this one waits while the session is being made.
#[derive(Debug)]
struct Scout(Pid);

impl Scout {
    /// `None` where none can be had: the first step waits.
    fn send(group: &Cgroup) -> Option<Self> {
        let door = *group.doors().first()?;
        // SAFETY: an init has one thread.
        match unsafe { sys::fork() }.ok()? {
            Forked::Parent(pid) => Some(Self(pid)),
            Forked::Child => sys::run_and_exit(|| {
                // SAFETY: the group holds it open, in this process's copy too.
                let door = unsafe { BorrowedFd::borrow_raw(door) };
                i32::from(rustix::io::write(door, b"0").is_err())
            }),
        }
    }

    fn wait(self) {
        // It may have been waited for already, as every child is.
        let _ = rustix::process::waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// What a child takes upon itself. Between vfork and exec.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    pub doors: Vec<RawFd>,
    /// Numbers of resources with their values.
    pub resources: Vec<(libc::c_int, u64)>,
    pub cpus: Option<CpuSet>,
}

impl Bounds {
    /// Before any namespace: the machine's own groups are seen here.
    pub fn make(spec: &Opening) -> Result<Self, String> {
        let limits = spec.limits;
        if limits.is_none() {
            return Ok(Self::default());
        }
        if spec.container.as_ref().is_some_and(|container| container.root.daemon().is_some()) {
            // The daemon holds them: see `join`.
            return Ok(Self { limits, ..Self::default() });
        }
        let name = name(spec);
        let made = Cgroup::make(&limits, &name, &spec.attempt_dir);
        let (group, without) =
            made.map_err(|cause| format!("the job's limits cannot be set: {}", words(&cause)))?;
        let own_users = spec.mount.as_ref().is_some_and(|mount| mount.user);
        let scout = group.as_ref().and_then(Scout::send);
        let mut bounds = Self { limits, group, scout, ..Self::default() };
        for (kind, why) in without {
            bounds.instead(kind, &why, own_users);
        }
        Ok(bounds)
    }

    /// In the group of a container that a daemon has made, whether it is bounded or not: whatever is done to
    /// that shall be done to the steps.
    pub fn join(&mut self, pid: Pid) -> Result<(), String> {
        let group = Cgroup::of(pid).map_err(|cause| {
            format!("cannot find the control group of the container: {}", words(&cause))
        })?;
        self.group = Some(group);
        Ok(())
    }

    fn instead(&mut self, kind: Kind, why: &str, own_users: bool) {
        let held = match kind {
            Kind::Memory => {
                self.each.data_bytes = self.limits.memory;
                "holds for each process by itself".to_owned()
            }
            Kind::Cpu => {
                let wanted = self.limits.cpu_millis.unwrap_or_default().div_ceil(1_000) as usize;
                self.each.cpus = some_cpus(wanted);
                format!("is rounded up to {wanted} processors")
            }
            Kind::Pids if own_users => {
                self.each.n_processes = self.limits.pids.map(u64::from);
                return;
            }
            Kind::Pids => "is not held".to_owned(),
        };
        let name = kind.as_str();
        self.remarks.push(format!(
            "`limits.{name}` {held}: kiln can make no control group for it here ({why})"
        ));
    }

    pub fn taken(&self) -> Taken {
        let resource = |which: Resource, value: Option<u64>| Some((which as libc::c_int, value?));
        let resources = [
            resource(Resource::Data, self.each.data_bytes),
            resource(Resource::Nproc, self.each.n_processes),
        ];
        Taken {
            doors: self.group.as_ref().map(Cgroup::doors).unwrap_or_default(),
            resources: resources.into_iter().flatten().collect(),
            cpus: self.each.cpus,
        }
    }

    /// What the group says as a step begins.
    pub fn begin_step(&mut self) -> Reading {
        if let Some(scout) = self.scout.take() {
            scout.wait();
        }
        let Some(group) = &self.group else { return Reading::default() };
        group.forget_peak();
        group.read()
    }

    pub fn read(&self) -> Reading {
        self.group.as_ref().map(Cgroup::read).unwrap_or_default()
    }

    pub fn end(&self) {
        self.group.iter().for_each(Cgroup::remove);
    }

    /// How a step ended, knowing what its group says, and what the log should say of that.
    pub fn judge(&self, exit: Exit, before: &Reading, after: &Reading) -> (Exit, Vec<String>) {
        let rose = |before: Option<u64>, after: Option<u64>| {
            after.unwrap_or_default().saturating_sub(before.unwrap_or_default())
        };
        let mut lines = Vec::new();
        if let Some(limit) =
            self.limits.pids.filter(|_| rose(before.n_pids_refused, after.n_pids_refused) > 0)
        {
            lines.push(format!(
                "a process could not be started: the limit is {limit} (`limits.pids`)"
            ));
        }
        if rose(before.n_oom_kills, after.n_oom_kills) == 0 {
            return (exit, lines);
        }
        let own_end = matches!(exit, Exit::Code { .. } | Exit::Killed { .. });
        if own_end && !exit.is_success() {
            let exit = Exit::OutOfMemory { limit_bytes: self.limits.memory };
            lines.push(exit.to_string());
            return (exit, lines);
        }
        let limit = self.limits.memory.map(bytes::show).unwrap_or_default();
        lines.push(format!(
            "a process was killed for want of memory: the limit is {limit} (`limits.memory`)"
        ));
        (exit, lines)
    }

    /// The memory limit in words, when it is what kept a program from starting.
    pub fn too_little(&self, errno: i32) -> Option<String> {
        /// With less than this, the kernel may find no room for the arguments, and blames these.
        const ARGUMENTS_BYTES: u64 = 16 << 20;
        let limit = self.limits.memory?;
        let so = errno == libc::ENOMEM || (errno == libc::E2BIG && limit < ARGUMENTS_BYTES);
        so.then(|| {
            format!(
                "the limit of {} is too little memory to start it (`limits.memory`)",
                bytes::show(limit)
            )
        })
    }
}

/// What of a job's limits can be held on this machine, and how: found out by making a group and removing it.
///
/// Gives for each of `cpu`, `memory` and `pids` nothing when a control group holds it, else why not.
///
/// # Errors
///
/// When `folder`, which must be there and be empty, cannot be written to.
pub fn try_limits(folder: &Path) -> Result<Vec<(&'static str, Option<String>)>, OpenError> {
    let limits = Limits { cpu_millis: Some(1_000), memory: Some(64 << 20), pids: Some(64) };
    let name = format!("probe-{}", std::process::id());
    let made = Cgroup::make(&limits, &name, folder);
    let (group, without) = made.map_err(|cause| OpenError::Isolation(words(&cause)))?;
    drop(group);
    super::cgroup::reap(folder);
    let why = |kind: Kind| without.iter().find(|(of, _)| *of == kind).map(|(_, why)| why.clone());
    Ok(Kind::ALL.into_iter().map(|kind| (kind.as_str(), why(kind))).collect())
}

/// Another server on the machine may count the same attempts.
pub(super) fn name(spec: &Opening) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    spec.attempt_dir.hash(&mut hasher);
    format!("{}-{:016x}", spec.attempt, hasher.finish())
}

/// So many of our processors; `None`: all of them. Jobs that are started one after the other get others.
fn some_cpus(n_wanted: usize) -> Option<CpuSet> {
    let ours = rustix::thread::sched_getaffinity(None).ok()?;
    let ours: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| ours.is_set(*cpu)).collect();
    if ours.len() <= n_wanted {
        return None;
    }
    let first = std::process::id() as usize % ours.len();
    let mut some = CpuSet::new();
    for cpu in ours.iter().cycle().skip(first).take(n_wanted) {
        some.set(*cpu);
    }
    Some(some)
}
