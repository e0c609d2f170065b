//! kiln as its users have it: the built program, real repositories, a real browser, and nothing else.
//!
//! The stories in `tests/it` and the figures of `cargo xtask bench` are told with these parts. They
//! know the program's commands, its pages and its JSON, and no crate of it but `stdx`, which knows
//! nothing of kiln either: a story cannot pass by looking inside.

pub mod binary;
pub mod browser;
pub mod http;
pub mod repository;
pub mod server;
pub mod site;
pub mod sse;
pub mod sshd;
pub mod terminal;
pub mod wait;
pub mod world;

pub use http::Answer;
pub use repository::{Bare, WorkTree};
pub use server::Server;
pub use site::Site;
pub use terminal::Terminal;
pub use world::{Ran, World, ran};
