//! What a store promises, asked of both databases; and what only one of them can get wrong.
//!
//! The functions of the modules under "both" take a [`place::Place`] and know nothing of the
//! database behind it. PostgreSQL is the distribution's own, started in a temporary folder: when it
//! is missing these tests fail and say what to install.

mod place;
mod role;
mod sample;
mod server;

// both
mod append;
mod crash;
mod delivery;
mod keep;
mod project;
mod run;
mod secret;

// one
mod disk;
mod file;
mod schema;
mod url;

// neither
mod log;
mod object;
mod pack;
