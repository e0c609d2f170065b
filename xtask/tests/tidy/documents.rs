//! Documents: every relative link leads somewhere.

use kiln_it::binary::checkout;

use super::tree::{none, with_extension};

#[test]
fn no_link_is_dead() {
    let mut complaints = Vec::new();
    for document in with_extension("md") {
        let folder = checkout().join(document.path.parent().expect("a file lies in a folder"));
        for link in links(&document.text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => checkout().join(&document.path),
                path => folder.join(path),
            };
            let lives = target.exists()
                && (anchor.is_empty()
                    || std::fs::read_to_string(&target)
                        .is_ok_and(|text| anchors(&text).any(|a| a == anchor)));
            if !lives {
                complaints.push(format!("{}: ({link})", document.path.display()));
            }
        }
    }
    none("dead links", &complaints);
}

#[test]
fn every_decision_says_what_was_chosen_and_why() {
    let folder = checkout().join("docs/decisions");
    let mut numbers = Vec::new();
    for document in with_extension("md") {
        if checkout().join(&document.path).parent() != Some(&folder) {
            continue;
        }
        let (number, _) = document.name().split_once('-').expect("0001-name.md");
        numbers.push(number.parse::<usize>().expect("a number"));
        for heading in ["## Chosen", "## Why", "## Cost"] {
            let has = document.text.lines().any(|line| line == heading);
            assert!(has, "{} has no `{heading}`", document.path.display());
        }
    }
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, expected, "decisions are numbered from 1 without gaps");
}

/// Targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Parts at odd positions stand between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let mut rest = prose.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let (target, after) = after.split_once(')').unwrap_or((after, ""));
            links.push(target.to_owned());
            rest = after;
        }
    }
    links
}

/// Names of a document's headings, as links write them.
fn anchors(text: &str) -> impl Iterator<Item = String> + '_ {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|heading| {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let name: String = heading.trim_start_matches('#').trim().chars().filter(kept).collect();
        name.to_lowercase().replace(' ', "-")
    })
}
