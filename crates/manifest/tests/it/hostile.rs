//! Input that means harm, or that a program wrote by mistake: always a clear error with a place.

use kiln_manifest::{File, Planned, Severity, check, inputs, plan};
use kiln_model::{Trigger, TriggerKind};

/// The messages about a manifest of these bytes, each with line and column.
fn complaints(bytes: impl Into<Vec<u8>>) -> Vec<String> {
    let file = File { path: ".kiln.yml".to_owned(), bytes: bytes.into() };
    let trigger = Trigger::new(TriggerKind::Push, "0".repeat(40));
    let (planned, complaints) = plan(&file, &trigger);
    let refused = matches!(planned, Planned::Refused);
    let n_errors =
        complaints.iter().filter(|c| c.severity == kiln_manifest::Severity::Error).count();
    assert_eq!(refused, n_errors > 0);
    let source = String::from_utf8_lossy(&file.bytes);
    for complaint in &complaints {
        let shown = complaint.render(&source, true);
        let raw = |c: char| c.is_control() && !matches!(c, '\n' | '\u{1b}');
        assert!(!shown.contains(raw), "{shown:?}");
    }
    complaints.iter().map(|c| format!("{}:{}: {}", c.line, c.column, c.message)).collect()
}

#[test]
fn nothing_at_all_is_refused() {
    for empty in
        ["", "\n\n", "# only a comment\n", "---\n", "~\n", "\u{feff}", "...\n", "--- \n...\n"]
    {
        assert_eq!(complaints(empty), ["1:1: the manifest is empty"], "{empty:?}");
    }
}

#[test]
fn a_file_that_is_too_large_is_refused_with_its_bound() {
    let large = vec![b'#'; 50 << 20];
    assert_eq!(complaints(large), ["1:1: the manifest is larger than 1.0 MB"]);
}

#[test]
fn what_is_not_utf_8_is_refused_at_its_place() {
    assert_eq!(complaints(&b"jobs:\n  a: \xff\n"[..]), ["2:6: the byte 0xff is not UTF-8"]);
    assert_eq!(
        complaints(&b"\x7fELF\x02\x01\x00\x00\xff\xfe"[..]),
        ["1:9: the manifest is a binary file, not a text"]
    );
    let utf16: Vec<u8> = "jobs:".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [&[0xff, 0xfe][..], &utf16].concat();
    assert_eq!(complaints(with_mark), ["1:1: the manifest is a binary file, not a text"]);
}

#[test]
fn a_control_character_is_named_and_not_shown() {
    assert_eq!(
        complaints("jobs: \u{1b}[2J\n"),
        ["1:7: the control character U+001B cannot stand in YAML"]
    );
    assert_eq!(complaints("jobs\0: x\n")[0].split(": ").next(), Some("1:5"));
}

#[test]
fn tabs_are_named() {
    for tabbed in ["jobs:\n\ta:\n\t\tsteps: [x]\n", "\tjobs: x\n", "jobs:\n  a:\n  \tsteps: [x]\n"]
    {
        let found = complaints(tabbed);
        assert!(found.len() == 1 && found[0].contains("a tab cannot indent"), "{found:?}");
    }
}

#[test]
fn a_byte_order_mark_and_windows_lines_are_no_fault() {
    assert_eq!(complaints("\u{feff}jobs:\r\n  a:\r\n    steps:\r\n      - make\r\n"), [""; 0]);
}

#[test]
fn depth_is_bounded() {
    let too_deep = "the manifest is nested more than 64 deep";
    for deep in
        ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), "? ".repeat(9_999)]
    {
        let found = complaints(deep);
        assert!(found.len() == 1 && found[0].contains(too_deep), "{found:?}");
    }
    let mut chain = String::from("x-0: &a0 [x]\n");
    for n in 1..2_000 {
        chain += &format!("x-{n}: &a{n} [*a{}]\n", n - 1);
    }
    let found = complaints(chain);
    assert!(found.len() == 1 && found[0].contains(too_deep), "{found:?}");
}

#[test]
fn aliases_that_explode_are_refused() {
    let mut bomb = String::from("x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..30 {
        let again = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb += &format!("x-{n}: &a{n} [{again}]\n");
    }
    bomb += "jobs: { a: { steps: *a29 } }\n";
    let found = complaints(bomb);
    assert!(found.len() == 1 && found[0].contains("more than 1000000 values"), "{found:?}");
    let found = complaints("jobs: &a\n  b: *a\n");
    assert_eq!(found, ["2:6: this alias is part of itself"]);
}

