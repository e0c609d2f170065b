//! The way out of a network: a program that turns a session's packets into sockets of the machine.
//!
//! Its keeper is a fork of init in the machine's network, the first process of a pid namespace: when init
//! dies, however it dies, the kernel kills the keeper, and with the keeper the program, which changes
//! its credentials and would outlive its parent otherwise.

#![allow(unsafe_code, reason = "clone has no safe interface")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open};

use super::{folder, name_keeper};
use crate::contract::words;
use crate::host::init::Failed;
use crate::host::sys::{self, Forked};
use crate::host::wire::Opening;

/// How long the program may take to start. It takes milliseconds; a machine that is very busy, more.
const START_SECONDS: i64 = 20;

/// Where `pasta` takes questions for the machine's resolver. Link-local, so that it is nobody's.
const PASTA_RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Where `slirp4netns` does, unless it is told otherwise.
const SLIRP_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// What the keeper says when there is a way out. Anything else is why there is none.
const READY: &str = "ready";

/// A keeper with its program.
#[derive(Debug)]
pub(super) struct Stack {
    keeper: Option<Pid>,
    go: Option<io::PipeWriter>,
    said: io::PipeReader,
    /// There has been a way out.
    was_ready: bool,
}

/// Which address answers questions for names, in a network with this program.
pub(super) fn resolver(program: &Path) -> Ipv4Addr {
    if is_pasta(program) { PASTA_RESOLVER } else { SLIRP_RESOLVER }
}

fn is_pasta(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.as_bytes().starts_with(b"pasta"))
}

impl Stack {
    /// Starts the keeper, which waits in the machine's network until it is told to [`Stack::go`].
    pub fn start(program: &Path, spec: &Opening) -> Result<Self, Failed> {
        let failed = |cause: io::Error| Failed::isolation("cannot make the job's way out", &cause);
        let at = folder(&spec.attempt_dir);
        kiln_stdx::fs::create_private_dir(&at).map_err(|error| failed(io::Error::other(error)))?;
        let (mut asked, go) = io::pipe().map_err(failed)?;
        let (said, tell) = io::pipe().map_err(failed)?;
        let init = rustix::process::getpid();
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;
        let none = std::ptr::null_mut::<u8>();
        // SAFETY: as fork: no stack is given and no memory shared; init has one thread.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone, libc::c_long::from(flags), none, none, none, none)
        };
        match pid {
            -1 => Err(failed(io::Error::last_os_error())),
            0 => sys::run_and_exit(|| {
                drop((go, said));
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                name_keeper(&spec.attempt);
                // No word is an init that died before its network was there.
                match asked.read(&mut [0]) {
                    Ok(1) => keep(program, init, &at, tell),
                    _ => 1,
                }
            }),
            pid => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                Ok(Self { keeper: pid, go: Some(go), said, was_ready: false })
            }
        }
    }

    /// Init is in its own network now.
    pub fn go(&mut self) {
        if let Some(mut go) = self.go.take() {
            // A keeper that died says so by its silence.
            let _ = go.write_all(b"g");
        }
    }

    /// Waits until it is ready; else, why it is not.
    pub fn wait(&mut self) -> Result<(), String> {
        let mut said = String::new();
        let heard = self.said.read_to_string(&mut said);
        self.was_ready = heard.is_ok() && said == READY;
        match (heard, said.as_str()) {
            (Ok(_), READY) => Ok(()),
            (_, "") => Err("the keeper of its network died".to_owned()),
            (_, why) => Err(why.to_owned()),
        }
    }

    pub fn is_keeper(&self, pid: i32) -> bool {
        self.keeper.is_some_and(|keeper| keeper.as_raw_nonzero().get() == pid)
    }

    pub fn lives(&self) -> bool {
        self.keeper.is_some()
    }

    /// It has been waited for. Gives whether a way out is gone with it.
    pub fn ended(&mut self) -> bool {
        self.keeper = None;
        self.was_ready
    }

    pub fn end(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            let _ = rustix::process::kill_process(keeper, Signal::KILL);
            // The kernel lets it be waited for only when its program is gone.
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitpid(Some(keeper), WaitOptions::empty())
            {}
        }
    }
}

/// The keeper's life: its code when the program has ended.
fn keep(program: &Path, init: Pid, at: &Path, mut tell: io::PipeWriter) -> i32 {
    sys::heed_children();
    let ready = match start(program, init, at) {
        Ok((child, pipe)) => await_ready(program, child, &pipe, at).map(|()| child),
        Err(cause) => Err(format!("cannot start `{}`: {}", program.display(), words(&cause))),
    };
    let said = match &ready {
        Ok(_) => tell.write_all(READY.as_bytes()),
        Err(why) => tell.write_all(why.as_bytes()),
    };
    drop(tell);
    let (Ok(_), Ok(())) = (ready, said) else { return 1 };
    sys::close_from(3);
    // Whatever else is adopted here goes too.
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    0
}

/// The pipe into which the program writes when it is ready: both ends, so that it has no end itself.
type ReadyPipe = (OwnedFd, File);

