//! Steps on another machine, over the `ssh` of this one.
//!
//! ```text
//! init ──fork──▶ relay ──▶ ssh ═══════▶ sh (runner.sh) ──▶ step
//!   │              ├─────▶ ssh, in the same connection ══▶ tar   files there, and what changed back
//!   └◀── pipe ─────┘
//! ```
//!
//! Init keeps the log, the clock and the workspace, as for steps that run here. The *relay* holds the
//! connection. It is forked before init enters any namespace, because ssh mistrusts configuration whose
//! owner it cannot see. The far side needs a POSIX shell and tar: what runs there is `runner.sh`, sent
//! over its standard input.
//!
//! It isolates:
//! - files, environment, standard input: as on the host; the workspace is a folder of its own there;
//! - lifetime: when the connection ends, from whatever side, what runs there is killed and the
//!   folder removed.
//!
//! It does not isolate: what the user may do there, the job may do.
//!
//! Elsewhere: keys, users, jump hosts (`ssh_config`).

mod words;
mod call;
mod line;
mod relay;
mod archive;
mod unpack;
mod far;

pub(super) use call::remove_traces;
pub(super) use far::{Ended, Far, Word};
