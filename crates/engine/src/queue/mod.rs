//! Which ready attempt an agent gets.
//!
//! Among the offers that an agent may take (it has all their labels, and their lock is free):
//!
//! 1. the highest priority, over all projects;
//! 2. then the project that runs the fewest attempts, and of those the one that was served longest
//!    ago, so that 9,000 offers of one project do not stand before another's first;
//! 3. then whoever was offered first.
//!
//! One idea: offers that differ in nothing but their place stand in one *lane* (project, labels,
//! lock), and only the heads of lanes that can move are compared. A lane whose lock is held is put
//! aside until somebody lets go; a label that no agent has asked with is never looked at. So taking
//! costs the logarithm of what is offered, whatever waits beside it.
//!
//! Always: an attempt is offered once, or taken once, or neither. A lock is not given beyond the
//! limit that its taker knows. The holder of a lock keeps it until `release` or `put_back`.
//!
//! Elsewhere: what is offered (`run`); making a lease of what was taken (`server`).

mod choose;
mod label;
mod lane;
mod lock;
mod offer;

pub use choose::Queue;
pub use offer::{Blocked, Offer};
