//! The JSON schema: fresh, and of one mind with the parser.

use kiln_manifest::{File, check, schema};
use serde_json::Value;

#[test]
fn the_committed_schema_is_fresh() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema/kiln.schema.json");
    let fresh = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert!(committed == fresh, "docs/schema/kiln.schema.json is old; UPDATE=1 writes it");
}

#[test]
fn every_reference_of_the_schema_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.push(to.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let schema = schema();
    let mut found = Vec::new();
    references(&schema, &mut found);
    assert!(found.len() > 5);
    for reference in found {
        let pointer = reference.trim_start_matches('#');
        assert!(schema.pointer(pointer).is_some_and(Value::is_object), "{reference}");
    }
}

/// A key that the schema offers is one that the parser knows, at the place where it is offered.
#[test]
fn the_parser_knows_every_key_of_a_job_that_the_schema_offers() {
    let schema = schema();
    let keys = schema["$defs"]["job"]["properties"].as_object().unwrap();
    assert!(keys.len() > 20);
    for key in keys.keys() {
        let text = format!("jobs: {{ a: {{ steps: [make], {key}: {{ }} }} }}");
        let file = File { path: ".kiln.yml".to_owned(), bytes: text.into_bytes() };
        let unknown = check(&file).into_iter().find(|d| d.message.contains("has no key"));
        assert_eq!(unknown.map(|d| d.message), None, "{key}");
    }
}
