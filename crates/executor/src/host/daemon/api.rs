//! In which version of its language a daemon is asked, and its refusals in words.
//!
//! Kiln asks in the oldest version that has all it needs, so that an old daemon and a new one do the same.
//! A daemon that does not speak it any more refuses with 400, and is asked again in the oldest that both
//! know. Docker 29 is such a daemon: it begins at 1.44, and says so in the refusal. Who does not is asked
//! what it speaks, which takes a Docker 50 ms to say.

use std::cell::Cell;
use std::io;
use std::path::Path;

use kiln_stdx::http::{self, Pending, Request};
use serde::Deserialize;

use super::{ANSWER_BYTES_MAX, SILENCE_MAX};
use crate::contract::words;

/// Of version 1: what Docker 20.10 and Podman 4 have.
const OLDEST: u32 = 41;

/// The daemon that listens at `socket`.
pub(super) struct Api<'a> {
    socket: &'a Path,
    /// After `1.`: what it is asked in.
    minor: Cell<u32>,
}

/// What a daemon says of the versions that it speaks.
#[derive(Deserialize)]
struct Spoken {
    #[serde(rename = "ApiVersion")]
    newest: String,
    #[serde(rename = "MinAPIVersion", default)]
    oldest: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

impl<'a> Api<'a> {
    pub fn new(socket: &'a Path) -> Self {
        Self { socket, minor: Cell::new(OLDEST) }
    }

    /// Asks for a path without its version, and waits. Errors are words: it is away, or it is too old.
    pub fn ask(&self, request: &Request<'_>) -> Result<(u16, Vec<u8>), String> {
        match self.answer(request)? {
            (400, why) if self.learn(&why)? => self.answer(request),
            answer => Ok(answer),
        }
    }

    /// Asks without waiting, in the version that is known by now.
    pub fn begin(&self, request: &Request<'_>) -> Result<Pending, String> {
        let path = format!("/v1.{}{}", self.minor.get(), request.path);
        let request = Request { path: &path, ..*request };
        http::begin(self.socket, &request, SILENCE_MAX).map_err(|cause| self.away(&cause))
    }

    fn answer(&self, request: &Request<'_>) -> Result<(u16, Vec<u8>), String> {
        let answer = self.begin(request)?.answer();
        let answer = answer.and_then(|answer| Ok((answer.status, answer.whole(ANSWER_BYTES_MAX)?)));
        answer.map_err(|cause| self.away(&cause))
    }

    /// Whether it is to be asked in another version than so far, after it has refused to answer. One that does
    /// not say what it speaks is not.
    fn learn(&self, why: &[u8]) -> Result<bool, String> {
        if let Some(oldest) = told(why).filter(|oldest| *oldest > self.minor.get()) {
            self.minor.set(oldest);
            return Ok(true);
        }
        let request = Request { method: "GET", path: "/version", ..Request::default() };
        let text = http::ask(self.socket, &request, SILENCE_MAX)
            .and_then(|answer| answer.whole(ANSWER_BYTES_MAX))
            .map_err(|cause| self.away(&cause))?;
        let spoken = serde_json::from_slice::<Spoken>(&text).ok();
        let Some(newest) = spoken.as_ref().and_then(|spoken| minor(&spoken.newest)) else {
            return Ok(false);
        };
        if newest < OLDEST {
            return Err(format!(
                "the Docker daemon at `{}` is too old: it speaks version 1.{newest} of its API, and kiln needs \
                 1.{OLDEST}, which Docker 20.10 and Podman 4 have; update it, or use `executor: oci`, which \
                 needs no daemon",
                self.socket.display()
            ));
        }
        let oldest = spoken.and_then(|spoken| minor(&spoken.oldest?));
        let wanted = oldest.map_or(OLDEST, |oldest| oldest.clamp(OLDEST, newest));
        Ok(self.minor.replace(wanted) != wanted)
    }

