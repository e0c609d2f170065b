//! The nouns of kiln. No I/O, no async, no clock.
//!
//! What is stored and sent as it is (plans, events, triggers) derives serde here, with a version;
//! rows of a database and bodies of requests live with whoever owns them.
//!
//! Modules stand in the order in which a run meets them.

pub mod name;
pub mod id;
pub mod pattern;
pub mod inputs;
pub mod trigger;
pub mod condition;
pub mod surroundings;
pub mod plan;
pub mod policy;
pub mod state;
pub mod event;
pub mod usage;
pub mod service;
pub mod outcome;
pub mod reason;
pub mod log;
pub mod layer;
pub mod key;
pub mod artifact;
pub mod limit;

pub use event::{Earlier, EarlierStep, Event, EventKind, FromStep, Notes};
pub use id::{AgentId, AttemptId, Epoch, JobIndex, LeaseId, ProjectId, RunId, RunNumber};
pub use key::JobKey;
pub use name::{JobName, ProjectName};
pub use outcome::{Exit, Outcome};
pub use plan::{Job, Plan, Step};
pub use reason::Reason;
pub use service::{ServiceChange, ServiceEnd, ServiceState};
pub use state::{JobState, RunState};
pub use surroundings::Surroundings;
pub use trigger::{Trigger, TriggerKind};
pub use usage::Usage;
