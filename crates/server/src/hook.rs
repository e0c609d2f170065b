//! The post-receive hook: put into a repository once, called by git after every push.
//!
//! The call is on the way of a person who waits for `git push`, so it is a handful of system calls:
//! no runtime, one connection to the data folder's socket, one answer. When no server answers, the
//! push is left as a file in the inbox, which the server reads when it starts.
//!
//! Always: a push never fails because of kiln, and is never lost between the two.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_api::user::{ErrorBody, Push, PushAnswer, RefUpdate};
use kiln_model::ProjectName;
use kiln_stdx::fs::{FsError, Named, create_private_dir, write_atomic};
use kiln_stdx::{Clock, SystemClock, process};

use crate::report::whole;
use crate::runs::Places;
use crate::serve::socket;

/// By this line a hook of ours is known.
const MARK: &str = "# Installed by kiln: tells its server what was pushed.";
/// The hook that was there before ours, which calls it first.
const BEFORE: &str = "post-receive.before-kiln";

/// How long a push may be kept waiting for the server's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// More refs than any push of a person.
const STDIN_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("`{}` is not a git repository", .0.display())]
    NotARepository(PathBuf),
    #[error("git is not installed or not in PATH; install it (`apt install git`) and try again")]
    NoGit,
    #[error("git cannot say where the hooks of `{}` are: {message}", .repository.display())]
    NoFolder { repository: PathBuf, message: String },
    #[error("`{}` is there already, so the present hook cannot be kept under that name", .0.display())]
    Kept(PathBuf),
    #[error(transparent)]
    File(#[from] FsError),
}

/// Puts the hook into a repository; gives its path. A hook that is there is kept and called first,
/// with the same standard input, and its exit code is passed on. Twice is as once.
pub fn install(
    repository: &Path,
    kiln: &Path,
    data: &Path,
    project: &ProjectName,
) -> Result<PathBuf, HookError> {
    let folder = hooks_folder(repository)?;
    fs::create_dir_all(&folder).named("create", &folder)?;
    let (hook, before) = (folder.join("post-receive"), folder.join(BEFORE));
    match fs::read(&hook) {
        Ok(text) if String::from_utf8_lossy(&text).contains(MARK) => {}
        Ok(_) if before.exists() => return Err(HookError::Kept(before)),
        Ok(_) => fs::rename(&hook, &before).named("rename", &hook)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Err::<(), _>(error).named("read", &hook).unwrap_err().into()),
    }
    let data = data.canonicalize().named("find", data)?;
    write_atomic(&hook, script(kiln, &data, project).as_bytes())?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).named("change", &hook)?;
    Ok(hook)
}

