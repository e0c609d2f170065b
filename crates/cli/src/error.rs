//! Errors at the rim: whose they are, what to do about them, and the exit code that follows.
//!
//! Always: an error that reaches `main` has a [`Kind`]; nothing is classified by its text.

use std::fmt;
use std::process::ExitCode;

use kiln_stdx::fs::FsError;
use kiln_store::StoreError;

/// How a command ended when nothing went wrong with the command itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// The run did not succeed.
    RunFailed,
    /// The manifest has errors, which have been shown.
    Refused,
    /// Something that kiln needs is missing, and has been shown.
    Missing,
    /// A signal or a person ended it.
    Interrupted,
    /// What a command of the person's own ended with.
    Passed(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::RunFailed => 1,
            Self::Refused => 2,
            Self::Missing => 3,
            Self::Interrupted => 130,
            Self::Passed(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Whose trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A wrong argument or manifest: exit 2.
    Yours,
    /// The machine, the network, a server: exit 3.
    Elsewhere,
    /// A bug in kiln: exit 70.
    Ours,
    /// Nobody reads standard output any more: quiet, as `SIGPIPE` would end it.
    Pipe,
}

/// A command that could not do what was asked.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub error: anyhow::Error,
    pub help: Option<String>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn yours(what: impl fmt::Display) -> Self {
        Self::new(Kind::Yours, what)
    }

    pub fn elsewhere(what: impl fmt::Display) -> Self {
        Self::new(Kind::Elsewhere, what)
    }

    pub fn ours(what: impl fmt::Display) -> Self {
        Self::new(Kind::Ours, what)
    }

    pub fn pipe() -> Self {
        Self::new(Kind::Pipe, "broken pipe")
    }

    fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self { kind, error: anyhow::anyhow!("{what}"), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::Yours => 2,
            Kind::Elsewhere => 3,
            Kind::Ours => 70,
            Kind::Pipe => 141,
        }
    }

    /// `error: …`, a line for each cause that adds something, `help: …`.
    pub fn render(&self, paint: impl Fn(&str) -> String) -> String {
        let mut text = format!("{} {}\n", paint("error:"), self.error);
        let mut above = self.error.to_string();
        for cause in self.error.chain().skip(1).map(ToString::to_string) {
            // Some libraries repeat their cause in their own message.
            if !above.contains(&cause) {
                text.push_str(&format!("  cause: {cause}\n"));
            }
            above = cause;
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("{} {help}\n", paint("help:")));
        }
        if self.kind == Kind::Ours {
            text.push_str(&format!("{} {}\n", paint("help:"), crate::bug::HOW_TO_REPORT));
        }
        text
    }
}

/// Says whose an error is and what was being done.
pub trait Blame<T> {
    fn yours(self, what: impl fmt::Display) -> Result<T>;
    fn elsewhere(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Blame<T> for std::result::Result<T, E> {
    fn yours(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|cause| Failure {
            kind: Kind::Yours,
            error: cause.into().context(what.to_string()),
            help: None,
        })
    }

    fn elsewhere(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|cause| Failure {
            kind: Kind::Elsewhere,
            error: cause.into().context(what.to_string()),
            help: None,
        })
    }
}

/// Adds the way out.
pub trait Help<T> {
    fn help(self, help: impl Into<String>) -> Result<T>;
}

impl<T> Help<T> for Result<T> {
    fn help(self, help: impl Into<String>) -> Result<T> {
        self.map_err(|failure| failure.help(help))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { kind: Kind::Elsewhere, error: error.into(), help: None }
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Self { kind: Kind::Elsewhere, error: error.into(), help: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_causes_once_and_the_way_out() {
        let cause = std::io::Error::other("disk full");
        let failure = Err::<(), _>(cause).elsewhere("cannot write `x`").help("free some space");
        assert_eq!(
            failure.unwrap_err().render(str::to_owned),
            "error: cannot write `x`\n  cause: disk full\nhelp: free some space\n"
        );
    }
}
