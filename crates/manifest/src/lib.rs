//! Manifests: from the text that a repository holds to the plan of a run.
//!
//! bytes ──source──▶ text ──format──▶ Written ──resolve──▶ Plan
//!                                        │
//!                                        └─ written is not meant: a job's `needs` is still a word,
//!                                           a matrix is not multiplied out
//!
//! A format knows its own syntax and keys and nothing of plans; the resolver knows plans and nothing
//! of YAML. So one more format is one more folder under `format/`. Everybody who finds a fault
//! writes it down with its place and goes on; a manifest is refused at the end, with all of them.
//!
//! Always: any bytes give a plan or at least one error with a place, in bounded time and memory.
//! Elsewhere: running the plan (`engine`); finding the file in a tree (`git`, `cli`).

mod source;
mod node;
mod format;
mod written;
mod expand;
mod resolve;
mod planning;
mod complaint;
pub mod diagnostic;
mod schema;

pub use diagnostic::{Diagnostic, Severity};
pub use planning::{FILE_NAMES, File, Input, Planned, check, inputs, plan};
pub use schema::schema;
