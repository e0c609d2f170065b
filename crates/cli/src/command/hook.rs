//! `kiln hook post-receive`: called by git after a push; see `kiln_server::hook`.
//!
//! It stands outside the other commands: git and the person who pushes wait for it, so it parses its
//! few arguments itself and makes no runtime. It never fails a push.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::output;
use crate::place::user_name;

/// Whether these arguments (without the program) are a call by git.
pub fn is_called(mut args: impl Iterator<Item = OsString>) -> bool {
    match args.next() {
        Some(first) if first == "hook" => args.next().is_some_and(|next| next == "post-receive"),
        first => first.is_some_and(|first| first == "hook-post-receive"),
    }
}

pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let (mut data, mut project) = (None, None);
    let mut args = args.skip_while(|arg| !arg.to_string_lossy().starts_with("--"));
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--data") => data = args.next().map(PathBuf::from),
            Some("--project") => project = args.next().and_then(|name| name.into_string().ok()),
            _ => {}
        }
    }
    match (data, project) {
        (Some(data), Some(project)) => {
            let actor = actor();
            let (stdin, mut stdout) = output::of_a_hook();
            kiln_server::hook::post_receive(&data, &project, actor, stdin, &mut stdout);
        }
        _ => output::emergency(
            "kiln: this hook lacks its arguments, so the push was not told to the server; install it \
             again with `kiln project hook`\n",
        ),
    }
    ExitCode::SUCCESS
}

/// Who pushes, as the server of the repository names them, else the account.
fn actor() -> Option<String> {
    let pusher = ["GL_USERNAME", "GITEA_PUSHER_NAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    Some(pusher.unwrap_or_else(user_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gits_call_is_taken_for_one() {
        let called = |line: &str| is_called(line.split(' ').map(OsString::from));
        assert!(called("hook post-receive --data d --project p"));
        assert!(called("hook-post-receive --data d"));
        assert!(!called("hook"));
        assert!(!called("project hook post-receive"));
    }
}
