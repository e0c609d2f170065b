//! No input panics: manifests with pieces cut out, doubled, swapped and broken.

use kiln_manifest::{File, Severity, check, plan};
use kiln_model::{Trigger, TriggerKind};

/// Uses every key once.
const WHOLE: &str = include_str!("../cases/native/everything/in.yml");

const PIECES: &[&str] = &[
    "\n",
    "  ",
    "\t",
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "|\n",
    "> ",
    "&a ",
    "*a",
    "<<: ",
    "# ",
    "---\n",
    "!!str ",
    "! ",
    "? ",
    "${{ ",
    " }}",
    "~",
    "null",
    "true",
    "-1",
    "1e9",
    "\\",
    "é",
    "🦀",
    "\u{202e}",
    "\u{feff}",
    "\0",
    "\r",
    "jobs:",
    "steps:",
    "needs: ",
    "matrix:",
    "if: ",
    "branch == ",
    "on:",
    "(",
    "&&",
    "99999999999999999999",
    "..",
    "%",
];

#[test]
fn no_mutation_of_a_manifest_panics() {
    let mut random = fastrand::Rng::with_seed(20_26);
    let trigger = Trigger::new(TriggerKind::Manual, "0".repeat(40));
    for round in 0..2_000 {
        let mut text: Vec<char> = WHOLE.chars().collect();
        for _ in 0..random.usize(1..8) {
            mutate(&mut text, &mut random);
        }
        let text: String = text.into_iter().collect();
        let mut bytes = text.clone().into_bytes();
        if round % 50 == 0 && !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let file = File { path: ".kiln.yml".to_owned(), bytes };
        let (planned, complaints) = plan(&file, &trigger);
        check(&file);
        let source = String::from_utf8_lossy(&file.bytes);
        for complaint in &complaints {
            assert!(
                complaint.start <= complaint.end && complaint.end <= source.len(),
                "{complaint:?}"
            );
            assert!(complaint.line >= 1 && complaint.column >= 1);
            complaint.render(&source, round % 2 == 0);
        }
        let places: Vec<usize> = complaints.iter().map(|complaint| complaint.start).collect();
        assert!(places.is_sorted(), "{text}");
        match planned {
            kiln_manifest::Planned::Plan(plan) => {
                plan.check().unwrap_or_else(|error| panic!("{error}\n{text}"));
                // A plan that was made can be read back.
                let json = serde_json::to_string(&plan).unwrap();
                assert_eq!(serde_json::from_str::<kiln_model::Plan>(&json).unwrap(), plan);
            }
            kiln_manifest::Planned::NotWanted(_) => {}
            kiln_manifest::Planned::Refused => {
                assert!(complaints.iter().any(|c| c.severity == Severity::Error), "{text}");
            }
        }
    }
}

fn mutate(text: &mut Vec<char>, random: &mut fastrand::Rng) {
    let at = random.usize(..=text.len());
    let to = (at + random.usize(..12)).min(text.len());
    match random.usize(..5) {
        0 => drop(text.drain(at..to)),
        1 => {
            let piece: Vec<char> = text[at..to].to_vec();
            let there = random.usize(..=text.len());
            text.splice(there..there, piece);
        }
        2 => text.truncate(at.max(20)),
        _ => {
            let piece = PIECES[random.usize(..PIECES.len())];
            text.splice(at..at, piece.chars());
        }
    }
}
