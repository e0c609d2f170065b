//! Stories from outside: what a person does with kiln, and what they then see.
//!
//! Each module is one story; each test in it is a fact that must hold. They use the built program,
//! git, a browser and nothing of kiln's insides. A story waits for facts, never for time.

mod bad_input;
mod caches;
mod complaints;
mod containers;
mod control;
mod crash;
mod damage;
mod debian;
mod demo;
mod documents;
mod docker;
#[path = "../../crates/executor/tests/conformance/dockerd.rs"]
#[allow(dead_code, reason = "the executors' suite uses it too")]
mod dockerd;
mod dogfood;
mod door;
mod escapes;
mod from_step;
mod gc;
mod hits;
mod images;
mod policy;
mod dot_git;
mod laptop;
mod limits;
mod order;
mod page;
mod push;
mod reuse;
mod services;
mod shell;
mod ssh;
mod trouble;
mod users;
mod views;
mod watch;
