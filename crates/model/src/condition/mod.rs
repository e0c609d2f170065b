//! The condition language of `if:`: small, typed, in CEL's syntax.
//!
//!   event == "push" && (branch == "main" || branch.startsWith("release/")) && changed("src/**")
//!
//! text ──lexer──▶ tokens ──parser──▶ tree ──check──▶ [`Condition`] ──evaluate, [`Scope`]──▶ [`Verdict`]
//!
//! A value can be unknown, because at plan time nobody knows how a need will end. Unknown is not
//! false: `false && unknown` is false, `true && unknown` is unknown. A value can be missing (no tag,
//! no such output); it is then `null`, differs from everything else, and counts as false.
//!
//! Always: parsing and evaluating end on any input, use a bounded stack, and visit each part once.
//! Elsewhere: who may run when a condition is unknown (`engine`); places in a file (`manifest`).

mod check;
mod checked;
mod evaluate;
mod facts;
mod function;
mod lexer;
mod parser;
mod scope;
mod syntax;
#[cfg(test)]
mod tests;

pub use check::{Names, Type};
pub use checked::{Condition, ConditionError, parse_name};
pub use evaluate::Verdict;
pub use facts::Facts;
pub use scope::{Scope, Value};