#[test]
fn a_plan_is_bounded() {
    let axis = |n: usize| (0..n).map(|v| v.to_string()).collect::<Vec<_>>().join(", ");
    let wide = |axes: &str, steps: &str| {
        format!("jobs:\n  a:\n    matrix: {{{axes}}}\n    steps: {steps}\n")
    };
    let found = complaints(wide(&format!("a: [{0}], b: [{0}], c: [{0}]", axis(100)), "[x]"));
    assert_eq!(found, ["3:13: the plan would have more than 10000 jobs"]);
    let nine: Vec<String> = ('a'..='z').map(|c| format!("{c}: [{}]", axis(100))).collect();
    let found = complaints(wide(&nine.join(", "), "[x]"));
    assert_eq!(found, ["3:13: the plan would have more than 10000 jobs"]);
    let long = format!("[{:?}]", "x".repeat(90_000));
    let found = complaints(wide(&format!("a: [{}]", axis(5_000)), &long));
    assert_eq!(found, ["2:3: the plan would be larger than 67.1 MB"]);
    assert_eq!(complaints(wide(&format!("a: [{}]", axis(5_000)), "[x]")), [""; 0]);
    let steps = format!("[{}]", vec!["x"; 1_001].join(", "));
    let found = complaints(format!("jobs: {{a: {{steps: {steps}}}}}"));
    assert!(found.len() == 1 && found[0].contains("more than 1000 steps"), "{found:?}");
    let found = complaints(format!("jobs: {{a: {{steps: [{:?}]}}}}", "x".repeat(110_000)));
    assert!(found.len() == 1 && found[0].contains("the command is longer than"), "{found:?}");
}

#[test]
fn a_chain_of_ten_thousand_jobs_is_planned_and_a_circle_of_them_is_found() {
    let chain = |first: &str| {
        let mut text = format!("jobs:\n  j0: {{ needs: {first}, steps: [x] }}\n");
        for n in 1..10_000 {
            text += &format!("  j{n}: {{ needs: j{}, steps: [x] }}\n", n - 1);
        }
        text
    };
    assert_eq!(complaints(chain("[]")), [""; 0]);
    let found = complaints(chain("j9999"));
    assert!(found.len() == 1 && found[0].contains("in a circle: "), "{}", found.len());
}

#[test]
fn a_hostile_branch_is_only_a_text() {
    let text = "jobs: { a: { image: \"x:${{ branch }}\", steps: [{ name: \"on ${{ branch }}\", run: make }] } }";
    let file = File { path: ".kiln.yml".to_owned(), bytes: text.into() };
    let mut trigger = Trigger::new(TriggerKind::Push, "0".repeat(40));
    trigger.branch = Some("${{ tag }}".to_owned());
    let (planned, found) = plan(&file, &trigger);
    // An image cannot have a space; and a value is never looked at for more names.
    let error = found.iter().find(|found| found.severity == Severity::Error).unwrap();
    assert!(matches!(planned, Planned::Refused) && error.message.contains("an image cannot have"));
    trigger.branch = Some("$(touch${IFS}x)".to_owned());
    let (Planned::Plan(plan), _) = plan(&file, &trigger) else { panic!("no plan") };
    assert_eq!(plan.jobs[0].image.as_deref(), Some("x:$(touch${IFS}x)"));
    assert_eq!(plan.jobs[0].steps[0].name, "on $(touch${IFS}x)");
}

#[test]
fn a_manifest_is_checked_without_a_trigger() {
    let text = "on: { manual: { inputs: { target: { required: true, description: Where } } } }\n\
                jobs: { a: { needs: b, image: '${{ inputs.target }}', steps: [make] } }";
    let file = File { path: ".kiln.yml".to_owned(), bytes: text.into() };
    let errors = check(&file).into_iter().filter(|found| found.severity == Severity::Error);
    let errors: Vec<String> = errors.map(|found| found.message).collect();
    assert_eq!(errors, ["job `a` needs `b`, and no job has that name"]);
    let declared = inputs(&file);
    assert_eq!(declared.len(), 1);
    assert_eq!((declared[0].name.as_str(), declared[0].kind.as_str()), ("target", "text"));
    assert!(declared[0].required);
}
