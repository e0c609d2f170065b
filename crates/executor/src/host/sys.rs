//! The few system calls that the standard library and rustix do not give in safe form.

#![allow(unsafe_code, reason = "fork, clone, signals and process names have no safe interface")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;

use rustix::process::Pid;

use super::bound::Taken;
use super::container::{Identity, Powers};

pub(super) enum Forked {
    Parent(Pid),
    Child,
}

/// Forks the calling process.
///
/// # Safety
///
/// The process must have one thread: in the child of a threaded one, locks may be held forever.
pub(super) unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).map_or(Forked::Child, Forked::Parent)),
    }
}

/// Does the work of a forked child and ends the process at once: no destructors and no exit handlers,
/// which belong to the process that this one was forked from. Nor does a panic get out: it would
/// unwind into that process's `main`, and there would be two of it.
pub(super) fn run_and_exit(work: impl FnOnce() -> i32) -> ! {
    const PANICKED: i32 = 101;
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(PANICKED);
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Kills everything in the namespace of processes that children of ours are born in, except its process 1.
///
/// Nothing escapes by forking: the kernel goes through all of them while none can be made.
///
/// # Errors
///
/// When children are not born in another namespace than ours, and when there is no process left for one.
pub(super) fn kill_beside_child() -> io::Result<()> {
    const DONE: i32 = 0;
    const IS_OURS: i32 = 1;
    // SAFETY: init has one thread, and the child does nothing but system calls.
    let child = match unsafe { fork() }? {
        Forked::Parent(child) => child,
        // SAFETY: only system calls. A parent in another namespace has no number in this one, so that what
        // is killed is never the machine.
        Forked::Child => run_and_exit(|| unsafe {
            if libc::getppid() != 0 || libc::getpid() == 1 {
                return IS_OURS;
            }
            libc::kill(-1, libc::SIGKILL);
            DONE
        }),
    };
    let ended = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(DONE) => Ok(()),
        _ => Err(io::Error::other("children are born among us")),
    }
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: RawFd) {
    // SAFETY: the caller is a fresh fork that uses none of them any more.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if done == 0 {
        return;
    }
    // Before Linux 5.9. No allocation: this also runs between vfork and exec.
    // SAFETY: as above.
    let max = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }.clamp(256, 1 << 20) as RawFd;
    for fd in first..max {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Every signal back to its default, so that nothing odd is inherited (`nohup`, a shell's traps).
pub(super) fn reset_signals() {
    const N_SIGNALS: libc::c_int = 64;
    // The kernel's own structure (handler, flags, restorer, mask), all zero: the default handler.
    // Not the C library's call, which refuses the two signals that it uses itself.
    let default = [0u64; 4];
    let nothing = std::ptr::null_mut::<u64>();
    for signal in 1..=N_SIGNALS {
        // SAFETY: the default runs no code of ours. KILL and STOP are refused, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, 8usize) };
    }
}

/// Children vanish when they end; nobody has to wait for them.
pub(super) fn ignore_children() {
    // SAFETY: no code of ours runs when the signal comes.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Children must be waited for.
pub(super) fn heed_children() {
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// What a process, with its own children that it has waited for, has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub user_us: u64,
    pub system_us: u64,
    /// The most memory of one process.
    pub process_bytes: u64,
}

/// A child that is no more.
pub(super) struct Ended {
    pub pid: Pid,
    pub status: ExitStatus,
    pub used: Used,
}

/// The next child that has ended; `None` when none has. An error: there is no child.
pub(super) fn next_ended() -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: the kernel writes the number and the account, which are ours; all zeros is a valid account.
    let (pid, account) = unsafe {
        let mut account: libc::rusage = std::mem::zeroed();
        (libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut account), account)
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let micros = |time: libc::timeval| {
        let (s, us) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec));
        s.unwrap_or_default() * 1_000_000 + us.unwrap_or_default()
    };
    let used = Used {
        user_us: micros(account.ru_utime),
        system_us: micros(account.ru_stime),
        // In kilobytes of 1024.
        process_bytes: u64::try_from(account.ru_maxrss).unwrap_or_default() << 10,
    };
    Ok(Pid::from_raw(pid).map(|pid| Ended { pid, status: ExitStatus::from_raw(status), used }))
}

