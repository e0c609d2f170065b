//! What is said to the far side: lines, in which only bytes that a shell could mistake are written in
//! another way. No value is ever part of a command line there before its program has started.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::host::wire::Opening;
use crate::{Remote, StepCommand, StepError};

/// The program that the far side becomes.
pub(super) const RUNNER: &str = include_str!("runner.sh");

/// Variables that shells keep for themselves: to assign them is an error, or changes how they read on.
const SHELLS_OWN: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "BASH_VERSINFO",
    "ENV",
    "EUID",
    "GROUPS",
    "IFS",
    "LINENO",
    "OPTIND",
    "PPID",
    "PS4",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "UID",
    "_",
];

/// As `printf %b` reads it, in one line of printable ASCII.
pub(super) fn encode(bytes: &[u8], to: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'\\' | ..b' ' | 0x7f.. => to.extend(format!("\\0{byte:03o}").bytes()),
            byte => to.push(*byte),
        }
    }
}

/// One step, ready to be sent.
pub(super) fn step(
    spec: &Opening,
    remote: &Remote,
    command: &StepCommand,
) -> Result<Zeroizing<Vec<u8>>, StepError> {
    let refused = |why: String| StepError::Command(why);
    let Some(program) = command.argv.first().filter(|program| !program.is_empty()) else {
        return Err(refused("the command is empty".to_owned()));
    };
    let mut env: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in spec.env.iter().chain(&command.env) {
        env.insert(name, value);
    }
    let texts = env.iter().flat_map(|(name, value)| [*name, *value]);
    if texts.chain(command.argv.iter().map(String::as_str)).any(|text| text.contains('\0')) {
        let why = format!("the command of `{program}` or its environment has a zero byte");
        return Err(refused(why));
    }
    let mut lines = Zeroizing::new(Vec::new());
    let mut say = |kind: u8, text: &str| {
        lines.extend([kind, b' ']);
        encode(text.as_bytes(), &mut lines);
        lines.push(b'\n');
    };
    if let Some(directory) = &command.directory {
        say(b'd', &plain(directory)?);
    }
    remote.workspace_env.iter().for_each(|name| say(b'w', name));
    remote.output_env.iter().for_each(|name| say(b'u', name));
    for (name, value) in env {
        let pair = Zeroizing::new(format!("{name}={value}"));
        if is_shell_name(name) {
            say(b'e', &pair);
        } else if spec.masked.iter().any(|secret| secret == value) {
            return Err(refused(format!(
                "the secret in the variable `{name}` cannot be given over ssh without being seen; \
                 choose a name of letters, digits and `_` that shells do not keep for themselves"
            )));
        } else {
            say(b'o', &pair);
        }
    }
    say(b'p', program);
    command.argv[1..].iter().for_each(|word| say(b'a', word));
    lines.extend(b"g\n");
    Ok(lines)
}

/// A path inside the workspace.
fn plain(directory: &str) -> Result<String, StepError> {
    use std::path::{Component, Path};
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    match !directory.is_empty() && Path::new(directory).components().all(inside) {
        true => Ok(directory.to_owned()),
        false => Err(StepError::Directory {
            directory: directory.to_owned(),
            cause: "it must be a path inside the workspace, without `..`".to_owned(),
        }),
    }
}

fn is_shell_name(name: &str) -> bool {
    let mut letters = name.bytes();
    let first = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first
        && letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !SHELLS_OWN.contains(&name)
        && !name.starts_with("k_")
}

/// What a line on the far side's second stream says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Ready {
        folder: String,
    },
    Refused(String),
    /// Why no program ran: the kind, and the cause in words.
    Early(String),
    Over {
        code: i32,
        n_output_bytes: usize,
    },
    Quiet {
        asked: u32,
        left: String,
    },
    /// Everything is removed there.
    Gone,
    /// A shell or ssh itself.
    Chatter(String),
}

/// Reads one line, which `mark` begins when it is ours.
pub(super) fn heard(mark: &str, line: &str) -> Heard {
    let chatter = || Heard::Chatter(line.to_owned());
    let Some(ours) = line.strip_prefix(mark).and_then(|rest| rest.strip_prefix(' ')) else {
        return chatter();
    };
    let (kind, rest) = ours.split_once(' ').unwrap_or((ours, ""));
    let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
    let read = match kind {
        "ready" => Some(Heard::Ready { folder: rest.to_owned() }),
        "refused" => Some(Heard::Refused(rest.to_owned())),
        "early" => Some(Heard::Early(rest.to_owned())),
        "gone" => Some(Heard::Gone),
        "over" => (|| {
            let (code, n_output_bytes) = (first.parse().ok()?, more.trim().parse().ok()?);
            Some(Heard::Over { code, n_output_bytes })
        })(),
        "quiet" => {
            first.parse().ok().map(|asked| Heard::Quiet { asked, left: more.trim().to_owned() })
        }
        _ => None,
    };
    read.unwrap_or_else(chatter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_could_mistake_is_written_in_another_way() {
        let mut line = Vec::new();
        encode("a b'\"$(id)\\ %s\n\u{fc}".as_bytes(), &mut line);
        assert_eq!(line, b"a b'\"$(id)\\0134 %s\\0012\\0303\\0274");
    }

    #[test]
    fn names_that_a_shell_keeps_for_itself_are_told_apart() {
        assert!(["A", "_a1", "PATH", "kiln"].into_iter().all(is_shell_name));
        assert!(
            !["", "1a", "a-b", "a.b", "IFS", "UID", "_", "k_dir"].into_iter().any(is_shell_name)
        );
    }

    #[test]
    fn a_line_without_the_mark_is_chatter() {
        assert_eq!(heard("m", "m over 137 12"), Heard::Over { code: 137, n_output_bytes: 12 });
        assert_eq!(heard("m", "m quiet 3"), Heard::Quiet { asked: 3, left: String::new() });
        for chatter in ["Killed", "mover 1 2", "m over x 1", "m what"] {
            assert_eq!(heard("m", chatter), Heard::Chatter(chatter.to_owned()));
        }
    }
}
