//! `inputs`: the files that a job says it reads.
//!
//! As in any list of patterns the last one that matches decides. One that matches a folder means all
//! that is in it. Whoever walks a tree carries what was decided for the folder that he is in, so that
//! most names need no look at all.

use std::path::Path;

use crate::pattern::{Glob, GlobError};

/// The patterns of one job, in written order.
#[derive(Clone, Debug)]
pub struct Inputs {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    glob: Glob,
    includes: bool,
    /// The text before the first wildcard: what matches begins with it.
    prefix: String,
}

/// Which pattern has decided on a path; none has when no pattern matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided(Option<usize>);

impl Inputs {
    pub fn new(patterns: &[String]) -> Result<Self, GlobError> {
        let pattern = |written: &String| {
            let (text, includes) = match written.strip_prefix('!') {
                Some(rest) => (rest, false),
                None => (written.as_str(), true),
            };
            let text = text.strip_prefix("./").unwrap_or(text);
            let text = text.strip_suffix('/').unwrap_or(text);
            let text = if matches!(text, "" | ".") { "**" } else { text };
            let wild = text.find(['*', '?', '[', '{', '\\']).unwrap_or(text.len());
            let prefix = text[..wild].to_owned();
            Ok(Pattern { glob: Glob::new(text)?, includes, prefix })
        };
        Ok(Self { patterns: patterns.iter().map(pattern).collect::<Result<_, _>>()? })
    }

    /// What holds for a path, in a folder for which `above` holds.
    pub fn decide(&self, above: Decided, path: &str) -> Decided {
        let from = above.0.map_or(0, |at| at + 1);
        let later = &self.patterns[from..];
        let last = later.iter().rposition(|pattern| pattern.glob.is_match(path));
        last.map_or(above, |at| Decided(Some(from + at)))
    }

    /// With excluding patterns alone, what none of them matches is included.
    pub fn includes(&self, decided: Decided) -> bool {
        match decided.0 {
            Some(at) => self.patterns[at].includes,
            None => !self.patterns.iter().any(|pattern| pattern.includes),
        }
    }

    /// Whether something in a folder may be included.
    pub fn may_include_below(&self, decided: Decided, folder: &str) -> bool {
        self.includes(decided) || self.later(decided, folder).any(|pattern| pattern.includes)
    }

    /// Whether everything in a folder is included, whatever it is called.
    pub fn includes_all_below(&self, decided: Decided, folder: &Path) -> bool {
        let folder = folder.to_string_lossy();
        self.includes(decided) && !self.later(decided, &folder).any(|pattern| !pattern.includes)
    }

    /// The patterns that may decide anew on something in a folder.
    fn later<'a>(&'a self, decided: Decided, folder: &'a str) -> impl Iterator<Item = &'a Pattern> {
        let from = decided.0.map_or(0, |at| at + 1);
        self.patterns[from..].iter().filter(move |pattern| {
            let n_common = pattern.prefix.len().min(folder.len());
            pattern.prefix.as_bytes()[..n_common] == folder.as_bytes()[..n_common]
        })
    }

    /// Including patterns that match none of these paths, as they were written.
    pub fn without_match<S: AsRef<str>>(&self, included: &[(S, Decided)]) -> Vec<String> {
        let mut has_match: Vec<bool> = self.patterns.iter().map(|p| !p.includes).collect();
        for at in included.iter().filter_map(|(_, decided)| decided.0) {
            has_match[at] = true;
        }
        for (at, pattern) in self.patterns.iter().enumerate() {
            // A later pattern may have decided on everything that this one matches.
            has_match[at] =
                has_match[at] || included.iter().any(|(path, _)| pattern.matches(path.as_ref()));
        }
        let without = self.patterns.iter().zip(has_match).filter(|(_, has_match)| !has_match);
        without.map(|(pattern, _)| pattern.glob.as_str().to_owned()).collect()
    }
}

impl Pattern {
    /// The path or a folder above it.
    fn matches(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above.chain([path]).any(|path| self.glob.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(patterns: &[&str]) -> Inputs {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        Inputs::new(&patterns).unwrap()
    }

    /// As a walk comes to it.
    fn decided(inputs: &Inputs, path: &str) -> Decided {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above.chain([path]).fold(Decided::default(), |above, path| inputs.decide(above, path))
    }

    #[test]
    fn the_last_pattern_that_matches_a_path_or_a_folder_above_it_decides() {
        let cases: [(&[&str], &[&str], &[&str]); 6] = [
            (&["src/**", "Cargo.*"], &["src/a/b.rs", "Cargo.lock"], &["README", "x/Cargo.lock"]),
            (&["src"], &["src/a/b.rs"], &["srcs/a"]),
            (&["./src/"], &["src/a"], &["a"]),
            (
                &["src/**", "!src/doc", "src/doc/keep.md"],
                &["src/a", "src/doc/keep.md"],
                &["src/doc/x/y"],
            ),
            (&["!docs/**"], &["src/a.rs"], &["docs/a.md"]),
            (&["**/*.rs"], &["a.rs", "x/y/b.rs"], &["a.c"]),
        ];
        for (patterns, are, are_not) in cases {
            let inputs = inputs(patterns);
            for path in are {
                assert!(inputs.includes(decided(&inputs, path)), "{patterns:?} {path}");
            }
            for path in are_not {
                assert!(!inputs.includes(decided(&inputs, path)), "{patterns:?} {path}");
            }
        }
    }

    #[test]
    fn folders_that_can_hold_nothing_are_passed_over() {
        let inputs = inputs(&["src/a/**", "!src/a/no", "lib/*.c"]);
        let may = |folder: &str| inputs.may_include_below(decided(&inputs, folder), folder);
        assert!(may("src") && may("src/a") && may("src/a/b") && may("lib"));
        assert!(!may("docs") && !may("src/a/no") && !may("src/b"));
    }

    #[test]
    fn a_folder_is_included_whole_when_no_later_pattern_may_exclude_something_in_it() {
        let inputs = inputs(&["src", "!src/skip", "docs/a"]);
        let whole =
            |folder: &str| inputs.includes_all_below(decided(&inputs, folder), Path::new(folder));
        assert!(whole("src/lib") && whole("docs/a"));
        assert!(!whole("src") && !whole("src/skip") && !whole("docs"));
        let all = Inputs::new(&[".".to_owned()]).unwrap();
        assert!(all.includes(decided(&all, "a/b")));
    }

    #[test]
    fn a_pattern_without_a_match_is_told_and_one_that_others_overrule_is_not() {
        let inputs = inputs(&["src/**", "src/a", "gone/*", "!never"]);
        let paths = ["src/a"];
        let with = paths.map(|path| (path.to_owned(), decided(&inputs, path)));
        assert_eq!(inputs.without_match(&with), ["gone/*"]);
    }
}
