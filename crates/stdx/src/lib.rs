//! What the standard library lacks, and nothing that knows what CI is.
//!
//! Always: no module here names a run, a job or an agent. Elsewhere: everything with meaning.

pub mod base64;
pub mod bytes;
pub mod clock;
pub mod duration;
pub mod fs;
pub mod http;
pub mod memory;
pub mod overlay;
pub mod path;
pub mod process;
pub mod secret;
pub mod spread;
pub mod subordinate;
pub mod suggest;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use secret::Secret;
pub use subordinate::Subordinate;
