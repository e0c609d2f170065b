//! What every request passes: is it meant for us, did our own pages send it, is it small enough.
//!
//! There is no login yet, so the two doors are the loopback interface and these checks: a page of
//! another site can neither ask (its `Origin` is not ours) nor read (its `Host`, after a rebound
//! DNS name, is not ours).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Error;

/// Every body is a few lines, but a push of many refs.
const BODY_BYTES_MAX: usize = 16 << 20;
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Names by which the server may be called.
pub struct Hosts {
    names: Vec<String>,
    port: u16,
}

impl Hosts {
    pub fn new(address: SocketAddr, more: &[String]) -> Self {
        let ip = match address {
            SocketAddr::V4(at) => at.ip().to_string(),
            SocketAddr::V6(at) => format!("[{}]", at.ip()),
        };
        let known = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let more = more.iter().map(|name| name.to_ascii_lowercase());
        Self { names: known.into_iter().chain([ip]).chain(more).collect(), port: address.port() }
    }

    /// `localhost:7411`. Without a port only where a proxy may have taken it; with another one when it was
    /// named with that.
    fn knows(&self, authority: &str) -> bool {
        let authority = authority.to_ascii_lowercase();
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (authority.as_str(), None),
        };
        let port_fits = port.is_none_or(|port| {
            port.parse().is_ok_and(|port: u16| port == self.port || port == 80 || port == 443)
        });
        self.names.iter().any(|known| (port_fits && known == name) || *known == authority)
    }
}

/// Refuses what is not meant for this server, and changes that another site asks for.
pub async fn origin(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    match refused(&hosts, request.method(), request.headers(), request.uri().authority()) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

fn refused(
    hosts: &Hosts,
    method: &Method,
    headers: &HeaderMap,
    absolute: Option<&axum::http::uri::Authority>,
) -> Option<Error> {
    let one = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        // Two of them are nobody's honest request.
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(drop),
            (Some(_), Some(_)) => Err(()),
        }
    };
    let no = |message: &str| Some(Error::new(StatusCode::FORBIDDEN, "not_ours", message));
    let host = one(header::HOST).ok().flatten();
    let host_is_ours = host.is_some_and(|host| hosts.knows(host));
    if !host_is_ours || absolute.is_some_and(|authority| !hosts.knows(authority.as_str())) {
        let message = "this server is not called by that name; see `--host` of `kiln serve`";
        return Some(Error::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message));
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let message = "another site asks for this; only this server's own pages may";
    match one(HeaderName::from_static("sec-fetch-site")) {
        Ok(None | Some("same-origin" | "none")) => {}
        _ => return no(message),
    }
    match one(header::ORIGIN) {
        Ok(None) => None,
        Ok(Some(origin)) => {
            let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
            // The very name that was asked, so that one page on loopback cannot ask another port.
            let is_ours = hosts.knows(authority)
                && host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
            if is_ours { None } else { no(message) }
        }
        Err(()) => no(message),
    }
}

/// Reads the whole body, within its limits, before anything is done with it.
pub async fn body(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    match read {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => {
            let message = format!("a body may have at most {BODY_BYTES_MAX} bytes");
            Error::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).into_response()
        }
        Err(_) => {
            let message = "the body did not come within 30 seconds";
            Error::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message).into_response()
        }
    }
}

/// What browsers must not do with our answers.
pub async fn headers(request: Request, next: Next) -> Response {
    const ALWAYS: [(HeaderName, &str); 6] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
             connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        ),
    ];
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        // An answer may be stricter than this.
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(
            "127.0.0.1:7411".parse().unwrap(),
            &["ci.example.org", "ci.lan:8443"].map(str::to_owned),
        )
    }

    #[test]
    fn only_our_names_are_answered() {
        for ours in [
            "localhost:7411",
            "LOCALHOST",
            "127.0.0.1:7411",
            "[::1]:7411",
            "ci.example.org",
            "CI.lan:8443",
        ] {
            assert!(hosts().knows(ours), "{ours}");
        }
        for theirs in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1:9",
            "ci.lan",
            "",
            "[::1",
            "0.0.0.0",
        ] {
            assert!(!hosts().knows(theirs), "{theirs}");
        }
    }

    #[test]
    fn another_site_may_not_change_anything() {
        let status = |method: &Method, pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            refused(&hosts(), method, &headers, None).map(|error| error.status().as_u16())
        };
        let host = ("host", "localhost:7411");
        assert_eq!(status(&Method::POST, &[host]), None);
        assert_eq!(status(&Method::POST, &[host, ("origin", "http://localhost:7411")]), None);
        assert_eq!(status(&Method::POST, &[host, ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(status(&Method::GET, &[host, ("sec-fetch-site", "cross-site")]), None);
        for theirs in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:9999"),
            ("origin", "http://127.0.0.1:7411"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(status(&Method::POST, &[host, theirs]), Some(403), "{theirs:?}");
            assert_eq!(status(&Method::DELETE, &[host, theirs]), Some(403), "{theirs:?}");
        }
        assert_eq!(status(&Method::GET, &[("host", "evil.example")]), Some(421));
        assert_eq!(status(&Method::GET, &[]), Some(421));
        assert_eq!(status(&Method::GET, &[host, ("host", "evil.example")]), Some(421));
    }
}
