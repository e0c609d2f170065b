//! What the server tells the person who started it: one line on standard error, with the time.

use std::io::Write;

use kiln_stdx::{Clock, SystemClock};

/// An error with its causes on one line.
pub fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // A transparent wrapper says the same as what it wraps.
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Says one thing. Control characters of what others wrote are shown, not sent to the terminal.
pub fn say(message: &str) {
    let mut line = format!("{} ", SystemClock.now());
    for c in message.trim_end().chars() {
        match c {
            '\n' => line.push_str("\n    "),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('\n');
    // Nobody can be told that nobody can be told.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
