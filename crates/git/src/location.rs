//! Where a project's repository is, and which names are refused.

use std::fmt;
use std::path::PathBuf;

use crate::error::GitError;

/// An absolute path on this machine or a URL (https, http, ssh, git, scp form).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Path(PathBuf),
    Url(String),
}

/// Protocols that git may speak for us. `ext` and every other helper runs a program of the URL's
/// choosing.
pub(crate) const PROTOCOLS: &str = "https:http:ssh:git";

/// As long as a path may be (`PATH_MAX`).
const LOCATION_BYTES_MAX: usize = 4096;

impl Location {
    /// Reads what a person wrote. `file:///path` is the path.
    pub fn parse(text: &str) -> Result<Self, GitError> {
        let refused =
            |why| Err(GitError::Refused { what: "the repository", text: shown(text), why });
        if text.is_empty() {
            return refused("it is empty");
        }
        if text.len() > LOCATION_BYTES_MAX {
            let text = shown(text).chars().take(60).chain(['…']).collect();
            let why = "it is longer than any path or URL";
            return Err(GitError::Refused { what: "the repository", text, why });
        }
        if text.chars().any(char::is_control) {
            return refused("it contains a control character");
        }
        if text.starts_with('-') {
            return refused("git would take it for an option");
        }
        if text.starts_with('/') {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        if let Some(rest) = text.strip_prefix("file://") {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            return match path.starts_with('/') {
                true => Ok(Self::Path(decoded(path))),
                false => refused("a file URL has three slashes: `file:///srv/git/app.git`"),
            };
        }
        match text.split_once("://") {
            Some((scheme, rest)) => url(scheme, rest).map(|()| Self::Url(text.to_owned())),
            None if is_helper(text) => Err("its protocol runs programs; use https, ssh or a path"),
            None => scp(text).map(|()| Self::Url(text.to_owned())),
        }
        .or_else(refused)
    }

    /// As a job may know it. The user of an http URL may be a token; the one of ssh is an address.
    pub(crate) fn without_credentials(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        match self {
            Self::Path(path) => path.as_os_str().as_bytes().to_owned(),
            Self::Url(url) => match url.split_once("://") {
                Some((scheme, rest)) if scheme.to_ascii_lowercase().starts_with("http") => {
                    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                    format!("{scheme}://{host}/{path}").into_bytes()
                }
                _ => url.clone().into_bytes(),
            },
        }
    }

    /// As it may be shown.
    pub fn shown(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Url(url) => shown(url),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

fn url(scheme: &str, rest: &str) -> Result<(), &'static str> {
    if !PROTOCOLS.split(':').any(|known| known == scheme.to_ascii_lowercase()) {
        return Err("its protocol is not one of https, http, ssh, git and file");
    }
    let (authority, path) = rest.split_once('/').ok_or("it names a host and no repository")?;
    let host = match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            return Err("a password in a URL is seen by every process; \
                        use git's credential store or an ssh key");
        }
        Some((user, _)) if user.starts_with('-') => return Err("its user begins with a dash"),
        Some((_, host)) => host,
        None => authority,
    };
    match host {
        "" => Err("it names no host"),
        host if host.starts_with('-') => Err("its host begins with a dash"),
        host if host.contains(' ') => Err("its host contains a space"),
        _ if path.is_empty() => Err("it names a host and no repository"),
        _ if path.starts_with('-') => Err("its path begins with a dash"),
        _ => Ok(()),
    }
}

/// `ext::sh -c …`: a helper's name and two colons.
fn is_helper(text: &str) -> bool {
    let name = text.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"+-._".contains(b));
    text[name.count()..].starts_with("::")
}

/// `git@example.org:app.git`.
fn scp(text: &str) -> Result<(), &'static str> {
    let neither = "it is neither an absolute path nor a URL";
    let (host, path) = text.split_once(':').ok_or(neither)?;
    if host.contains('/') {
        return Err(neither);
    }
    let bare = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match bare {
        "" => Err("it names no host"),
        _ if host.starts_with('-') || bare.starts_with('-') => Err("its host begins with a dash"),
        _ if host.contains(' ') => Err("its host contains a space"),
        _ if path.is_empty() => Err("it names a host and no repository"),
        _ if path.starts_with('-') => Err("its path begins with a dash"),
        _ => Ok(()),
    }
}

/// Without what may be a password.
fn shown(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (user, rest))) if user.contains(':') && !user.contains('/') => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}:***@{rest}")
        }
        _ => text.to_owned(),
    }
}

/// `%20` and the like, as git decodes them in a file URL.
fn decoded(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let byte = hex.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match byte {
            Some(byte @ 1..) => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart() {
        let path = |p: &str| Location::Path(PathBuf::from(p));
        assert_eq!(Location::parse("/srv/git/app.git").unwrap(), path("/srv/git/app.git"));
        assert_eq!(Location::parse("file:///srv/my%20app").unwrap(), path("/srv/my app"));
        for url in [
            "https://example.org/app.git",
            "ssh://git@example.org:2222/app.git",
            "git@example.org:team/app.git",
            "example.org:app",
            "git://example.org/app",
        ] {
            assert_eq!(Location::parse(url).unwrap(), Location::Url(url.to_owned()));
        }
    }

    #[test]
    fn hostile_locations_are_refused() {
        for bad in [
            "",
            "app",
            "./app",
            "../app",
            "--upload-pack=touch /tmp/x",
            "-oProxyCommand=x",
            "ext::sh -c touch% x",
            "fd::17",
            "EXT::x",
            "ext://x/y",
            "ftp://example.org/x",
            "https://",
            "https:///x",
            "https://example.org",
            "https://example.org/",
            "ssh://-oProxyCommand=x/y",
            "ssh://-oProxyCommand=x@example.org/y",
            "ssh://git@-oProxyCommand=x/y",
            "-oProxyCommand=x:y",
            "git@-oProxyCommand=x:y",
            "git@example.org:--upload-pack=x",
            "git@example.org:",
            "https://user:secret@example.org/x",
            "file://elsewhere/x",
            "https://example.org/x\n--upload-pack=y",
            "/srv/\u{1b}[2J",
        ] {
            let refused = Location::parse(bad);
            assert!(matches!(refused, Err(GitError::Refused { .. })), "{bad:?}: {refused:?}");
        }
    }

    #[test]
    fn a_token_in_a_url_is_not_for_jobs() {
        for (given, known) in [
            ("https://t0ken@example.org/app.git", "https://example.org/app.git"),
            ("HTTPS://t0ken@example.org:8443/a@b", "HTTPS://example.org:8443/a@b"),
            ("https://example.org/app.git", "https://example.org/app.git"),
            ("ssh://git@example.org/app.git", "ssh://git@example.org/app.git"),
            ("git@example.org:app.git", "git@example.org:app.git"),
            ("/srv/git/app.git", "/srv/git/app.git"),
        ] {
            let without = Location::parse(given).unwrap().without_credentials();
            assert_eq!(String::from_utf8_lossy(&without), known);
        }
    }

    #[test]
    fn a_password_is_not_repeated_in_the_error() {
        let error = Location::parse("https://me:s3cret@example.org/x").unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_location_without_end_is_refused_in_few_words() {
        let error = Location::parse(&"x".repeat(1 << 20)).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }
}
