//! How the source reads.

use std::path::Path;

use super::tree::{Text, none, with_extension};

/// Past this, look again (a list, with `--nocapture`).
const LONG: usize = 500;
/// Past this, split by noun or by event.
const TOO_LONG: usize = 800;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "imp", "types"];

/// What must not be left in the source, in two halves, so that this file may list it.
const LEFT_OVER: &[(&str, &str)] = &[
    ("to", "do!("),
    ("unimple", "mented!("),
    ("#[ig", "nore"),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("(se", "am)"),
    ("X", "XX:"),
];

fn rust() -> Vec<Text> {
    with_extension("rs")
}

#[test]
fn every_module_begins_by_saying_what_it_is_for() {
    let bare = |file: &Text| {
        let documented = file.text.lines().next().is_some_and(|line| line.starts_with("//! "));
        let exempt = file.is_test() && file.name() != "main";
        !documented && !exempt
    };
    let complaints: Vec<_> = rust().iter().filter(|f| bare(f)).map(shown).collect();
    none("files that do not begin with `//!`", &complaints);
}

#[test]
fn no_file_is_too_long() {
    let mut complaints = Vec::new();
    for file in rust() {
        let n_lines = file.text.lines().count();
        if n_lines > TOO_LONG {
            complaints.push(format!("{} has {n_lines} lines", shown(&file)));
        } else if n_lines > LONG && !file.is_test() {
            eprintln!("look again: {} has {n_lines} lines", shown(&file));
        }
    }
    none("files of more than 800 lines", &complaints);
}

#[test]
fn file_names_are_nouns_of_the_house() {
    let empty = |file: &Text| {
        let folder = file.path.parent().and_then(Path::file_name);
        let folder = folder.and_then(|name| name.to_str()).unwrap_or_default();
        EMPTY_NAMES.contains(&file.name()) || EMPTY_NAMES.contains(&folder)
    };
    let complaints: Vec<_> = rust().iter().filter(|f| empty(f)).map(shown).collect();
    none("files whose name says nothing", &complaints);
}

#[test]
fn nothing_is_left_for_later() {
    let mut complaints = Vec::new();
    for file in rust() {
        for (number, line) in (1..).zip(file.text.lines()) {
            for (a, b) in LEFT_OVER {
                if line.contains(&[*a, *b].concat()) {
                    complaints.push(format!("{}:{number}: {}", shown(&file), line.trim()));
                }
            }
        }
    }
    none("left-overs", &complaints);
}

#[test]
fn no_test_waits_for_time_to_pass() {
    let sleeps = [["sle", "ep("].concat(), ["sleep_", "until("].concat()];
    let mut complaints = Vec::new();
    for file in rust() {
        let from = match (file.is_test(), file.text.find("#[cfg(test)]")) {
            (true, _) => 0,
            (false, Some(at)) => at,
            (false, None) => continue,
        };
        let first = file.text[..from].lines().count() + 1;
        let mut function = "";
        for (number, line) in (first..).zip(file.text[from..].lines()) {
            if let Some((_, after)) = line.split_once("fn ") {
                function = after.split(['(', '<']).next().unwrap_or_default();
            }
            // `until` asks for a fact again and again, and has to pause between.
            if function != "until" && sleeps.iter().any(|sleep| line.contains(sleep.as_str())) {
                complaints.push(format!("{}:{number}: {}", shown(&file), line.trim()));
            }
        }
    }
    none(
        "tests that sleep; wait for the fact (`kiln_it::wait`) or move a manual clock",
        &complaints,
    );
}

#[test]
fn no_file_is_forgotten() {
    let files = rust();
    let text = |path: &Path| files.iter().find(|f| f.path == path).map(|f| f.text.as_str());
    let mut complaints = Vec::new();
    for file in &files {
        let folder = file.path.parent().expect("a file lies in a folder");
        let (name, folder) = match file.name() {
            "lib" | "main" | "build" => continue,
            "mod" => (
                folder.file_name().and_then(|n| n.to_str()).unwrap_or_default(),
                folder.parent().unwrap_or(folder),
            ),
            name => (name, folder),
        };
        // Cargo finds `tests/x.rs`, `benches/x.rs`, `examples/x.rs` and `src/bin/x.rs` by itself.
        let own_target = ["tests", "benches", "examples", "bin"]
            .iter()
            .any(|target| folder.file_name().is_some_and(|name| name == *target))
            && text(&folder.join("main.rs")).is_none()
            && text(&folder.join("mod.rs")).is_none()
            && text(&folder.with_extension("rs")).is_none();
        let parents = ["lib.rs", "main.rs", "mod.rs"].map(|parent| folder.join(parent));
        let parents = parents.into_iter().chain([folder.with_extension("rs")]);
        let named = |text: &str| {
            let declared = format!("mod {name};");
            let included = format!("{name}.rs\"");
            text.lines()
                .any(|line| line.trim_end().ends_with(&declared) || line.contains(&included))
        };
        let known = parents.filter_map(|parent| text(&parent)).any(named);
        if !known && !own_target {
            complaints.push(shown(file));
        }
    }
    none("files that no module names, so nothing compiles them", &complaints);
}

fn shown(file: &Text) -> String {
    file.path.display().to_string()
}
