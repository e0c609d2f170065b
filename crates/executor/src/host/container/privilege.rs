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

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

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
    filters: Option<Vec<BpfProgram>>,
}

impl Powers {
    /// `privileged`: it keeps everything.
    pub fn new(privileged: bool) -> Result<Self, Failed> {
        if privileged {
            return Ok(Self { filters: None });
        }
        let wrong =
            |why: String| Failed::words(&format!("cannot make the filter of system calls: {why}"));
        let refused = refused().map_err(|error| wrong(error.to_string()))?;
        let unknown = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
        let filter = |rules, errno: libc::c_int| {
            let answer = SeccompAction::Errno(errno.cast_unsigned());
            let arch = TargetArch::try_from(std::env::consts::ARCH)?;
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?;
            BpfProgram::try_from(filter)
        };
        Ok(Self {
            filters: Some(vec![
                filter(refused, libc::EPERM).map_err(|error| wrong(error.to_string()))?,
                filter(unknown, libc::ENOSYS).map_err(|error| wrong(error.to_string()))?,
            ]),
        })
    }

    /// As [`Powers::new`], where there is one user: a change of owner succeeds and changes nothing. It could
    /// not be made, and what installs packages would give up over it.
    pub fn of_one_user(privileged: bool) -> Result<Self, Failed> {
        let mut powers = Self::new(privileged)?;
        let wrong =
            |why: String| Failed::words(&format!("cannot make the filter of system calls: {why}"));
        let owners = OWNERS.iter().map(|call| (*call, Vec::new())).collect();
        let arch = TargetArch::try_from(std::env::consts::ARCH);
        let arch = arch.map_err(|error| wrong(error.to_string()))?;
        let filter =
            SeccompFilter::new(owners, SeccompAction::Allow, SeccompAction::Errno(0), arch);
        let filter =
            filter.and_then(BpfProgram::try_from).map_err(|error| wrong(error.to_string()))?;
        powers.filters.iter_mut().for_each(|filters| filters.push(filter.clone()));
        Ok(powers)
    }

    /// Takes them. Between vfork and exec: system calls only.
    ///
    /// # Safety
    ///
    /// The caller is a child that will become another program.
    pub unsafe fn take(&self, uid: u32) -> bool {
        let Some(filters) = &self.filters else { return true };
        // SAFETY: numbers and pointers to memory that lives until exec; each call is checked, or may fail
        // because what it takes is not there.
        unsafe {
            for capability in (0..=CAPABILITY_MAX).filter(|capability| KEPT & 1 << capability == 0) {
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
            for filter in filters {
                let program = libc::sock_fprog {
                    len: filter.len() as libc::c_ushort,
                    filter: filter.as_ptr().cast_mut().cast(),
                };
                let mode = libc::SECCOMP_MODE_FILTER;
                if libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) != 0 {
                    return false;
                }
            }
            true
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

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let family = |family: &libc::c_int| {
        let same = SeccompCondition::new(0, Len::Dword, Op::Eq, u64::from(family.cast_unsigned()))?;
        SeccompRule::new(vec![same])
    };
    rules.insert(libc::SYS_socket, FAMILIES.iter().map(family).collect::<Result<_, _>>()?);
    let mut new_namespace = Vec::new();
    for bit in (0..32).map(|bit| 1_i32 << bit).filter(|bit| NAMESPACES & bit != 0) {
        let bit = u64::from(bit.cast_unsigned());
        let has = SeccompCondition::new(0, Len::Dword, Op::MaskedEq(bit), bit)?;
        new_namespace.push(SeccompRule::new(vec![has])?);
    }
    rules.insert(libc::SYS_clone, new_namespace);
    Ok(rules)
}
