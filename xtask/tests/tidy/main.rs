//! What a reader of this repository relies on, kept by tests.

mod arrows;
mod documents;
mod generated;
mod source;
mod tree;
