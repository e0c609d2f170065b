//! Names of refs and objects, checked before git sees them, and the refs that a repository has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kiln_stdx::process;

use crate::command;
use crate::error::GitError;

/// 40 or 64 hexadecimal digits.
pub fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// All zeroes: in a push, no object.
pub fn is_zero(id: &str) -> bool {
    is_object_id(id) && id.bytes().all(|b| b == b'0')
}

/// Checks a full ref name as `git check-ref-format` does.
pub fn check_ref(name: &str) -> Result<(), GitError> {
    let refused = |why| Err(GitError::Refused { what: "the ref", text: name.to_owned(), why });
    if !name.starts_with("refs/") {
        return refused("it does not begin with `refs/`");
    }
    if name.len() > 1_000 {
        return refused("it is longer than 1000 bytes");
    }
    if name.bytes().any(|b| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b)) {
        return refused("it contains a character that git forbids in refs");
    }
    if name.contains("..") || name.contains("@{") || name.contains("//") {
        return refused("it contains a sequence that git forbids in refs");
    }
    let bad = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    if name.ends_with('.') || name.split('/').any(bad) {
        return refused("a part of it is empty, begins with a dot or ends with `.lock`");
    }
    Ok(())
}

/// Checks what names a commit: an id, or a ref in full (`refs/heads/main`).
pub fn check_revision(text: &str) -> Result<(), GitError> {
    if is_object_id(text) || text == "HEAD" { Ok(()) } else { check_ref(text) }
}

/// Branches and tags as they are, annotated tags by their own ids. Read from their files: no program
/// is started, unless they are not kept in files (reftable).
pub(crate) fn read(common_dir: &Path) -> Result<BTreeMap<String, String>, GitError> {
    if common_dir.join("reftable").is_dir() {
        return ask(common_dir);
    }
    let packed = fs::read(common_dir.join("packed-refs")).unwrap_or_default();
    let packed = utf8_lines(&packed);
    let mut found: BTreeMap<_, _> = packed.lines().filter_map(listed).collect();
    // What has a file of its own is newer than what is packed.
    let mut folders = vec!["refs/heads".to_owned(), "refs/tags".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(common_dir.join(&folder)).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = format!("{folder}/{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(name),
                Ok(_) => {
                    let id = fs::read_to_string(entry.path()).unwrap_or_default();
                    found.extend(listed(&format!("{} {name}", id.trim_end())));
                }
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

fn ask(common_dir: &Path) -> Result<BTreeMap<String, String>, GitError> {
    let mut git = command::local(common_dir);
    git.args(["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"]);
    let answer =
        process::output(&mut git).map_err(|error| GitError::process("listing refs", error))?;
    Ok(utf8_lines(&answer).lines().filter_map(listed).collect())
}

/// The lines that are UTF-8. A ref whose name is not can be fetched from and never named here; decoded
/// somehow it would be another ref, and two of them the same one.
pub(crate) fn utf8_lines(bytes: &[u8]) -> String {
    let lines =
        bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// `<id> <ref>`; anything else, a symbolic ref or a lock for one, is none of these.
fn listed(line: &str) -> Option<(String, String)> {
    let (id, name) = line.split_once(' ')?;
    let kept = name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    let good = kept && is_object_id(id) && !is_zero(id) && check_ref(name).is_ok();
    good.then(|| (name.to_owned(), id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_refs_are_refused() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/ø"] {
            let _ = check_ref(good).map_err(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "",
            "main",
            "--upload-pack=x",
            "-c",
            "refs/heads/a b",
            "refs/heads/a\nb",
            "refs/heads/..",
            "refs/heads/a..b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a^{tree}",
            "refs/heads/a:b",
            "refs/heads/@{1}",
            "refs/heads/",
            "refs//heads",
            "refs/heads/a.",
            "refs/heads/a\0b",
        ] {
            assert!(check_ref(bad).is_err(), "{bad:?}");
        }
    }
}
