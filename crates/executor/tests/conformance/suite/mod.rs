//! The promises of `Executor` and `Session`, whatever is behind them: the table.

mod command;
mod files;
mod output;
mod ending;
mod traces;
mod orphan;
mod artifact;

pub use orphan::Owner;

use crate::bench::{Case, Subject};

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    let mut cases = cases_of_steps();
    cases.extend(orphan::cases());
    cases.extend(artifact::cases());
    cases
}

/// Those that need no more of an executor than that it runs steps.
pub fn cases_of_steps<E: Subject>() -> Vec<Case<E>> {
    let mut cases = command::cases();
    cases.extend(files::cases());
    cases.extend(output::cases());
    cases.extend(ending::cases());
    cases.extend(traces::cases());
    cases
}
