//! What a job with `inputs` gets besides files, because a text of it names that.
//!
//! The variables that say which run it is, and `.git`, differ between two commits that are the same for
//! the job. Counted, they would leave no hits; given and not counted, a script that reads them behind
//! kiln's back would make a wrong one. So they are given to who names them, and counted there.

use kiln_model::plan::{Command, Job, Step};

/// Variables of kiln's own that are given and counted always, by how their names begin.
const ALWAYS: [&str; 4] = ["KILN_JOB", "KILN_INPUT_", "KILN_MATRIX_", "KILN_NEEDS_"];

/// Whether a variable that kiln has for it reaches the job.
pub(crate) fn is_given(job: &Job, variable: &str) -> bool {
    job.inputs.is_empty() || !variable.starts_with("KILN_") || counts(job, variable)
}

/// Whether the job has `.git` in its workspace: without `inputs` always, and else when they or a command
/// name it.
pub(crate) fn sees_git(job: &Job) -> bool {
    job.inputs.is_empty()
        || job.inputs.iter().any(|pattern| is_git(pattern))
        || texts(job).any(has_word_git)
}

/// Whether a pattern of `inputs` means `.git`.
pub(crate) fn is_git(pattern: &str) -> bool {
    let path = pattern.strip_prefix("./").unwrap_or(pattern);
    path == ".git" || path.starts_with(".git/")
}

/// `git describe`, `./git-version.sh`, `.git/HEAD`; not `.gitignore`, `legit`.
fn has_word_git(text: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices("git").any(|(at, word)| {
        !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
    })
}

/// Whether a variable of kiln's own counts for a job with `inputs`.
pub(crate) fn counts(job: &Job, variable: &str) -> bool {
    ALWAYS.iter().any(|begin| variable.starts_with(begin)) || names(job, variable)
}

/// Whether a text of the job has this variable in it.
fn names(job: &Job, variable: &str) -> bool {
    texts(job).any(|text| text.contains(variable))
}

/// Commands, and the values of variables.
fn texts(job: &Job) -> impl Iterator<Item = &str> {
    job.steps.iter().flat_map(of_step).chain(job.env.values().map(String::as_str))
}

fn of_step(step: &Step) -> impl Iterator<Item = &str> {
    let command: Vec<&str> = match &step.run {
        Command::Shell { script, .. } => vec![script],
        Command::Argv { argv } => argv.iter().map(String::as_str).collect(),
    };
    command.into_iter().chain(step.env.values().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_a_word() {
        for text in
            ["git describe", "v=$(git rev-parse HEAD)", "cat .git/HEAD", "./git-version", "x;git"]
        {
            assert!(has_word_git(text), "{text}");
        }
        for text in ["legit", "cat .gitignore", "digits", "gitk", "GIT_DIR", "", "gi t"] {
            assert!(!has_word_git(text), "{text}");
        }
    }

    #[test]
    fn a_pattern_may_name_git() {
        for (pattern, is) in
            [(".git", true), ("./.git/HEAD", true), (".gitignore", false), ("src/.git", false)]
        {
            assert_eq!(is_git(pattern), is, "{pattern}");
        }
    }
}