/// Starts the program.
fn start(program: &Path, init: Pid, at: &Path) -> io::Result<(Pid, ReadyPipe)> {
    let paths =
        Paths { namespace: at.join("namespace"), ready: at.join("ready"), said: at.join("said") };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // By a name that every program may open, whatever it has given up: links below `/proc` ask for more.
    File::create(&paths.namespace)?;
    mount_bind(format!("/proc/{}/ns/net", init.as_raw_nonzero()), &paths.namespace)?;
    let _ = std::fs::remove_file(&paths.ready);
    rustix::fs::mknodat(CWD, &paths.ready, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let ready = rustix::fs::open(&paths.ready, flags, Mode::empty())?;
    let said = File::create(&paths.said)?;
    // `pasta` is told a file for its number; `slirp4netns`, a descriptor.
    let writer = File::options().write(true).open(&paths.ready)?;
    let words = words_of(program, &paths)?;
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp = [std::ptr::null()];
    // SAFETY: the keeper is a fork of init and has one thread.
    match unsafe { sys::fork() }? {
        Forked::Parent(child) => Ok((child, (ready, writer))),
        // SAFETY: only system calls; the vectors end with null pointers and their strings live.
        Forked::Child => unsafe {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            libc::dup2(null, 0);
            libc::dup2(null, 1);
            libc::dup2(said.as_raw_fd(), 2);
            libc::dup2(writer.as_raw_fd(), READY_AT);
            sys::close_from(READY_AT + 1);
            keep_capabilities();
            sys::unblock_signals();
            sys::reset_signals();
            libc::execve(argv[0], argv.as_ptr(), envp.as_ptr());
            libc::_exit(127)
        },
    }
}

/// A user who is not root of its namespace would lose by exec what it takes to enter the network. Where
/// nothing can be kept, the program says what it misses.
///
/// # Safety
///
/// The caller is a child that will become another program.
unsafe fn keep_capabilities() {
    // linux/capability.h: version 3 has two halves of 32; of each, effective, permitted, inheritable.
    const VERSION: u32 = 0x2008_0522;
    const CAPABILITY_MAX: libc::c_int = 63;
    let header = [VERSION, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: the kernel reads and writes structures of this layout.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) != 0 {
            return;
        }
        (sets[2], sets[5]) = (sets[1], sets[4]);
        libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr());
        for capability in 0..=CAPABILITY_MAX {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0);
        }
    }
}

/// The descriptor for `slirp4netns`'s word.
const READY_AT: i32 = 3;

struct Paths {
    /// The network, as a file.
    namespace: PathBuf,
    /// A pipe with a name.
    ready: PathBuf,
    /// What the program has to say.
    said: PathBuf,
}

/// The command line. The attempt is in its paths.
fn words_of(program: &Path, paths: &Paths) -> io::Result<Vec<CString>> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let mut words = vec![path(program)?];
    if is_pasta(program) {
        words.extend(
            [c"--foreground", c"--quiet", c"--config-net", c"--netns-only"].map(Into::into),
        );
        // No port is mapped, either way, and the gateway is the gateway.
        for flag in [c"-t", c"-u", c"-T", c"-U"] {
            words.extend([flag.into(), c"none".into()]);
        }
        words.push(c"--no-map-gw".into());
        let resolver = CString::new(PASTA_RESOLVER.to_string()).map_err(io::Error::other)?;
        words.extend([c"--dns-forward".into(), resolver]);
        if is_machines_root() {
            // As another user it could not enter a network of root's.
            words.extend([c"--runas".into(), c"0".into()]);
        }
        words.extend([c"--pid".into(), path(&paths.ready)?]);
        words.extend([c"--netns".into(), path(&paths.namespace)?]);
    } else {
        words.extend(
            [c"--configure", c"--disable-host-loopback", c"--enable-sandbox"].map(Into::into),
        );
        words.extend([c"--enable-seccomp", c"--ready-fd=3", c"--netns-type=path"].map(Into::into));
        words.extend([path(&paths.namespace)?, c"tap0".into()]);
    }
    Ok(words)
}

/// Root, and not only in a user namespace.
fn is_machines_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all: Vec<&str> = map.split_ascii_whitespace().collect();
    rustix::process::geteuid().is_root() && all == ["0", "0", "4294967295"]
}

/// Waits for the word of the program, or for its end.
fn await_ready(program: &Path, child: Pid, pipe: &ReadyPipe, at: &Path) -> Result<(), String> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let held = pidfd_open(child, PidfdFlags::empty())
        .map_err(|cause| format!("cannot watch `{name}`: {}", words(&cause.into())))?;
    let timeout = Timespec { tv_sec: START_SECONDS, tv_nsec: 0 };
    let mut fds = [
        PollFd::new(&pipe.0, PollFlags::IN),
        PollFd::from_borrowed_fd(held.as_fd(), PollFlags::IN),
    ];
    let _ = poll(&mut fds, Some(&timeout));
    if fds[0].revents().contains(PollFlags::IN) {
        return Ok(());
    }
    let ended = !fds[1].revents().is_empty();
    let said = std::fs::read(at.join("said")).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    // An old `pasta` also complains about the system's log, which it has no need of.
    let mut lines =
        said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("to syslog"));
    let last = lines.next_back().unwrap_or(if ended {
        "it ended without a word"
    } else {
        "it does not start"
    });
    Err(format!("{name}: {last}"))
}
