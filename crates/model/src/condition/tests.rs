//! Tables of conditions: what they are worth, how they are explained, what is said of wrong ones.

use std::collections::BTreeMap;

use super::*;
use crate::plan::InputValue;
use crate::state::JobState;
use crate::trigger::{PullRequest, Trigger, TriggerKind};

/// A push to `release/1.2`, one changed file, and needs that have ended or not.
struct World {
    trigger: Trigger,
    inputs: BTreeMap<String, InputValue>,
    matrix: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    needs: Option<Vec<(String, JobState)>>,
}

impl Scope for World {
    fn lookup(&self, path: &[&str]) -> Value {
        match (path, &self.needs) {
            (["needs", job, "state"], Some(needs)) => {
                let state = needs.iter().find(|(name, _)| name == job).map(|need| need.1.as_str());
                Value::text(state)
            }
            (["needs", "build", "outputs", "version"], Some(_)) => Value::Text("1.2".to_owned()),
            (["needs", ..], Some(_)) => Value::Null,
            _ => Facts {
                trigger: &self.trigger,
                inputs: &self.inputs,
                matrix: &self.matrix,
                env: &self.env,
            }
            .lookup(path),
        }
    }

    fn changed(&self) -> Option<&[String]> {
        self.trigger.changed.as_deref()
    }

    fn needs(&self) -> Option<Vec<(String, JobState)>> {
        self.needs.clone()
    }
}

fn world() -> World {
    let mut trigger = Trigger::new(TriggerKind::Push, "a".repeat(40));
    trigger.branch = Some("release/1.2".to_owned());
    trigger.title = "Fix the Thing".to_owned();
    trigger.changed = Some(vec!["src/lib.rs".to_owned()]);
    World {
        trigger,
        inputs: BTreeMap::from([
            ("debug".to_owned(), InputValue::Boolean(true)),
            ("n".to_owned(), InputValue::Number(3)),
            ("target".to_owned(), InputValue::Text("staging".to_owned())),
        ]),
        matrix: BTreeMap::from([("db".to_owned(), "15".to_owned())]),
        env: BTreeMap::from([("A-B".to_owned(), "x".to_owned())]),
        needs: None,
    }
}

fn holds(text: &str, scope: &World) -> Option<bool> {
    match Condition::parse(text) {
        Ok(condition) => condition.evaluate(scope).holds,
        Err(errors) => panic!("`{text}`: {errors:?}"),
    }
}

/// The complaints, each as `"the part": message; help`.
fn complaints(text: &str) -> Vec<String> {
    let show = |error: ConditionError| {
        let help = error.help.map(|help| format!("; {help}")).unwrap_or_default();
        format!("{:?}: {}{help}", &text[error.span], error.message)
    };
    Condition::parse(text).expect_err(text).into_iter().map(show).collect()
}

#[test]
fn conditions_hold_or_do_not() {
    let world = world();
    for (text, expected) in [
        ("true", true),
        ("!true", false),
        ("!!true", true),
        ("event == \"push\"", true),
        ("event == 'push' && branch == 'main'", false),
        ("event == \"tag\" || branch != \"main\"", true),
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("branch in [\"main\", \"release/1.2\"]", true),
        ("!(branch in [\"main\", \"dev\"])", true),
        ("branch.startsWith(\"release/\")", true),
        ("startsWith(branch, \"main\")", false),
        ("branch.endsWith(\"1.2\")", true),
        ("title.contains(\"Thing\")", true),
        ("lower(title).contains(\"the thing\")", true),
        ("title.lower() == \"fix the thing\"", true),
        ("[\"a\", \"b\"].contains(\"b\")", true),
        ("size(branch) == 11", true),
        ("size([1, 2]) >= 2", true),
        ("size(tag) == 0", true),
        ("glob(branch, \"release/*\")", true),
        ("branch.glob(\"rel*\")", false),
        ("changed(\"src/**\")", true),
        ("changed(\"docs/**\", \"src/*.rs\")", true),
        ("changed(\"docs/**\")", false),
        ("inputs.debug", true),
        ("inputs.debug == true && inputs.n > -1", true),
        ("inputs.n < 3", false),
        ("inputs.target == \"staging\"", true),
        ("inputs[\"target\"] <= \"t\"", true),
        ("matrix.db == \"15\"", true),
        ("matrix.db < \"2\"", true),
        ("env[\"A-B\"] == \"x\"", true),
        ("\"a\\u0062\\n\" == 'ab\\n'", true),
        // What is missing is null, and null differs from everything else.
        ("tag == null", true),
        ("tag != \"v1\"", true),
        ("tag == \"v1\"", false),
        ("tag < \"v1\"", false),
        ("tag.startsWith(\"v\")", false),
        ("glob(tag, \"*\")", false),
        ("pull_request.number == null", true),
        ("pull_request.from_fork", false),
        ("!pull_request.from_fork", true),
        ("inputs.other == null", true),
        ("always()", true),
    ] {
        assert_eq!(holds(text, &world), Some(expected), "{text}");
    }
}

