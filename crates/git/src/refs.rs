//! Names of refs and objects, checked before git sees them.

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
