//! What an owner and an init say to one another: JSON, after its length as four bytes.
//!
//! The socket is the only way of a session's secrets: they are never in an argument, in an
//! environment of kiln's own processes, or on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use kiln_model::artifact::Artifact;
use kiln_model::plan::{ArtifactRule, Limits};
use kiln_model::{AttemptId, Exit};
use kiln_stdx::Subordinate;
use kiln_stdx::overlay::Mount;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::probe::OverlayKind;
use crate::{
    Container, Remote, Sandbox, SessionNetwork, SessionSpec, StepCommand, StepDone, StepError,
};

/// Larger ones are a bug or an attack: an environment may have megabytes, not more.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;

/// From the owner.
#[derive(Serialize, Deserialize)]
pub(super) enum Ask {
    /// The first word to a new init, and to one that rests.
    Open(Box<Opening>),
    /// The other possible first word: can overlays be mounted here?
    Probe {
        #[serde(with = "kiln_stdx::path")]
        folder: PathBuf,
    },
    /// The first word of a new owner to an init that lost its own.
    Attach,
    Step(StepCommand),
    Cancel,
    /// A command for a person. Its streams come attached to this message's first byte: the end of a
    /// terminal, or the three standard ones.
    Visit {
        command: StepCommand,
        on: StreamKind,
    },
    /// From a guest: a command beside the steps, or a shell. Its streams come as with `Visit`.
    Join {
        argv: Vec<String>,
        env: Vec<(String, String)>,
        /// What a shell's prompt says of the place.
        label: String,
        on: StreamKind,
    },
    /// For the visit that runs.
    Signal {
        number: i32,
    },
    /// The last [`Tell::Log`] has been heard.
    Seen,
    /// A line of kiln's own for the log.
    Say {
        line: String,
    },
    /// On which TCP ports does anything listen?
    Listening,
    Collect {
        rules: Vec<ArtifactRule>,
        #[serde(with = "kiln_stdx::path")]
        objects: PathBuf,
    },
    /// Is anything running? If not: this in the workspace's place.
    Remount(Option<Box<Mount>>),
    Close,
    /// As `Close`, and then wait for another `Open` if nothing stands against it.
    Rest,
}

/// From the init.
#[derive(Serialize, Deserialize)]
pub(super) enum Tell {
    Opened,
    Refused(Refusal),
    Probed(Option<OverlayKind>),
    State(State),
    Log { n_bytes: u64 },
    StepOver(Result<StepDone, StepError>),
    Collected(Result<Vec<Artifact>, StepError>),
    Remounted(Result<bool, StepError>),
    VisitOver(Result<Exit, StepError>),
    Listening(Result<BTreeSet<u16>, StepError>),
    Closed(Result<(), StepError>),
    Resting,
}

/// [`crate::Streams`] without the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StreamKind {
    Terminal,
    Plain,
}

/// So many descriptors come with a message at most.
pub(super) const DESCRIPTORS_MAX: usize = 3;

#[derive(Serialize, Deserialize)]
pub(super) enum Refusal {
    Isolation(String),
    Mount(String),
    Other(String),
}

/// What a new owner must know.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub done: Vec<StepDone>,
    pub running: Option<u32>,
    pub n_log_bytes: u64,
    pub mount: Option<Mount>,
}

/// [`SessionSpec`] as it is sent.
#[derive(Serialize, Deserialize)]
pub(super) struct Opening {
    pub attempt: AttemptId,
    #[serde(with = "kiln_stdx::path")]
    pub attempt_dir: PathBuf,
    pub mount: Option<Mount>,
    pub further: Vec<Mount>,
    #[serde(default, with = "kiln_stdx::path::list")]
    pub read_only: Vec<PathBuf>,
    pub preface: Vec<String>,
    #[serde(with = "kiln_stdx::path")]
    pub directory: PathBuf,
    pub container: Option<Container>,
    pub network: SessionNetwork,
    pub env: BTreeMap<String, String>,
    pub masked: Vec<String>,
    #[serde(with = "kiln_stdx::path")]
    pub log: PathBuf,
    pub log_bytes_max: u64,
    pub grace: Duration,
    #[serde(default)]
    pub stop_signal: Option<i32>,
    pub orphan_for: Duration,
    pub limits: Limits,
    #[serde(default)]
    pub remote: Option<Remote>,
    pub sandbox: Option<Sandbox>,
    #[serde(default)]
    pub users: Option<Subordinate>,
}

impl From<SessionSpec> for Opening {
    fn from(spec: SessionSpec) -> Self {
        Self {
            attempt: spec.attempt,
            attempt_dir: spec.attempt_dir,
            mount: spec.mount,
            further: spec.further,
            read_only: spec.read_only,
            preface: spec.preface,
            directory: spec.directory,
            container: spec.container,
            network: spec.network,
            env: spec.env,
            masked: spec.masked.iter().map(|secret| secret.expose().clone()).collect(),
            log: spec.log,
            log_bytes_max: spec.log_bytes_max,
            grace: spec.grace,
            stop_signal: spec.stop_signal,
            orphan_for: spec.orphan_for,
            limits: spec.limits,
            remote: spec.remote,
            sandbox: spec.sandbox,
            users: spec.users,
        }
    }
}

pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).expect("messages are plain data");
    let n_bytes = u32::try_from(frame.len() - 4).expect("messages are bounded by their makers");
    frame[..4].copy_from_slice(&n_bytes.to_le_bytes());
    frame
}

/// Bytes as they came, until they are whole messages.
#[derive(Default)]
pub(super) struct Inbox {
    pub bytes: Vec<u8>,
    /// Those that came attached, for the messages that ask for them.
    pub descriptors: Vec<OwnedFd>,
}

/// The other side does not speak this language.
#[derive(Debug)]
pub(super) struct Garbled;

impl Inbox {
    /// Takes the next whole message out.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Garbled> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let n_bytes = u32::from_le_bytes(*head) as usize;
        if n_bytes > FRAME_BYTES_MAX {
            return Err(Garbled);
        }
        let Some(body) = rest.get(..n_bytes) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(|_| Garbled)?;
        // What was read may have been a secret.
        self.bytes[..4 + n_bytes].fill(0);
        self.bytes.drain(..4 + n_bytes);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let mut all = encode(&Ask::Cancel);
        all.extend(encode(&Ask::Seen));
        let mut inbox = Inbox::default();
        let mut heard = 0;
        for byte in all {
            inbox.bytes.push(byte);
            while inbox.next::<Ask>().unwrap().is_some() {
                heard += 1;
            }
        }
        assert_eq!(heard, 2);
        assert!(inbox.bytes.is_empty());
    }

    #[test]
    fn a_monstrous_length_is_refused_before_it_is_allocated() {
        let mut inbox = Inbox { bytes: vec![0xff; 8], ..Inbox::default() };
        assert!(inbox.next::<Ask>().is_err());
    }
}
