//! The host executor: steps are processes on the agent's own machine.
//!
//! ```text
//! kiln ──fork, before any thread──▶ spawner ──fork per session──▶ init ──vfork + exec──▶ step
//!   └───────────────── control socket, one per session ────────────┘ └◀── one pipe ──────┘
//! ```
//!
//! The [`Spawner`] is small and single-threaded, so its forks are cheap and lawful. An *init* is
//! such a fork: it owns a session, reads its output, writes its log, and is the ancestor of
//! everything the steps start. After a job that left nothing it may serve another one that starts on
//! the same layers, with nothing of the first but the mount.
//!
//! It isolates:
//! - files, when there is a mount: the workspace exists only in the session's own mount namespace;
//! - environment, descriptors, signals, umask, standard input: nothing is inherited from the agent;
//! - lifetime: init is the subreaper of its descendants, so that one that daemonises is found too.
//!
//! It does not isolate:
//! - network, unless it is given one of its own (`network`);
//! - users, process ids, the other files of the machine, memory and CPU. Who does not trust
//!   a job uses an executor with containers.

mod spawner;
mod session;
mod talk;
mod attach;
mod guest;
mod terminal;
mod wire;
mod init;
mod network;
mod container;
mod daemon;
mod cgroup;
mod ssh;
mod bound;
mod probe;
mod sys;

pub use attach::{BESIDE, reap, results_left};
pub use bound::try_limits;
pub use guest::Guest;
pub use init::keep_file;
pub use probe::OverlayKind;
pub use session::{HostExecutor, HostSession};
pub use spawner::Spawner;
pub use terminal::terminal_in;
