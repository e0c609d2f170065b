//! What is written once and meant several times.

pub mod matrix;