/// Blocks every signal and gives a descriptor that is readable when a child has changed.
pub(super) fn signals_as_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised by the calls that fill them; the descriptor is fresh.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        if libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut child = std::mem::zeroed();
        libc::sigemptyset(&mut child);
        libc::sigaddset(&mut child, libc::SIGCHLD);
        match libc::signalfd(-1, &child, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Unblocks every signal.
pub(super) fn unblock_signals() {
    // SAFETY: the set is initialised by the call that empties it.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// A mount namespace of its own and, with `user`, a user namespace to be root of it.
pub(super) fn unshare_mounts(user: bool) -> io::Result<()> {
    let flags = libc::CLONE_NEWNS | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: no descriptor or memory is affected.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Names the process in `ps`: `comm` by its call, and the command line by writing over it, as
/// `setproctitle` does. A name longer than the old command line is cut.
///
/// Without it a spawner looks like a second `kiln serve`, and who ends "kiln serve" ends the jobs.
pub(super) fn set_process_name(short: &CStr, long: &str) {
    let _ = rustix::thread::set_name(short);
    // The same in every fork, so it is looked for once.
    static ARGUMENTS: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    let Some((start, end)) = *ARGUMENTS.get_or_init(arguments) else { return };
    let n_bytes = long.len().min(end - start - 1);
    // SAFETY: the kernel says that the argument strings of this process are at start..end. They are
    // writable memory of its stack, copied on write after the fork, and read by nobody: arguments
    // are parsed by the parent.
    unsafe {
        std::ptr::copy_nonoverlapping(long.as_ptr(), start as *mut u8, n_bytes);
        std::ptr::write_bytes((start + n_bytes) as *mut u8, 0, end - start - n_bytes);
    }
}

/// Where the strings of this process's command line begin and end.
fn arguments() -> Option<(usize, usize)> {
    // Fields are counted after the command's closing bracket: 1 is the state, 46 and 47 are
    // `arg_start` and `arg_end`.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    let field = |n: usize| after.split_ascii_whitespace().nth(n - 1)?.parse::<usize>().ok();
    let (start, end) = (field(46)?, field(47)?);
    (start != 0 && end > start + 1).then_some((start, end))
}

/// What runs between vfork and exec: system calls only.
pub(super) struct Launch<'a> {
    /// Files to try, in order; each with its own argument vector for a script without `#!`.
    pub candidates: &'a [Candidate],
    /// Ends with a null pointer.
    pub argv: &'a [*const libc::c_char],
    /// Ends with a null pointer.
    pub envp: &'a [*const libc::c_char],
    pub directory: RawFd,
    pub streams: StepStreams,
    pub bounds: &'a Taken,
    /// Where it runs and as whom, when that is not here and as ourselves.
    pub entry: Option<Entry<'a>>,
}

/// What a step's child does to get into a container.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The process whose namespaces it enters.
    pub stage: RawFd,
    pub identity: &'a Identity,
    pub powers: &'a Powers,
}

impl Entry<'_> {
    /// Between vfork and exec: system calls only.
    ///
    /// # Safety
    ///
    /// The caller is a child that will become another program.
    unsafe fn enter(&self) -> bool {
        const NAMESPACES: libc::c_int =
            libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        // SAFETY: as the caller says.
        unsafe { libc::setns(self.stage, NAMESPACES) == 0 }
    }

    /// As [`Entry::enter`]; after it nothing of the caller's powers is left.
    unsafe fn become_user(&self) -> bool {
        let Identity { uid, gid, groups, .. } = self.identity;
        // The system's calls, not the C library's: those tell all threads, and the memory is the parent's.
        // SAFETY: the list of groups lives as long as the identity.
        unsafe {
            if let Some(groups) = groups
                && libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) != 0
            {
                return false;
            }
            // Before the user changes: afterwards nothing may be taken away any more.
            let kept = *uid == 0 || libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0;
            kept && libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) == 0
                && libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) == 0
                && self.powers.take(*uid)
        }
    }
}

/// What becomes descriptors 0 to 2.
#[derive(Clone, Copy)]
pub(super) struct StepStreams {
    pub stdin: RawFd,
    pub stdout: RawFd,
    pub stderr: RawFd,
    /// `stdin` is a terminal that shall control the program, in a session of its own.
    pub terminal: bool,
}

pub(super) struct Candidate {
    pub path: *const libc::c_char,
    /// `/bin/sh path arguments…`, ends with a null pointer.
    pub as_script: Vec<*const libc::c_char>,
}

/// The step did not start.
pub(super) struct NotLaunched {
    pub errno: i32,
    /// Which candidate it was, when the trouble was with the program; else it was kiln's.
    pub candidate: Option<usize>,
}

