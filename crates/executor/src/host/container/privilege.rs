//! What a step may ask of the kernel.
//!
//! Root in a container keeps what installing packages and changing users takes, and nothing that reaches
//! beyond its namespaces. The filter of system calls refuses what has been the way out of containers before:
//! new namespaces, mounts, the kernel's own languages and queues, odd sockets, other instruction sets.
//!
//! Source for the two lists: Docker's default profile, less what no build needs; the kernel's CVEs.

#![allow(
    unsafe_code,
    reason = "capabilities and filters have no safe interface between vfork and exec"
)]

use seccompiler::BpfProgram;

use super::filter::{self, Verdict};
use crate::host::init::Failed;

/// Kept by root: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
/// SYS_CHROOT. By their numbers in linux/capability.h.
const KEPT: u64 =
    1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;
const CAPABILITY_MAX: libc::c_int = 63;

/// Refused with EPERM, whatever the arguments.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Refused as if the kernel did not have them: who tries them has another way.
const UNKNOWN: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
];

/// What gives a file to another user.
const OWNERS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
];

/// Socket families that no build needs and that much kernel code hangs on.
const FAMILIES: &[libc::c_int] = &[
    libc::AF_ALG,
    libc::AF_VSOCK,
    libc::AF_PACKET,
    libc::AF_BLUETOOTH,
    libc::AF_CAN,
    libc::AF_TIPC,
];

const EPERM: u16 = libc::EPERM as u16;

const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// What is taken from a step before it becomes its program.
#[derive(Debug)]
pub(in crate::host) struct Powers {
    /// `None`: nothing is taken.
    filter: Option<BpfProgram>,
}

impl Powers {
    /// `privileged`: it keeps everything.
    pub fn new(privileged: bool) -> Result<Self, Failed> {
        Self::with(privileged, &[])
    }

    /// As [`Powers::new`], where there is one user: a change of owner succeeds and changes nothing. It could
    /// not be made, and what installs packages would give up over it.
    pub fn of_one_user(privileged: bool) -> Result<Self, Failed> {
        Self::with(privileged, OWNERS)
    }

    /// `pretended`: calls that succeed and do nothing.
    fn with(privileged: bool, pretended: &[libc::c_long]) -> Result<Self, Failed> {
        if privileged {
            return Ok(Self { filter: None });
        }
        let of = |calls: &[libc::c_long], verdict| {
            calls.iter().map(move |call| (*call, verdict)).collect()
        };
        let lists: [Vec<_>; 3] = [
            of(REFUSED, Verdict::Answer(EPERM)),
            of(UNKNOWN, Verdict::Answer(libc::ENOSYS as u16)),
            of(pretended, Verdict::Answer(0)),
        ];
        let by_argument = [
            (libc::SYS_socket, Verdict::OneOf(FAMILIES, EPERM)),
            (libc::SYS_clone, Verdict::AnyBit(NAMESPACES.cast_unsigned(), EPERM)),
        ];
        let rules = [lists.concat(), by_argument.to_vec()].concat();
        let filter = filter::program(&rules).map_err(|why| {
            Failed::words(&format!("cannot make the filter of system calls: {why}"))
        })?;
        Ok(Self { filter: Some(filter) })
    }

    /// Takes them. Between vfork and exec: system calls only.
    ///
    /// # Safety
    ///
    /// The caller is a child that will become another program.
    pub unsafe fn take(&self, uid: u32) -> bool {
        let Some(filter) = &self.filter else { return true };
        // SAFETY: numbers and pointers to memory that lives until exec; each call is checked, or may fail
        // because what it takes is not there.
        unsafe {
            for capability in (0..=CAPABILITY_MAX).filter(|capability| KEPT & 1 << capability == 0)
            {
                // The first number that the kernel does not have is refused; so are those after it.
                if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                    break;
                }
            }
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            let kept = if uid == 0 { KEPT } else { 0 };
            if !set_capabilities(kept) || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return false;
            }
            let program = libc::sock_fprog {
                len: filter.len() as libc::c_ushort,
                filter: filter.as_ptr().cast_mut().cast(),
            };
            let mode = libc::SECCOMP_MODE_FILTER;
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) == 0
        }
    }
}

/// Permitted and effective; nothing inheritable.
unsafe fn set_capabilities(kept: u64) -> bool {
    // linux/capability.h: version 3 has two halves of 32.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: the kernel reads the two structures, which have its layout.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) == 0 }
}
