//! This binary in a process of its own: to be killed, or to have a file system of its own.

use std::process::Command;

const ROLE: &str = "KILN_STORE_TEST_ROLE";

/// Starts this binary again to play a role; what it needs to know goes into the environment.
pub fn command(role: &str) -> Command {
    within(kiln_stdx::process::command(std::env::current_exe().unwrap()), role)
}

/// The same behind another program, whose last argument is a program to run.
pub fn within(mut command: Command, role: &str) -> Command {
    command.args(["--exact", "role::play", "--nocapture"]).env(ROLE, role);
    command
}

/// The roles' entry. In the test run itself there is no role to play.
#[test]
fn play() {
    match std::env::var(ROLE).as_deref() {
        Err(_) => {}
        Ok("guardian") => crate::server::guard(),
        Ok("appender") => crate::crash::append_for_ever(),
        Ok("full disk") => crate::disk::on_a_small_disk(),
        Ok(other) => panic!("there is no role `{other}`"),
    }
}
