//! Where the server listens: loopback, unless somebody says that more is meant.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("`{0}` is not an address to listen on; give one such as `127.0.0.1:7411`")]
    NotAnAddress(String),
    #[error(
        "`{0}` can be reached from other machines, and whoever reaches it may run anything here; \
         listen on 127.0.0.1, or add `--allow-remote` when something in front of it asks who comes"
    )]
    Remote(String),
    #[error(
        "port {} of {} is already taken by another program; choose another with `--listen`",
        .0.port(), .0.ip()
    )]
    Taken(SocketAddr),
    #[error("cannot listen on `{at}`")]
    Failed {
        at: SocketAddr,
        #[source]
        cause: io::Error,
    },
}

/// Reads `127.0.0.1:7411`, `[::1]:0`, `localhost:7411`.
pub(super) fn address(text: &str, allow_remote: bool) -> Result<SocketAddr, ListenError> {
    let wrong = || ListenError::NotAnAddress(text.escape_debug().to_string());
    let at = text.to_socket_addrs().map_err(|_| wrong())?.next().ok_or_else(wrong)?;
    match is_loopback(at.ip()) || allow_remote {
        true => Ok(at),
        false => Err(ListenError::Remote(text.to_owned())),
    }
}

pub(super) async fn bind(at: SocketAddr) -> Result<tokio::net::TcpListener, ListenError> {
    tokio::net::TcpListener::bind(at).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken(at),
        _ => ListenError::Failed { at, cause },
    })
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on_unless_more_is_meant() {
        for near in ["127.0.0.1:0", "[::1]:7411", "localhost:7411", "127.9.9.9:1"] {
            let _ = address(near, false).map_err(|error| panic!("{near}: {error}"));
        }
        for far in ["0.0.0.0:7411", "[::]:7411", "192.0.2.1:80", "[2001:db8::1]:80"] {
            assert!(matches!(address(far, false), Err(ListenError::Remote(_))), "{far}");
            assert!(address(far, true).is_ok(), "{far}");
        }
        for bad in ["", "7411", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "a b:1"] {
            assert!(matches!(address(bad, true), Err(ListenError::NotAnAddress(_))), "{bad}");
        }
    }
}
