//! How an agent runs the steps of a job: one contract, several executors.
//!
//! A job is a [`Session`]: opened on a workspace, given its steps one at a time, closed. Whatever
//! happens in between, `close` leaves no process, no mount and no descriptor behind.
//!
//! Always: what the steps write goes from their pipe to the log file by one process and is never
//! held by the agent; the agent only hears how far the log has come. kiln's own trouble
//! ([`StepError`]) is never taken for a step's [`Exit`](kiln_model::Exit), nor the other way round.
//!
//! Elsewhere: which steps there are (`agent`), what the workspace consists of (`workspace`), who
//! reads the log (`store`).

mod contract;
mod mask;

pub mod host;

pub use contract::{
    Attached, Bind, Container, Daemon, Executor, LogPosition, OpenError, Reach, Remote, Root,
    Sandbox, Session, SessionNetwork, SessionSpec, StepCommand, StepDone, StepError, Streams,
    Voice,
};
pub use host::{HostExecutor, HostSession, OverlayKind, Spawner};
