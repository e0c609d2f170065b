//! The one door for who works on kiln: checks, tests, figures and generated files.
//!
//! Always: nothing here is part of the product, and nothing here writes into the checkout but
//! `cargo xtask docs`. The rules that the source must keep are tests of this package
//! (`xtask/tests/tidy`), so `cargo test --workspace` runs them too.

pub mod bench;
pub mod check;
pub mod command;
pub mod generated;
pub mod machine;
pub mod suite;

pub use command::enter;
