//! How a run and a job are written: `project#12`, `project#12/test`, `#12` for a local run, or the
//! address of a page.

use std::str::FromStr;

/// A run, perhaps one of its jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `None`: a local run of this repository.
    pub project: Option<String>,
    pub number: i64,
    pub job: Option<String>,
    /// The server that a page's address names.
    pub server: Option<String>,
}

/// Why a text refers to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error(
        "`{0}` is not a run; a run is written `project#12`, a job `project#12/test`, a local run `#12`"
    )]
    Shape(String),
    #[error("`{0}` is not the number of a run; runs are numbered from 1")]
    Number(String),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return of_address(text);
        }
        let (project, rest) = match text.split_once('#') {
            Some((project, rest)) => (Some(project).filter(|p| !p.is_empty()), rest),
            None => (None, text),
        };
        let (number, job) = match rest.split_once('/') {
            Some((number, job)) => (number, Some(job)),
            None => (rest, None),
        };
        if job == Some("") || number.is_empty() {
            return Err(ReferenceError::Shape(text.to_owned()));
        }
        Ok(Self {
            project: project.map(str::to_owned),
            number: positive(number, text)?,
            job: job.map(str::to_owned),
            server: None,
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.project.as_deref().unwrap_or(""), self.number)?;
        match &self.job {
            Some(job) => write!(f, "/{job}"),
            None => Ok(()),
        }
    }
}

/// `http://host:7411/p/{project}/{number}[/{job}][?…]`.
fn of_address(text: &str) -> Result<Reference, ReferenceError> {
    let shape = || ReferenceError::Shape(text.to_owned());
    let (server, path) = text.split_once("/p/").ok_or_else(shape)?;
    let path = path.split(['?', '#']).next().unwrap_or("");
    let mut parts = path.split('/').map(decode);
    let project = parts.next().flatten().filter(|p| !p.is_empty()).ok_or_else(shape)?;
    let number = parts.next().flatten().ok_or_else(shape)?;
    let job = match parts.next() {
        None => None,
        Some(job) => job.map(|job| job.to_owned()).filter(|job| !job.is_empty()),
    };
    Ok(Reference {
        project: Some(project),
        number: positive(&number, text)?,
        job,
        server: Some(server.to_owned()),
    })
}

fn positive(number: &str, text: &str) -> Result<i64, ReferenceError> {
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ReferenceError::Shape(text.to_owned()));
    }
    number.parse().ok().filter(|n| *n > 0).ok_or_else(|| ReferenceError::Number(number.to_owned()))
}

/// Percent-decoding; `None` when it is not UTF-8.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |at: usize| rest.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &rest[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(project: Option<&str>, number: i64, job: Option<&str>) -> Reference {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Reference { project: owned(project), number, job: owned(job), server: None }
    }

    #[test]
    fn every_way_to_write_a_run_is_understood() {
        for (text, meant) in [
            ("site#12", reference(Some("site"), 12, None)),
            ("site#12/test", reference(Some("site"), 12, Some("test"))),
            ("site#12/test:15,linux", reference(Some("site"), 12, Some("test:15,linux"))),
            ("#12", reference(None, 12, None)),
            ("12", reference(None, 12, None)),
            ("#12/test", reference(None, 12, Some("test"))),
            ("12/test", reference(None, 12, Some("test"))),
        ] {
            assert_eq!(text.parse(), Ok(meant), "{text}");
        }
        let at = Some("http://127.0.0.1:7411".to_owned());
        let page = "http://127.0.0.1:7411/p/site/12/test%3A15%2Clinux?attempt=2";
        let meant = Reference { server: at, ..reference(Some("site"), 12, Some("test:15,linux")) };
        assert_eq!(page.parse(), Ok(meant));
    }

    #[test]
    fn what_is_no_run_is_refused() {
        for text in ["", "#", "site", "site#", "site#x", "#-1", "#1/", "http://h/x/1", "1 2", "+1"]
        {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Shape(_))), "{text}");
        }
        for text in ["#0", "#99999999999999999999"] {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Number(_))), "{text}");
        }
    }
}
