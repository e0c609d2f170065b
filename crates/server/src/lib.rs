//! The server: runs, the reconcilers that start them, and the HTTP by which they are seen.
//!
//! Modules stand in the order in which a push meets them.

pub mod state;
pub mod config;
pub mod govern;
pub mod registries;
pub mod hook;
pub mod report;
pub mod reconcile;
pub mod mirrors;
pub mod secret;
pub mod runs;
pub mod collect;
pub mod view;
pub mod ask;
pub mod scene;
pub mod http;
pub mod web;
pub mod serve;

pub use serve::{ServeError, Server};
pub use state::{App, ServeOptions};