#[test]
fn unknown_is_neither_true_nor_false() {
    let world = world();
    for (text, expected) in [
        ("needs.build.state == \"success\"", None),
        ("needs.build.state != \"success\"", None),
        ("!(needs.build.state == \"success\")", None),
        ("needs.build.outputs.version == \"1.2\" && false", Some(false)),
        ("false && needs.build.outputs.version == \"1.2\"", Some(false)),
        ("needs.build.outputs.version == \"1.2\" && true", None),
        ("needs.build.outputs.version == \"1.2\" || true", Some(true)),
        ("needs.build.outputs.version == \"1.2\" || false", None),
        ("needs.build.outputs.version in [\"a\"]", None),
        ("branch in [needs.build.outputs.version, \"release/1.2\"]", Some(true)),
        ("branch in [needs.build.outputs.version]", None),
        ("needs.build.outputs.version.startsWith(\"1\")", None),
        ("success()", None),
        ("failure() && branch == \"main\"", Some(false)),
        ("always()", Some(true)),
    ] {
        assert_eq!(holds(text, &world), expected, "{text}");
    }
}

#[test]
fn needs_are_asked_for_their_states() {
    use JobState::{Cancelled, Failed, Lost, Running, Skipped, Success, Warning};
    let ask = |states: &[JobState]| {
        let need = |(at, state): (usize, &JobState)| (format!("j{at}"), *state);
        let world = World { needs: Some(states.iter().enumerate().map(need).collect()), ..world() };
        ["success()", "failure()", "cancelled()"].map(|text| holds(text, &world))
    };
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(ask(&[]), [yes, no, no]);
    assert_eq!(ask(&[Success, Warning]), [yes, no, no]);
    assert_eq!(ask(&[Success, Failed]), [no, yes, no]);
    assert_eq!(ask(&[Lost]), [no, yes, no]);
    assert_eq!(ask(&[Cancelled]), [no, no, yes]);
    assert_eq!(ask(&[Skipped]), [no, no, no]);
    assert_eq!(ask(&[Running, Success]), [None, None, None]);
    assert_eq!(ask(&[Running, Failed]), [no, yes, None]);
}

#[test]
fn only_questions_about_needs_override_the_usual_rule() {
    let asks = |text| Condition::parse(text).unwrap().asks_needs();
    assert!(asks("always()"));
    assert!(asks("branch == \"main\" && !(success() == false)"));
    assert!(!asks("needs.build.state == \"failed\""));
    assert!(!asks("changed(\"always()\")"));
}