/// `sh` reads it; every value stands in single quotes.
fn script(kiln: &Path, data: &Path, project: &ProjectName) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let kiln = quoted(&kiln.to_string_lossy());
    let data = quoted(&data.to_string_lossy());
    let project = quoted(project.as_str());
    format!(
        r#"#!/bin/sh
{MARK}
# What was here before is `{BEFORE}` beside this file. It goes first, and its exit code counts.
case "$0" in */*) before="${{0%/*}}/{BEFORE}" ;; *) before="./{BEFORE}" ;; esac
if [ -x "$before" ]; then
    pushed="$(cat)"
    if [ -n "$pushed" ]; then
        printf '%s\n' "$pushed" | "$before" "$@"
        code=$?
        printf '%s\n' "$pushed" | {kiln} hook-post-receive --data {data} --project {project}
        exit $code
    fi
    "$before" "$@" </dev/null
    exit $?
fi
exec {kiln} hook-post-receive --data {data} --project {project}
"#
    )
}

/// Where git looks for hooks: `core.hooksPath` may say elsewhere.
fn hooks_folder(repository: &Path) -> Result<PathBuf, HookError> {
    if !repository.is_dir() {
        return Err(HookError::NotARepository(repository.to_owned()));
    }
    let mut git = process::command("git");
    git.current_dir(repository).env("LC_ALL", "C");
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR"].iter().for_each(|name| {
        git.env_remove(name);
    });
    git.args(["rev-parse", "--git-path", "hooks"]);
    let named = process::output(&mut git).map_err(|error| match error {
        process::ProcessError::Missing { .. } => HookError::NoGit,
        process::ProcessError::Failed { stderr, .. } if stderr.contains("not a git repository") => {
            HookError::NotARepository(repository.to_owned())
        }
        process::ProcessError::Failed { stderr, .. } => {
            HookError::NoFolder { repository: repository.to_owned(), message: stderr }
        }
        other => {
            HookError::NoFolder { repository: repository.to_owned(), message: other.to_string() }
        }
    })?;
    let named = String::from_utf8_lossy(&named).trim_end_matches('\n').to_owned();
    Ok(repository.join(named))
}

/// What the hook does with the lines that git gives it. Whatever happens is said on `out`, which git
/// shows to who pushes, and the push stays a success.
pub fn post_receive(
    data: &Path,
    project: &str,
    actor: Option<String>,
    stdin: impl Read,
    out: &mut dyn Write,
) {
    let refs = updates(stdin);
    if refs.is_empty() {
        return;
    }
    let nonce = format!("{:016x}-{:x}", fastrand::u64(..), std::process::id());
    let push = Push { project: project.to_owned(), actor, nonce, refs };
    let places = Places::new(data);
    let said = match tell(&places, &push) {
        Ok(answer) => shown(&answer),
        Err(Untold::Refused(message)) => format!("kiln: {message}\n"),
        Err(Untold::Away(away)) => match leave(&places, &push) {
            Ok(()) => {
                format!("kiln: {away}; the push is noted and its runs start when it is back\n")
            }
            Err(error) => {
                let error = whole(&error);
                format!("kiln: {away}; and the push could not be noted: {error}\n")
            }
        },
    };
    // Who pushes may have gone; the push is taken all the same.
    let _ = out.write_all(said.as_bytes()).and_then(|()| out.flush());
}

/// Why there was no answer, in words.
fn away(cause: &io::Error) -> String {
    use io::ErrorKind as K;
    match cause.kind() {
        K::NotFound | K::ConnectionRefused => "the server is not running".to_owned(),
        K::PermissionDenied => "the server's data folder belongs to another user".to_owned(),
        K::WouldBlock | K::TimedOut => "the server does not answer in time".to_owned(),
        _ => format!("the server does not answer ({cause})"),
    }
}

/// Lines `<old> <new> <ref>`.
fn updates(stdin: impl Read) -> Vec<RefUpdate> {
    let lines = io::BufReader::new(stdin.take(STDIN_BYTES_MAX)).split(b'\n').map_while(Result::ok);
    let update = |line: Vec<u8>| {
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(RefUpdate { old: words.next()?, new: words.next()?, name: words.next()? })
    };
    lines.filter_map(update).collect()
}

enum Untold {
    /// The server is there and does not want it.
    Refused(String),
    /// It is not there, or it cannot: its disk is full, its database is away. In words.
    Away(String),
}

fn tell(places: &Places, push: &Push) -> Result<PushAnswer, Untold> {
    let body = serde_json::to_vec(push).expect("a push is plain data");
    match socket::post(&places.socket(), "/internal/push", &body, ANSWER_WITHIN)
        .map_err(|cause| Untold::Away(away(&cause)))?
    {
        (200, body) => serde_json::from_slice(&body)
            .map_err(|error| Untold::Away(away(&io::Error::other(error.to_string())))),
        (status, body) => {
            let message = serde_json::from_slice::<ErrorBody>(&body)
                .map_or_else(|_| format!("the server answered {status}"), |error| error.message);
            Err(match status {
                400..=499 => Untold::Refused(message),
                _ => Untold::Away(format!("the server is in trouble ({message})")),
            })
        }
    }
}

/// Leaves the push for the next server. Names begin with the time, so that they sort as they came.
fn leave(places: &Places, push: &Push) -> Result<(), FsError> {
    let inbox = places.inbox();
    create_private_dir(&inbox)?;
    let at = SystemClock.now().as_millis();
    let file = inbox.join(format!("{at:015}-{}.json", push.nonce));
    write_atomic(&file, &serde_json::to_vec(push).expect("a push is plain data"))
}

fn shown(answer: &PushAnswer) -> String {
    let mut text = String::new();
    for run in &answer.runs {
        let _ = write!(text, "kiln: run {} {}: {}", run.run, run.state, run.url);
        let reason = run.reason.as_deref().filter(|_| run.state.is_over());
        // A refused manifest is told at once, to the person who can mend it.
        for line in reason.iter().flat_map(|reason| reason.lines()) {
            let _ = write!(text, "\nkiln:   {line}");
        }
        text.push('\n');
    }
    for line in answer.notes.iter().flat_map(|note| note.lines()) {
        let _ = writeln!(text, "kiln: {line}");
    }
    // What others wrote must not drive the terminal.
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
