//! The operations, one file for each table, in the order in which a push meets them.

mod agent;
mod artifact;
mod delivery;
mod event;
mod head;
mod job;
mod job_key;
mod keep;
mod plan;
mod project;
mod run;
mod secret;

#[cfg(test)]
mod explain;
