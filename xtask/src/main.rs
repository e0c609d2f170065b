//! `cargo xtask`: see `cargo xtask help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::enter(std::env::args().skip(1).collect())
}
