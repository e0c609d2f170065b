//! HTTP: who may ask, what they ask, and the answer.
//!
//! [`router`] has every route. A handler is the question of one noun: it reads its arguments, calls
//! `view` (to see) or `ask` (to do) and answers with a type of `kiln_api::user`.

mod artifact;
mod error;
mod extract;
mod file;
mod guard;
mod job;
mod live;
mod log;
mod log_stream;
mod project;
mod push;
mod router;
mod run;
mod sse;

pub use error::Error;
pub use router::{private, public};
