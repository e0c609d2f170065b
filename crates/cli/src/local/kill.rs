//! Ending at once: every process below this one's sessions is killed, without grace.
//!
//! The processes of steps stay below their session whatever they do (it is their subreaper), and
//! the sessions below the spawner, our child. So who must go is found by descent alone. The sessions
//! themselves are left to see that nothing is left, and to clean up.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// Levels between this process and the processes of steps: the spawner and the session.
const LEVELS: usize = 2;

/// Kills what runs now. What was forked meanwhile is met by calling again.
pub fn kill_steps() {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut level = vec![rustix::process::getpid().as_raw_nonzero().get()];
    let below = |level: &[i32]| -> Vec<i32> {
        level.iter().filter_map(|pid| children.get(pid)).flatten().copied().collect()
    };
    for _ in 0..LEVELS {
        level = below(&level);
    }
    loop {
        level = below(&level);
        if level.is_empty() {
            return;
        }
        for pid in level.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // It may have ended by now.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

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

/// Each process with its parent.
fn processes() -> impl Iterator<Item = (i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        Some((pid, parent(&stat)?))
    })
}

/// The fourth field of `stat`. The second, a name in parentheses, may contain anything.
fn parent(stat: &[u8]) -> Option<i32> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_parent_is_read_behind_any_name() {
        assert_eq!(super::parent(b"12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(super::parent(b"12 (a) b (c) S 7 12"), Some(7));
        assert_eq!(super::parent(b"12 (\xff) x) R 1 0"), Some(1));
        assert_eq!(super::parent(b"12"), None);
    }
}
