//! Where in the file something is written, for those who must change it.
//!
//! A line is looked for in the text and not asked of the parser, which knows places of mistakes only. What is
//! written in an unusual way (dotted keys, tables in one line) is not found: then the file alone is named.

use std::collections::BTreeMap;

/// The keys of a section such as `jobs` or `projects.site.jobs`, each with its line, from 1.
pub fn of_section(text: &str, section: &str) -> BTreeMap<String, u32> {
    let mut lines = BTreeMap::new();
    let mut is_in = false;
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            is_in = header.replace(['"', '\'', ' '], "") == section;
        } else if let Some(key) = key(line).filter(|_| is_in) {
            lines.entry(key.to_owned()).or_insert(number);
        }
    }
    lines
}

/// A complaint with the place that it is about in front: `…/kiln.toml:3: …`.
pub fn placed(path: &str, text: &str, cause: &str) -> String {
    let (cause, at) = match cause.rsplit_once(" at line ") {
        Some((cause, at)) => (cause, Some(at.replace(" column ", ":"))),
        None => (cause, None),
    };
    // Of a name that it does not know the parser tells where its table begins.
    let unknown = cause.strip_prefix("unknown ").and_then(|rest| rest.split('`').nth(1));
    let line = unknown.and_then(|name| mentioned(text, name)).or_else(|| ours(text, cause));
    match line.map(|line| line.to_string()).or(at) {
        Some(at) => format!("`{path}:{at}`: {cause}"),
        None => format!("`{path}`: {cause}"),
    }
}

/// The line of a complaint of our own, which begins with section and key: "`[jobs]`: `limits.cpu`: …".
fn ours(text: &str, cause: &str) -> Option<u32> {
    let (section, rest) = cause.strip_prefix("`[")?.split_once("]`")?;
    let key = rest.split('`').nth(1)?.split('.').next()?;
    of_section(text, section).get(key).copied()
}

fn mentioned(text: &str, name: &str) -> Option<u32> {
    let word = |c: char| c.is_alphanumeric() || "-_".contains(c);
    let has = |line: &str| {
        line.split('#').next().is_some_and(|line| line.split(|c| !word(c)).any(|at| at == name))
    };
    text.lines().zip(1..).find(|(line, _)| has(line)).map(|(_, number)| number)
}

fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    Some(key.trim().trim_matches(['"', '\''])).filter(|key| !key.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# what jobs may have\n[jobs]\nprivileged = false\n# network = \"host\"\nlimits = { cpu = 0.001 }\n\
                        \n[projects.\"site\".jobs]\nprivileged = true\nimages = [\n  \"a=b\",\n]\n";

    #[test]
    fn a_key_is_found_in_its_own_section() {
        let jobs = [("limits".to_owned(), 5), ("privileged".to_owned(), 3)];
        assert_eq!(of_section(TEXT, "jobs"), BTreeMap::from(jobs));
        assert_eq!(of_section(TEXT, "projects.site.jobs")["privileged"], 8);
        assert_eq!(of_section(TEXT, "keep"), BTreeMap::new());
    }

    #[test]
    fn a_complaint_names_the_line() {
        for (cause, shown) in [
            ("expected a value at line 2 column 14", "`k:2:14`: expected a value"),
            (
                "unknown field `limits`, expected one of … at line 1 column 1",
                "`k:5`: unknown field `limits`, expected one of …",
            ),
            (
                "`[jobs]`: `limits.cpu`: at least 0.01",
                "`k:5`: `[jobs]`: `limits.cpu`: at least 0.01",
            ),
            ("`[keep]`: `runs`: no", "`k`: `[keep]`: `runs`: no"),
        ] {
            assert_eq!(placed("k", TEXT, cause), shown);
        }
    }
}
