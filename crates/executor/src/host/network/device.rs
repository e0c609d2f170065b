//! A network namespace, its loopback device, and the addresses that are refused in it.

#![allow(unsafe_code, reason = "network devices and their rules have no safe interface")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::contract::words;
use crate::host::init::Failed;

/// Where clouds answer every process of a machine with that machine's credentials.
const CLOUDS: &[IpAddr] = &[
    // Amazon, Google, Azure, Oracle, DigitalOcean, Hetzner, OpenStack; Amazon's containers; Alibaba; Azure.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Amazon, its containers, Google.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Leaves the machine's network for an empty one with a loopback device.
pub(super) fn own() -> Result<(), Failed> {
    // SAFETY: no descriptor or memory is affected.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let cause = io::Error::last_os_error();
        return Err(Failed::isolation("cannot make a network namespace", &cause));
    }
    loopback_up()?;
    // Every user of it may serve on every port and send a ping: nobody else is there to be harmed. What
    // the kernel does not have, or a map of one user does not let us say, is done without.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    Ok(())
}

fn loopback_up() -> Result<(), Failed> {
    let failed = || {
        let cause = io::Error::last_os_error();
        Failed::isolation("cannot bring the loopback device up", &cause)
    };
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(|_| failed())?;
    // SAFETY: all zeros is a valid request; its name is `lo` with its closing zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads a request of this size and keeps nothing of it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(failed()),
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor, or -1.
    match unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: nobody else knows of it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Every address of the machine but those of its loopback devices. Asked before it is left.
pub(super) fn addresses() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = with_masks().into_iter().map(|(address, _)| address).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Each with its network's mask, where it is one of IPv4.
fn with_masks() -> Vec<(IpAddr, Option<Ipv4Addr>)> {
    let mut found = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list is made by the call, walked while it lives, and freed once.
    unsafe {
        if libc::getifaddrs(&raw mut first) != 0 {
            return found;
        }
        let mut next = first;
        while let Some(one) = next.as_ref() {
            next = one.ifa_next;
            let Some(address) = one.ifa_addr.as_ref() else { continue };
            let mut mask = None;
            let address = match i32::from(address.sa_family) {
                libc::AF_INET => {
                    let v4 = one.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    if !one.ifa_netmask.is_null() {
                        let v4 = one.ifa_netmask.cast::<libc::sockaddr_in>().read_unaligned();
                        mask = Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)));
                    }
                    IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)))
                }
                libc::AF_INET6 => {
                    let v6 = one.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr))
                }
                _ => continue,
            };
            if !address.is_loopback() {
                found.push((address, mask));
            }
        }
        libc::freeifaddrs(first);
    }
    found
}

/// Makes the namespace refuse these addresses, and those of clouds, unless they become its own. By rules
/// and not by routes, so that no route can be more specific and no choice of a device goes round them.
pub(super) fn refuse(addresses: &[IpAddr]) -> Result<(), String> {
    let whole = |address: &IpAddr| (*address, if address.is_ipv4() { 32 } else { 128 });
    refuse_all(CLOUDS.iter().chain(addresses).map(whole))
}

/// As [`refuse`], of everything that is reached without a gateway from where we are.
pub(super) fn refuse_neighbours() -> Result<(), String> {
    let network = |(address, mask): (IpAddr, Option<Ipv4Addr>)| match (address, mask) {
        (IpAddr::V4(address), Some(mask)) => {
            Some((IpAddr::V4(address & mask), mask.to_bits().leading_ones() as u8))
        }
        _ => None,
    };
    refuse_all(with_masks().into_iter().filter_map(network))
}

fn refuse_all(networks: impl Iterator<Item = (IpAddr, u8)>) -> Result<(), String> {
    const NETLINK_ROUTE: i32 = 0;
    let what = "cannot refuse addresses in the job's network";
    let said = |cause: &io::Error| format!("{what}: {}", words(cause));
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_ROUTE).map_err(|e| said(&e))?;
    for (address, n_bits) in networks {
        match refuse_one(&socket, &address, n_bits) {
            // A kernel without the protocol cannot send to its addresses either.
            Err(cause) if address.is_ipv6() && cause.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            }
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|cause| said(&cause))?,
        }
    }
    Ok(())
}

/// `ip rule add to ADDRESS prohibit`, in the kernel's words (linux/fib_rules.h, linux/netlink.h).
fn refuse_one(socket: &OwnedFd, address: &IpAddr, n_bits: u8) -> io::Result<()> {
    const HEADER_BYTES: usize = 16;
    const PROHIBIT: u8 = 8;
    const TO: u16 = 1;
    const PRIORITY: u16 = 6;
    // After the table of the namespace's own addresses (0), before all routes (32766).
    const PRIORITY_OF_OURS: u32 = 100;
    let (family, octets) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let mut message = vec![0; HEADER_BYTES];
    message.extend([family as u8, n_bits, 0, 0, 0, 0, 0, PROHIBIT, 0, 0, 0, 0]);
    for (kind, value) in [(TO, octets), (PRIORITY, PRIORITY_OF_OURS.to_ne_bytes().to_vec())] {
        message.extend((value.len() as u16 + 4).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
    }
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let length = message.len() as u32;
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_NEWRULE.to_ne_bytes());
    message[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
    rustix::io::write(socket, &message)?;
    let mut answer = [0; 1024];
    let n_bytes = rustix::io::read(socket, &mut answer[..])?;
    let error = answer[..n_bytes].get(HEADER_BYTES..HEADER_BYTES + 4);
    let error = error.and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
