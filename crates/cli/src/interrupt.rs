//! Signals that ask this process to end.
//!
//! Always: a signal that arrives before anybody listens is not lost, once [`Interrupts::listen`] has
//! returned.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Blame, Result};

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C.
    Int,
    Term,
    /// The terminal is gone.
    Hup,
}

impl Interrupt {
    /// Who cancelled the run, for its history.
    pub fn by(self) -> String {
        let user = crate::place::user_name();
        match self {
            Self::Int => format!("{user} (Ctrl-C)"),
            Self::Term => format!("{user} (SIGTERM)"),
            Self::Hup => format!("{user} (the terminal was closed)"),
        }
    }

    /// What is said when a run is being cancelled for it.
    pub fn cancelling(self) -> String {
        match self {
            Self::Int => "cancelling; press Ctrl-C again to leave at once".to_owned(),
            Self::Term => "cancelling, because of SIGTERM".to_owned(),
            Self::Hup => "cancelling, because the terminal was closed".to_owned(),
        }
    }
}

/// The three signals, heard one after the other.
pub struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupts {
    pub fn listen() -> Result<Self> {
        let listen = || -> io::Result<Self> {
            Ok(Self {
                int: signal(SignalKind::interrupt())?,
                term: signal(SignalKind::terminate())?,
                hup: signal(SignalKind::hangup())?,
            })
        };
        listen().elsewhere("cannot listen for signals")
    }

    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Interrupt {
        tokio::select! {
            biased;
            _ = self.int.recv() => Interrupt::Int,
            _ = self.term.recv() => Interrupt::Term,
            _ = self.hup.recv() => Interrupt::Hup,
        }
    }
}
