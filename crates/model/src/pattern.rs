//! Glob patterns, with one meaning wherever a person writes one: branches, tags, paths, artifacts.
//!
//! `*` matches within a name, `**` across `/`, `?` one character, `[ab]` one of these, `{a,b}`
//! either. A list may exclude with `!`: of the patterns that match, the last one decides.

use std::fmt;
use std::sync::OnceLock;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest pattern. Keeps the time to compile one far below a millisecond.
const BYTES_MAX: usize = 1_000;
/// Deepest `{…{…}…}`.
const NESTING_MAX: usize = 8;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    #[error("a pattern cannot be empty")]
    Empty,
    #[error("a pattern can have at most {BYTES_MAX} bytes")]
    TooLong,
    #[error("`{{` is nested more than {NESTING_MAX} deep")]
    TooDeep,
    #[error("{0}")]
    Shape(String),
}

/// One pattern. Checked when made, compiled when first used.
#[derive(Clone)]
pub struct Glob {
    glob: globset::Glob,
    compiled: OnceLock<GlobSet>,
}

impl Glob {
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        if pattern.len() > BYTES_MAX {
            return Err(GlobError::TooLong);
        }
        let mut depth = 0usize;
        for byte in pattern.bytes() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NESTING_MAX {
                return Err(GlobError::TooDeep);
            }
        }
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .backslash_escape(true)
            .empty_alternates(true)
            .build()
            .map_err(|cause| GlobError::Shape(cause.kind().to_string()))?;
        Ok(Self { glob, compiled: OnceLock::new() })
    }

    pub fn as_str(&self) -> &str {
        self.glob.glob()
    }

    pub fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| {
            // Cannot fail within the bounds above; if it ever does, nothing matches.
            let mut set = GlobSetBuilder::new();
            set.add(self.glob.clone());
            set.build().unwrap_or_default()
        });
        compiled.is_match(text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Glob {}

/// Patterns in order, some of which exclude.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs {
    /// The pattern without its `!`, and whether it includes.
    parts: Vec<(Glob, bool)>,
}

impl Globs {
    /// Adds a pattern; with a leading `!` it excludes.
    pub fn push(&mut self, pattern: &str) -> Result<(), GlobError> {
        let (pattern, includes) = match pattern.strip_prefix('!') {
            Some(rest) => (rest, false),
            None => (pattern, true),
        };
        self.parts.push((Glob::new(pattern)?, includes));
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the last pattern that matches includes. With only excluding patterns, what none of
    /// them matches is included.
    pub fn is_match(&self, text: &str) -> bool {
        let last = self.parts.iter().rev().find(|(glob, _)| glob.is_match(text));
        match last {
            Some((_, includes)) => *includes,
            None => !self.parts.iter().any(|(_, includes)| *includes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Globs {
        let mut globs = Globs::default();
        for pattern in patterns {
            globs.push(pattern).unwrap();
        }
        globs
    }

    #[test]
    fn a_star_stays_within_a_name() {
        let matches = |pattern: &str, text: &str| Glob::new(pattern).unwrap().is_match(text);
        assert!(matches("release/*", "release/1"));
        assert!(!matches("release/*", "release/1/rc"));
        assert!(matches("src/**", "src/a/b.rs"));
        assert!(matches("**/*.rs", "b.rs"));
        assert!(matches("Cargo.*", "Cargo.lock"));
        assert!(matches("v{1,2}.?", "v2.x"));
        assert!(!matches("*", "a/b"));
    }

    #[test]
    fn the_last_matching_pattern_decides() {
        let patterns = globs(&["src/**", "!src/doc/**", "src/doc/keep.md"]);
        assert!(patterns.is_match("src/a.rs"));
        assert!(!patterns.is_match("src/doc/a.md"));
        assert!(patterns.is_match("src/doc/keep.md"));
        assert!(!patterns.is_match("README.md"));
        assert!(globs(&["!docs/**"]).is_match("src/a.rs"));
        assert!(!globs(&["!docs/**"]).is_match("docs/a.md"));
    }

    #[test]
    fn bad_patterns_are_refused_and_none_panics() {
        assert_eq!(Glob::new(""), Err(GlobError::Empty));
        assert_eq!(Glob::new(&"a".repeat(1001)), Err(GlobError::TooLong));
        assert_eq!(Glob::new(&"{".repeat(9)), Err(GlobError::TooDeep));
        for shape in ["[", "a[", "{a", "a}", "[z-a]"] {
            assert!(matches!(Glob::new(shape), Err(GlobError::Shape(_))), "{shape}");
        }
        for odd in [&"{a,".repeat(8), &"[a-z]".repeat(200), &"**/".repeat(333), &"?".repeat(1000)] {
            if let Ok(glob) = Glob::new(odd) {
                glob.is_match("some/path");
            }
        }
    }
}
