//! A whole server on a temporary data folder, asked over HTTP, with real repositories. No agent:
//! a test takes jobs itself.

mod world;

mod artifact;
mod door;
mod hook;
mod log;
mod page;
mod project;
mod push;
mod run;
