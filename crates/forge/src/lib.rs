//! What forges tell about pushes, as facts that need no forge any more.
//!
//! A forge is a folder or, where there is nothing to verify, a file. So far: plain git.

pub mod plain;
