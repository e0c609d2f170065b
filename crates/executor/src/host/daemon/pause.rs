//! The program that holds a daemon's container open: its process 1.
//!
//! An image may have no program at all, so it brings its own: a few system calls in a static file. It
//! connects to init's socket, which tells init its number and that it runs, and sleeps in a read of that
//! connection. When init dies, by whatever signal, the read ends and so does the program; and with
//! process 1 the kernel ends everything in the container. Processes that have lost their parent become its
//! children and vanish when they end.

#![allow(unsafe_code, reason = "the machine code of a program is read as bytes")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::Pid;

/// In the folder that the container sees at [`FOLDER`].
pub(super) const PROGRAM: &str = "stage";
pub(super) const SOCKET: &str = "line";
/// Where the container sees it, until it runs. The program has the name of the socket in it.
pub(in crate::host) const FOLDER: &str = "/.kiln";

// SIGCHLD is ignored; a socket is connected; a read that ends otherwise than by a signal is the end.
// Source: linux/arch/x86/entry/syscalls, man 2 syscall.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.kiln_pause,\"a\"",
    "kiln_pause_begin:",
    "sub rsp, 32",
    "mov qword ptr [rsp], 1",
    "mov qword ptr [rsp + 8], 0",
    "mov qword ptr [rsp + 16], 0",
    "mov qword ptr [rsp + 24], 0",
    "mov eax, 13", // rt_sigaction
    "mov edi, 17",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "mov eax, 41", // socket
    "mov edi, 1",
    "mov esi, 0x80001",
    "xor edx, edx",
    "syscall",
    "mov r12, rax",
    "mov eax, 42", // connect
    "mov rdi, r12",
    "lea rsi, [rip + 4f]",
    "mov edx, 14",
    "syscall",
    "test eax, eax",
    "jnz 3f",
    "2:",
    "xor eax, eax", // read
    "mov rdi, r12",
    "mov rsi, rsp",
    "mov edx, 1",
    "syscall",
    "cmp rax, -4", // EINTR
    "je 2b",
    "xor edi, edi",
    "mov eax, 231", // exit_group
    "syscall",
    "3:",
    "mov edi, 1",
    "mov eax, 231",
    "syscall",
    "4:",
    ".short 1",
    ".asciz \"/.kiln/line\"",
    "kiln_pause_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.kiln_pause,\"a\"",
    ".balign 4",
    "kiln_pause_begin:",
    "sub sp, sp, #32",
    "mov x0, #1",
    "str x0, [sp]",
    "stp xzr, xzr, [sp, #8]",
    "str xzr, [sp, #24]",
    "mov x8, #134", // rt_sigaction
    "mov x0, #17",
    "mov x1, sp",
    "mov x2, #0",
    "mov x3, #8",
    "svc #0",
    "mov x8, #198", // socket
    "mov x0, #1",
    "movz x1, #1",
    "movk x1, #8, lsl #16",
    "mov x2, #0",
    "svc #0",
    "mov x19, x0",
    "mov x8, #203", // connect
    "adr x1, 4f",
    "mov x2, #14",
    "svc #0",
    "cbnz x0, 3f",
    "2:",
    "mov x8, #63", // read
    "mov x0, x19",
    "mov x1, sp",
    "mov x2, #1",
    "svc #0",
    "cmn x0, #4", // EINTR
    "b.eq 2b",
    "mov x8, #94", // exit_group
    "mov x0, #0",
    "svc #0",
    "3:",
    "mov x8, #94",
    "mov x0, #1",
    "svc #0",
    "4:",
    ".short 1",
    ".asciz \"/.kiln/line\"",
    "kiln_pause_end:",
    ".popsection",
);

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn code() -> Option<(u16, &'static [u8])> {
    // elf.h: EM_X86_64, EM_AARCH64.
    const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    unsafe extern "C" {
        static kiln_pause_begin: u8;
        static kiln_pause_end: u8;
    }
    // SAFETY: the two names are the ends of one stretch of read-only memory, assembled above.
    let code = unsafe {
        let (begin, end) = (&raw const kiln_pause_begin, &raw const kiln_pause_end);
        std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin))
    };
    Some((MACHINE, code))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn code() -> Option<(u16, &'static [u8])> {
    None
}

/// Who has connected, by the number that it has among our processes.
pub(super) fn peer(line: &UnixStream) -> io::Result<Pid> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length says.
    let done = unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        libc::getsockopt(line.as_raw_fd(), level, name, (&raw mut peer).cast(), &raw mut length)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let unseen =
        "its containers' processes are not seen from here: kiln runs in a container itself";
    Pid::from_raw(peer.pid).ok_or_else(|| io::Error::other(unseen))
}

/// Writes the program into a folder, for everybody to run.
pub(super) fn write(folder: &Path) -> io::Result<()> {
    use std::io::Write as _;
    let none = "kiln has no program to hold a container open on this kind of processor";
    let bytes = file().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, none))?;
    let mut options = std::fs::File::options();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o755).open(folder.join(PROGRAM))?;
    file.write_all(&bytes)
}

/// One segment, from the head of the file to the end of the code.
fn file() -> Option<Vec<u8>> {
    const BASE: u64 = 0x40_0000;
    const HEADS: u16 = 64 + 56;
    let (machine, code) = code()?;
    let length = u64::from(HEADS) + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2, machine] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [BASE + u64::from(HEADS), 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, to be read and run.
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for word in [0, BASE, BASE, length, length, 0x1_0000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    Some(file)
}