#[test]
fn a_trace_shows_each_part_and_its_value() {
    let mut world = world();
    world.needs = Some(vec![("build".to_owned(), JobState::Failed)]);
    let text = "event == \"push\" && (branch == \"main\"\n || tag != null) && changed(\"docs/**\") \
                && !success() && needs.build.outputs.none == null && !(true || inputs.debug)";
    let verdict = Condition::parse(text).unwrap().evaluate(&world);
    let expected = "\
event == \"push\"  ->  true  (event is \"push\")
branch == \"main\"  ->  false  (branch is \"release/1.2\")
tag != null  ->  false  (tag is null)
changed(\"docs/**\")  ->  false  (none of 1 changed paths matches)
!success()  ->  true  (need `build` is failed)
needs.build.outputs.none == null  ->  true  (needs.build.outputs.none is null)
true  ->  true
inputs.debug  ->  true  (inputs.debug is true)";
    assert_eq!(verdict, Verdict { holds: Some(false), trace: expected.to_owned() });
}

#[test]
fn a_trace_cannot_move_the_cursor_and_stays_short() {
    let mut world = world();
    world.trigger.title = format!("\x1b[2J\n{}", "x".repeat(10_000));
    let trace = Condition::parse("title == \"a\"").unwrap().evaluate(&world).trace;
    assert!(!trace.contains('\x1b') && trace.lines().count() == 1 && trace.len() < 200, "{trace}");
}

#[test]
fn a_pull_request_has_its_own_facts() {
    let mut world = world();
    world.trigger.kind = TriggerKind::PullRequest;
    world.trigger.pull_request =
        Some(PullRequest { number: 7, base: "main".to_owned(), from_fork: true });
    let text = "event == \"pull_request\" && pull_request.number == 7 \
                && pull_request.base == \"main\" && pull_request.from_fork";
    assert_eq!(holds(text, &world), Some(true));
}

#[test]
fn what_changed_is_assumed_when_it_is_not_known() {
    let mut world = world();
    world.trigger.changed = None;
    assert_eq!(holds("changed(\"docs/**\")", &world), Some(true));
}

#[test]
fn wrong_conditions_are_explained() {
    for (text, expected) in [
        (
            "branhc == \"main\"",
            &["\"branhc\": there is no name `branhc`; did you mean `branch`?"][..],
        ),
        (
            "startswith(branch, \"x\")",
            &["\"startswith\": there is no function `startswith`; did you mean `startsWith`?"],
        ),
        ("branch = \"main\"", &["\"=\": `=` is not an operator; write `==`"]),
        ("true & false", &["\"&\": `&` is not an operator; write `&&`"]),
        ("true and false", &["\"and\": expected an operator, found `and`; write `&&` for `and`"]),
        ("not true", &["\"not\": expected a value, found `not`; write `!` for `not`"]),
        (
            "branch",
            &["\"branch\": this is a text, which is neither true nor false; \
               compare it, as in `branch == \"…\"`"],
        ),
        (
            "pull_request.number == \"7\"",
            &[
                "\"pull_request.number == \\\"7\\\"\": `==` compares a number with a text, which are \
               never the same; write `7`",
            ],
        ),
        (
            "matrix.db == 15",
            &[
                "\"matrix.db == 15\": `==` compares a text with a number, which are never the same; \
               write `\"15\"`",
            ],
        ),
        ("event == \"psuh\"", &["\"\\\"psuh\\\"\": `event` is never `psuh`; did you mean `push`?"]),
        (
            "needs.build.state in [\"success\", \"faild\"]",
            &["\"\\\"faild\\\"\": `needs.build.state` is never `faild`; did you mean `failed`?"],
        ),
        (
            "needs.a-b.state == \"success\"",
            &["\"a-b\": a name with a dash is written in brackets: `needs[\"a-b\"]`; \
               write `needs[\"a-b\"]`"],
        ),
        (
            "needs.build == \"success\"",
            &["\"needs.build\": `needs.build` is a group of values, not a value; \
               write `needs.build.state` or `needs.build.outputs.NAME`"],
        ),
        (
            "${{ branch == \"main\" }}",
            &[
                "\"${{\": a condition is written without `${{ }}`; remove `${{` and `}}`",
                "\"}}\": a condition is written without `${{ }}`; remove `${{` and `}}`",
            ],
        ),
        ("branch == \"main", &["\"\\\"main\": this text has no end; close it with `\"`"]),
        ("(true", &["\"(\": the bracket is not closed with `)`"]),
        ("true)", &["\")\": expected an operator, found `)`; this bracket was not opened"]),
        ("true &&", &["\"\": the condition ends where a value is expected"]),
        (
            "1 < 2 < 3",
            &["\"<\": comparisons cannot be chained; \
               compare two at a time and join them with `&&`"],
        ),
        (
            "changed(\"[\")",
            &["\"\\\"[\\\"\": `[` is not a pattern: unclosed character class; missing ']'; \
               `*` matches within a name, `**` across folders, `?` one character, `{a,b}` either"],
        ),
        (
            "glob(branch)",
            &["\"glob(branch)\": `glob` takes 2 values, not 1; \
               as in `glob(branch, \"release/*\")`"],
        ),
        (
            "size(1) == 1",
            &["\"1\": `size` takes a text or a list, and this is a number; \
                            as in `size(title) > 0`"],
        ),
        (
            "99999999999999999999 == 1",
            &["\"99999999999999999999\": \
            this is not a whole number of at most 64 bits; write digits only"],
        ),
        (
            "\"a\" in branch",
            &["\"branch\": `in` needs a list on its right; \
            write `title.contains(\"x\")` to look for a text in a text"],
        ),
        (
            "branhc == \"x\" || (tga == \"y\" && event == 1)",
            &[
                "\"branhc\": there is no name `branhc`; did you mean `branch`?",
                "\"tga\": there is no name `tga`; did you mean `tag`?",
                "\"event == 1\": `==` compares a text with a number, which are never the same; \
                 write `\"1\"`",
            ],
        ),
        (
            " ",
            &["\" \": the condition is empty; \
                 write one, as in `branch == \"main\"`, or remove the key"],
        ),
    ] {
        assert_eq!(complaints(text), expected, "{text}");
    }
}

#[test]
fn names_are_checked_against_a_manifest() {
    struct Manifest;
    impl Names for Manifest {
        fn members(&self, group: &[&str]) -> Option<Vec<(String, Type)>> {
            match group {
                ["needs"] => Some(vec![("build".to_owned(), Type::Any)]),
                ["needs", "build", "outputs"] => Some(vec![("version".to_owned(), Type::Text)]),
                ["inputs"] => Some(vec![("debug".to_owned(), Type::Bool)]),
                ["matrix"] => Some(Vec::new()),
                _ => None,
            }
        }
    }
    let messages = |text| match Condition::parse_with(text, &Manifest) {
        Ok(_) => Vec::new(),
        Err(errors) => {
            errors.into_iter().map(|e| (e.message, e.help.unwrap_or_default())).collect()
        }
    };
    let one = |message: &str, help: &str| vec![(message.to_owned(), help.to_owned())];
    assert_eq!(messages("needs.build.outputs.version == \"1\" && inputs.debug"), []);
    assert_eq!(
        messages("needs.biuld.state == \"failed\""),
        one("`needs` has no `biuld`", "did you mean `build`?")
    );
    assert_eq!(
        messages("needs.build.outputs.vresion == \"1\""),
        one("`needs.build.outputs` has no `vresion`", "did you mean `version`?")
    );
    assert_eq!(
        messages("matrix.db == \"1\""),
        one("`matrix` has no `db`", "this job has no `matrix`")
    );
    assert_eq!(
        messages("inputs.debug == \"true\""),
        one("`==` compares a truth value with a text, which are never the same", "write `true`")
    );
    assert_eq!(
        messages("build.state == \"failed\""),
        one("there is no name `build`", "write `needs.build.state`")
    );
    assert_eq!(parse_name(" matrix.db ", &AnyName), Ok(vec!["matrix".into(), "db".into()]));
    assert!(parse_name("lower(branch)", &AnyName).is_err());

    struct AnyName;
    impl Names for AnyName {
        fn members(&self, _: &[&str]) -> Option<Vec<(String, Type)>> {
            None
        }
    }
}

#[test]
fn depth_and_size_are_bounded() {
    let messages = |text: &str| match Condition::parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.message).collect(),
    };
    let too_deep = ["the condition is nested more than 64 deep"];
    assert_eq!(messages(&"(".repeat(100_000)), ["a condition can have at most 10000 bytes"]);
    assert_eq!(messages(&"(".repeat(9_000)), too_deep);
    assert_eq!(messages(&"!".repeat(9_000)), too_deep);
    assert_eq!(messages(&"[".repeat(9_000)), too_deep);
    assert_eq!(messages(&"size(".repeat(1_000)), too_deep);
    assert_eq!(messages(&format!("title{} == \"a\"", ".lower()".repeat(1_000))), too_deep);
    assert_eq!(messages(&format!("{}true{}", "(".repeat(60), ")".repeat(60))), [""; 0]);
    assert_eq!(messages(&vec!["true"; 1_000].join(" && ")), [""; 0]);
    assert_eq!(
        messages(&format!("{}1", "1 in [".repeat(60)))[..1],
        ["the bracket is not closed with `]`"]
    );
}

