//! HTTP: who may ask, what they ask, and the answer.
//!
//! [`router`] has every route. A handler is the question of one noun: it reads its arguments, calls
//! `view` (to see) or `ask` (to do) and answers with a type of `kiln_api::user`.

mod router;
mod guard;
mod extract;
mod error;
mod push;
mod scene;
mod project;
mod run;
mod job;
mod log;
mod log_stream;
mod live;
mod sse;
pub(crate) mod artifact;
pub(crate) mod media;
mod archive;
mod file;
mod gc;

pub use error::Error;
pub use router::{private, public};
