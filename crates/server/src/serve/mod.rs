//! A server, from its options to its end.

pub mod listen;
pub mod socket;
mod accept;
mod server;

pub use server::{ServeError, Server};