/// Random words of the language, in any order: every text gives a condition or complaints whose
/// places lie in the text, and evaluating what parses ends.
#[test]
fn no_text_panics() {
    const WORDS: &[&str] = &[
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "!",
        "&&",
        "||",
        "==",
        "<=",
        "in",
        "branch",
        "needs",
        "a-b",
        "state",
        "changed",
        "glob",
        "size",
        "\"",
        "'",
        "\"x\"",
        "'é\\u00e9'",
        "\\",
        "${{",
        "}}",
        "-",
        "-1",
        "1.5",
        "99999999999999999999",
        " ",
        "\n",
        "\0",
        "é",
        "“",
        "=",
        "true",
        "null",
        "{",
        "*",
        "\"[\"",
        "matrix",
        "🦀",
        "\u{202e}",
        "and",
        "lower",
        "()",
    ];
    let world = world();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap_or(0)
        };
        for _ in 0..1 + random() % 14 {
            text.push_str(WORDS[random() % WORDS.len()]);
        }
        match Condition::parse(&text) {
            Ok(condition) => drop(condition.evaluate(&world)),
            Err(errors) => {
                assert!(!errors.is_empty(), "{text:?}");
                for error in errors {
                    assert!(text.get(error.span.clone()).is_some(), "{text:?}: {error:?}");
                }
            }
        }
    }
}

#[test]
fn a_condition_is_stored_as_its_text() {
    let condition = Condition::parse("branch == 'main'").unwrap();
    let json = serde_json::to_string(&condition).unwrap();
    assert_eq!(json, "\"branch == 'main'\"");
    assert_eq!(serde_json::from_str::<Condition>(&json).unwrap(), condition);
    assert!(serde_json::from_str::<Condition>("\"branch ==\"").is_err());
}
