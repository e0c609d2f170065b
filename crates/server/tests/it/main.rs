//! A whole server on a temporary data folder, asked over HTTP, with real repositories. No agent:
//! a test takes jobs itself.

mod world;

mod door;
mod project;
mod push;
mod run;
mod log;
mod artifact;
mod hook;
