//! The native format for editors: completion, and red underlines before anything is pushed.

use serde_json::{Map, Value, json};

use crate::format::native::{keys, shape};

/// The JSON schema (draft 2020-12) of the native manifest, made of the tables that the parser uses.
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let root = shape::schema(&keys::MANIFEST, &mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kiln pipeline",
        "description": "A pipeline of the kiln continuous-integration system: .kiln.yml",
        "$ref": root["$ref"],
        "$defs": definitions,
    })
}
