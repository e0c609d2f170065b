//! A server, from its options to its end.

mod accept;
pub mod listen;
mod server;
pub mod socket;

pub use server::{ServeError, Server};