struct Shared<'a> {
    launch: &'a Launch<'a>,
    failure: Option<NotLaunched>,
}

/// Starts a program in its own process group. The child borrows this process's memory until it has
/// become the program (as `posix_spawn` does it), so nothing is copied and a failure is known here.
pub(super) fn launch(launch: &Launch<'_>) -> Result<Pid, NotLaunched> {
    const STACK_BYTES: usize = 64 << 10;
    let mut stack = vec![0u128; STACK_BYTES / 16];
    let mut shared = Shared { launch, failure: None };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: this process has one thread, which CLONE_VFORK suspends until the child has called
    // exec or _exit; so `stack` and `shared` outlive the child's use of them and nobody else reads
    // or writes them meanwhile. The stack grows down from its end, which is aligned to 16. Every
    // signal is blocked, so no handler runs in the child.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        libc::clone(launched, top, flags, (&raw mut shared).cast())
    };
    match (Pid::from_raw(pid.max(0)), shared.failure) {
        (Some(child), Some(failure)) => {
            let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
            Err(failure)
        }
        (Some(child), None) => Ok(child),
        (None, _) => {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
            Err(NotLaunched { errno, candidate: None })
        }
    }
}

/// Between vfork and exec: system calls only.
///
/// # Safety
///
/// The caller is a child that will become another program.
unsafe fn take_bounds(bounds: &Taken) -> bool {
    // SAFETY: pointers to memory that lives until exec.
    unsafe {
        let entered =
            bounds.doors.iter().all(|door| libc::write(*door, c"0".as_ptr().cast(), 1) == 1);
        let held = bounds.resources.iter().all(|(resource, value)| {
            let limit = libc::rlimit64 { rlim_cur: *value, rlim_max: *value };
            let (none, resource) = (std::ptr::null_mut::<libc::rlimit64>(), *resource);
            libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, none) == 0
        });
        // Where it runs is not worth failing for.
        if let Some(cpus) = &bounds.cpus {
            let _ = rustix::thread::sched_setaffinity(None, cpus);
        }
        entered && held
    }
}

extern "C" fn launched(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `launch` passes a `Shared` that lives until this process has ended or become another.
    // Only system calls are made; `argv`, `envp` and the candidates end with null pointers and point
    // to strings that `launch`'s caller holds.
    unsafe {
        let shared = &mut *shared.cast::<Shared<'_>>();
        let launch = shared.launch;
        let StepStreams { stdin, stdout, stderr, terminal } = launch.streams;
        let apart = if terminal { libc::setsid() != -1 } else { libc::setpgid(0, 0) == 0 };
        let apart = apart && take_bounds(launch.bounds);
        // Before it is anywhere: the folder is inside.
        let inside = launch.entry.is_none_or(|entry| entry.enter());
        let prepared = apart
            && inside
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::fchdir(launch.directory) == 0
            && libc::dup2(stdin, 0) == 0
            && libc::dup2(stdout, 1) == 1
            && libc::dup2(stderr, 2) == 2
            && (!terminal || libc::ioctl(0, libc::TIOCSCTTY, 0) == 0);
        if !prepared {
            shared.failure =
                Some(NotLaunched { errno: *libc::__errno_location(), candidate: None });
            return 127;
        }
        close_from(3);
        libc::umask(0o022);
        unblock_signals();
        if launch.entry.is_some_and(|entry| !entry.become_user()) {
            shared.failure =
                Some(NotLaunched { errno: *libc::__errno_location(), candidate: None });
            return 127;
        }
        let (mut errno, mut culprit) = (libc::ENOENT, 0);
        for (at, candidate) in launch.candidates.iter().enumerate() {
            libc::execve(candidate.path, launch.argv.as_ptr(), launch.envp.as_ptr());
            let mut why = *libc::__errno_location();
            if why == libc::ENOEXEC {
                let shell = c"/bin/sh".as_ptr();
                libc::execve(shell, candidate.as_script.as_ptr(), launch.envp.as_ptr());
                why = *libc::__errno_location();
            }
            match why {
                // Not here; perhaps in the next folder of the path. A file that is there but must
                // not be run is remembered, as shells do.
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => (errno, culprit) = (why, at),
                _ => {
                    (errno, culprit) = (why, at);
                    break;
                }
            }
        }
        shared.failure = Some(NotLaunched { errno, candidate: Some(culprit) });
        127
    }
}
