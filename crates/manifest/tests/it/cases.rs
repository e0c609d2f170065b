//! One folder, one case: `in.yml`, and what must come of it.
//!
//! `errors.txt` is what `kiln check` prints; `plan.json` is the plan, or why there is none for this
//! trigger; `trigger.json` is what differs from a push to `main`. `UPDATE=1` writes what came.

use std::path::Path;

use kiln_manifest::{File, Planned, plan};
use kiln_model::Trigger;
use serde_json::{Value, json};

#[test]
fn every_case_gives_what_its_folder_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/native");
    let mut folders: Vec<_> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 40, "only {} cases in {}", folders.len(), root.display());
    let failures: Vec<String> = folders.iter().filter_map(|folder| check(folder).err()).collect();
    assert!(failures.is_empty(), "{}\nUPDATE=1 accepts all of it", failures.join("\n"));
}

fn check(folder: &Path) -> Result<(), String> {
    let bytes = std::fs::read(folder.join("in.yml")).unwrap();
    let file = File { path: ".kiln.yml".to_owned(), bytes };
    let (planned, complaints) = plan(&file, &trigger(folder));
    let source = String::from_utf8_lossy(&file.bytes);
    let errors: String =
        complaints.iter().map(|complaint| complaint.render(&source, false) + "\n\n").collect();
    let plan = match planned {
        Planned::Plan(plan) => {
            plan.check().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            Some(serde_json::to_value(&plan).unwrap())
        }
        Planned::NotWanted(why) => Some(json!({ "not_wanted": why })),
        Planned::Refused => None,
    };
    let plan = plan.map(|plan| serde_json::to_string_pretty(&plan).unwrap() + "\n");
    compare(
        &folder.join("errors.txt"),
        (!errors.is_empty()).then(|| errors.trim_end().to_owned() + "\n"),
    )?;
    compare(&folder.join("plan.json"), plan)
}

/// A push to `main`, with what `trigger.json` says instead.
fn trigger(folder: &Path) -> Trigger {
    let mut trigger = json!({
        "kind": "push",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "branch": "main",
        "actor": "ada",
        "title": "Add the thing",
    });
    if let Ok(text) = std::fs::read_to_string(folder.join("trigger.json")) {
        let other: Value = serde_json::from_str(&text).unwrap();
        for (key, value) in other.as_object().unwrap() {
            trigger[key] = value.clone();
        }
    }
    serde_json::from_value(trigger).unwrap()
}

fn compare(file: &Path, found: Option<String>) -> Result<(), String> {
    let expected = std::fs::read_to_string(file).ok();
    if expected == found {
        return Ok(());
    }
    if std::env::var_os("UPDATE").is_some() {
        match found {
            Some(found) => std::fs::write(file, found).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
        return Ok(());
    }
    let show = |text: Option<String>| text.unwrap_or_else(|| "(no such file)\n".to_owned());
    Err(format!("{}\n--- expected\n{}--- found\n{}", file.display(), show(expected), show(found)))
}