    /// That it does not answer, in words.
    pub fn away(&self, cause: &io::Error) -> String {
        let socket = self.socket.display();
        let why = match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer".to_owned(),
            _ => words(cause),
        };
        format!("the Docker daemon at `{socket}` cannot be asked: {why}; is it running?")
    }
}

/// The oldest version that it speaks, in a refusal.
fn told(why: &[u8]) -> Option<u32> {
    let said = serde_json::from_slice::<Said>(why).ok()?.message;
    let (_, oldest) = said.split_once("Minimum supported API version is ")?;
    minor(oldest.split([',', ' ']).next()?.trim_end_matches('.'))
}

fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.parse().ok()
}

/// In the daemon's own words.
pub(super) fn refused(what: &str, status: u16, text: &[u8]) -> String {
    let said = serde_json::from_slice::<Said>(text).map(|said| said.message);
    match said {
        Ok(said) => format!("{what}: the daemon says: {}", said.trim().replace('\n', "; ")),
        Err(_) => format!("{what}: the daemon answers with status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    /// One that speaks from one version to another.
    fn speaking(oldest: u32, newest: u32) -> Fake {
        Fake::new(move |path| answer(path, oldest, newest))
    }

    fn answer(path: &str, oldest: u32, newest: u32) -> (u16, String) {
        if path == "/version" {
            let said = format!(r#"{{"ApiVersion": "1.{newest}", "MinAPIVersion": "1.{oldest}"}}"#);
            return (200, said);
        }
        let minor: Option<u32> =
            path.strip_prefix("/v1.").and_then(|rest| rest.split('/').next()?.parse().ok());
        match minor {
            Some(minor) if (oldest..=newest).contains(&minor) && path.ends_with("/wrong") => {
                (400, r#"{"message": "that is wrong"}"#.to_owned())
            }
            Some(minor) if (oldest..=newest).contains(&minor) => (200, "here".to_owned()),
            Some(asked) if newest < 60 && asked < oldest => {
                let why = "client version 1.41 is too old. Minimum supported API version is";
                (400, format!(r#"{{"message": "{why} 1.{oldest}, please upgrade"}}"#))
            }
            _ => (400, r#"{"message": "not in this version"}"#.to_owned()),
        }
    }

    fn get<'a>(path: &'a str) -> Request<'a> {
        Request { method: "GET", path, ..Request::default() }
    }

    #[test]
    fn a_daemon_is_asked_in_the_oldest_version_that_both_know() {
        for (oldest, newest, used) in [(12, 41, 41), (24, 50, 41), (44, 52, 44), (60, 60, 60)] {
            let fake = speaking(oldest, newest);
            let socket = fake.socket();
            let api = Api::new(&socket);
            for _ in 0..2 {
                assert_eq!(api.ask(&get("/a")), Ok((200, b"here".to_vec())), "{oldest}-{newest}");
            }
            let last = format!("/v1.{used}/a");
            let asked = fake.asked();
            let first: &[&str] = match used {
                41 => &[],
                44 => &["/v1.41/a"],
                _ => &["/v1.41/a", "/version"],
            };
            assert_eq!(asked, [first, &[&*last, &*last]].concat());
        }
    }

    #[test]
    fn a_daemon_that_is_too_old_is_refused_in_words() {
        let fake = speaking(12, 40);
        let socket = fake.socket();
        let why = Api::new(&socket).ask(&get("/a")).unwrap_err();
        assert!(why.contains("is too old: it speaks version 1.40 of its API"), "{why}");
        assert!(why.contains("`executor: oci`"), "{why}");
    }

    #[test]
    fn a_wrong_request_stays_wrong_in_any_version() {
        let fake = speaking(24, 50);
        let socket = fake.socket();
        let wrong = (400, br#"{"message": "that is wrong"}"#.to_vec());
        assert_eq!(Api::new(&socket).ask(&get("/wrong")), Ok(wrong));
        assert_eq!(fake.asked(), ["/v1.41/wrong", "/version"]);
    }
}
