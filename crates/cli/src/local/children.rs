//! The end of this process's own children.

use std::time::Duration;

/// Waits a moment for the spawner, which ends when nobody holds its socket any more. Not every
/// process 1 of a container would do it, and what nobody waits for stays as a zombie.
pub fn reap_children() {
    use rustix::process::{WaitOptions, wait};
    const EVERY: Duration = Duration::from_micros(200);
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(EVERY),
            Err(_) => return,
        }
    }
}
