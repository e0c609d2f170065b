//! What a value may be, as data: checked here, and told to editors as a JSON schema.

use std::fmt;

use kiln_stdx::{bytes, duration, suggest};
use serde_json::{Value, json};

use crate::complaint::Complaints;
use crate::node::{Kind, Node, first_line};

/// What a value may be.
pub enum Shape {
    /// A text that is not empty: what it is, as in "a command".
    Text(&'static str),
    /// Any scalar, as it is written; also an empty text, but not nothing.
    Scalar,
    /// Nothing, as in `push:`.
    Nothing,
    Bool,
    Int {
        min: i64,
        max: i64,
    },
    Duration,
    /// Of memory or of a disk.
    Size,
    /// A number of processors.
    Processors,
    /// One of these words: what it is, and the words.
    Words(&'static str, &'static [&'static str]),
    List(&'static Shape),
    /// One, or a list of them.
    Many(&'static Shape),
    /// A map with these keys.
    Map(&'static Keys),
    /// A map with any keys: what a key is, as in "a variable".
    Each(&'static str, &'static Shape),
    /// A list or a map that is not empty.
    Filled(&'static Shape),
    /// The first whose kind of value fits.
    Either(&'static [Shape]),
}

/// The keys of a map.
pub struct Keys {
    /// What the map is, as in "a job".
    pub what: &'static str,
    pub keys: &'static [Key],
    /// Keys of other systems, and what is written here instead.
    pub foreign: &'static [(&'static str, &'static str)],
    /// Keys that begin so are allowed and ignored.
    pub ignored_prefix: Option<&'static str>,
    /// Any other key is allowed: what it names, and its shape.
    pub others: Option<(&'static str, &'static Shape)>,
}

pub struct Key {
    pub name: &'static str,
    pub shape: &'static Shape,
    pub required: bool,
    /// For editors: what it does, in a sentence.
    pub about: &'static str,
}

/// Complains about everything that has not the shape. `what` names the value.
pub fn check(node: &Node, shape: &Shape, what: &str, complaints: &mut Complaints) {
    match (shape, &node.kind) {
        (_, Kind::Wrong) => {}
        (Shape::Either(shapes), _) => match shapes.iter().find(|shape| fits(node, shape)) {
            Some(shape) => check(node, shape, what, complaints),
            None => wrong(node, shape, what, complaints),
        },
        (Shape::Filled(inner), _) => {
            let empty = match &node.kind {
                Kind::List(items) => items.is_empty(),
                Kind::Map(entries) => entries.is_empty(),
                Kind::Scalar { .. } | Kind::Wrong => false,
            };
            match empty {
                true => {
                    let message = format!("{what} is empty; it must be {inner}");
                    complaints.error(node.span.clone(), message, "");
                }
                false => check(node, inner, what, complaints),
            }
        }
        (Shape::Many(one), Kind::List(_)) => check(node, &Shape::List(one), what, complaints),
        (Shape::Many(one), _) if fits(node, one) => check(node, one, what, complaints),
        (Shape::List(one), Kind::List(items)) => {
            let what = format!("an item of {what}");
            for item in items {
                check(item, one, &what, complaints);
            }
        }
        // Whether the keys are lawful names is told by those who know what they name.
        (Shape::Each(_, one), Kind::Map(entries)) => {
            for (name, value) in entries {
                check(value, one, &format!("`{}`", first_line(&name.value, 40)), complaints);
            }
        }
        (Shape::Map(keys), Kind::Map(_)) => map(node, keys, complaints),
        _ if fits(node, shape) => scalar(node, shape, what, complaints),
        _ => wrong(node, shape, what, complaints),
    }
}

/// Whether a value is of the kind that a shape wants; its parts may still be wrong.
fn fits(node: &Node, shape: &Shape) -> bool {
    let is_scalar = matches!(node.kind, Kind::Scalar { .. }) && !node.is_null();
    match shape {
        Shape::Text(_) | Shape::Scalar => is_scalar,
        Shape::Duration | Shape::Size | Shape::Processors | Shape::Words(..) => is_scalar,
        Shape::Nothing => node.is_null(),
        Shape::Bool => node.truth().is_some(),
        Shape::Int { .. } => node.int().is_some(),
        Shape::List(_) => matches!(node.kind, Kind::List(_)),
        Shape::Map(_) | Shape::Each(..) => matches!(node.kind, Kind::Map(_)),
        Shape::Many(one) => matches!(node.kind, Kind::List(_)) || fits(node, one),
        Shape::Filled(inner) => fits(node, inner),
        Shape::Either(shapes) => shapes.iter().any(|shape| fits(node, shape)),
    }
}

fn wrong(node: &Node, shape: &Shape, what: &str, complaints: &mut Complaints) {
    let text = node.text().map(|text| text.value);
    let help = match (shape, text.as_deref().unwrap_or_default()) {
        (Shape::Bool, "true" | "false") => "remove the quotation marks".to_owned(),
        (Shape::Bool, "yes" | "on" | "y" | "Yes" | "On") => "write `true`".to_owned(),
        (Shape::Bool, "no" | "off" | "n" | "No" | "Off") => "write `false`".to_owned(),
        (Shape::Int { .. }, text) if text.parse::<i64>().is_ok() => {
            "remove the quotation marks".to_owned()
        }
        _ if node.is_null() => match shape {
            Shape::Scalar => "write `\"\"` for an empty text".to_owned(),
            _ => "give it a value, or remove it".to_owned(),
        },
        _ => String::new(),
    };
    let message = match node.is_null() {
        true => format!("{what} has no value; it must be {shape}"),
        false => format!("{what} must be {shape}, found {}", node.describe()),
    };
    complaints.error(node.span.clone(), message, help);
}

/// A scalar of the right kind: is its value right?
fn scalar(node: &Node, shape: &Shape, what: &str, complaints: &mut Complaints) {
    let Kind::Scalar { text, .. } = &node.kind else { return };
    let mut error = |message: String, help: String| {
        complaints.error(node.span.clone(), message, help);
    };
    if text.contains('\0') {
        return error(
            format!("{what} has a NUL character, which no program can be given"),
            String::new(),
        );
    }
    match shape {
        Shape::Text(kind) if text.trim().is_empty() => {
            error(format!("{what} is empty; it must be {kind}"), String::new());
        }
        Shape::Int { min, max } => {
            let value = node.int().unwrap_or(*min);
            if !(*min..=*max).contains(&value) {
                error(format!("{what} must be {shape}, found {value}"), String::new());
            }
        }
        Shape::Duration => {
            if let Err(cause) = duration::parse(text) {
                let help = match text.parse::<u64>() {
                    Ok(number) => {
                        format!("write `{number}s` for seconds or `{number}m` for minutes")
                    }
                    Err(_) => String::new(),
                };
                let shown = first_line(text, 40);
                error(format!("{what} is not a duration: `{shown}`: {cause}"), help);
            }
        }
        Shape::Size => {
            if let Err(cause) = bytes::parse(text) {
                error(
                    format!("{what} is not a size: `{}`: {cause}", first_line(text, 40)),
                    size_help(text),
                );
            }
        }
        Shape::Processors if processors(text).is_none() => {
            let help = match text.strip_suffix('m').and_then(|millis| millis.parse::<u32>().ok()) {
                Some(millis) => format!("write `{}`", f64::from(millis) / 1000.0),
                None => String::new(),
            };
            error(format!("{what} must be {shape}, found `{}`", first_line(text, 40)), help);
        }
        Shape::Words(kind, words) if !words.contains(&text.as_str()) => {
            let help = match suggest::nearest(text, words.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it is one of {}", words.join(", ")),
            };
            error(format!("{what}: `{}` is not {kind}", first_line(text, 40)), help);
        }
        _ => {}
    }
}

/// Most processors that a job can ask for, in thousandths.
const PROCESSORS_MAX: u32 = 10_000_000;

/// `2`, `0.5`, `1.25`: in thousandths, at least 10 of them, under which nothing gets anywhere.
pub fn processors(text: &str) -> Option<u32> {
    let (whole, parts) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(parts) || parts.len() > 3 {
        return None;
    }
    let millis = whole.parse::<u32>().ok()?.checked_mul(1000)?;
    let millis = millis.checked_add(format!("{parts:0<3}").parse().ok()?)?;
    (10..=PROCESSORS_MAX).contains(&millis).then_some(millis)
}

/// For who writes sizes as other programs have them.
fn size_help(text: &str) -> String {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match (is_number, text[digits.len()..].to_ascii_lowercase().as_str()) {
        (true, "") => format!("write `{digits}MB` or `{digits}B`"),
        (true, unit @ ("k" | "m" | "g" | "t" | "ki" | "mi" | "gi" | "ti")) => {
            let unit = unit[..1].to_uppercase();
            format!("write `{digits}{unit}B`, or `{digits}{unit}iB` for units of 1024")
        }
        _ => String::new(),
    }
}

fn map(node: &Node, keys: &Keys, complaints: &mut Complaints) {
    let mut helps = String::new();
    for (name, value) in node.entries() {
        let key = keys.keys.iter().find(|key| key.name == name.value);
        let ignored = keys.ignored_prefix.is_some_and(|prefix| name.value.starts_with(prefix));
        match (key, keys.others) {
            (Some(key), _) => check(value, key.shape, &format!("`{}`", key.name), complaints),
            _ if ignored => {}
            (None, Some((_, shape))) => {
                check(value, shape, &format!("`{}`", name.value), complaints)
            }
            (None, None) => {
                let shown = first_line(&name.value, 40);
                let message = format!("{} has no key `{shown}`", keys.what);
                let help = unknown_help(&name.value, keys);
                helps.push_str(&help);
                complaints.error(name.span.clone(), message, help);
            }
        }
    }
    for key in keys.keys.iter().filter(|key| key.required && node.get(key.name).is_none()) {
        // A slip of the finger that was meant to be this key is one fault, not two.
        if helps.contains(&format!("`{}`", key.name)) {
            continue;
        }
        let first = node.entries().first().map_or(node.span.clone(), |entry| entry.0.span.clone());
        let message = format!("{} needs the key `{}`", keys.what, key.name);
        complaints.error(first, message, format!("`{}`: {}", key.name, key.about));
    }
}

fn unknown_help(name: &str, keys: &Keys) -> String {
    if let Some((_, help)) = keys.foreign.iter().find(|(foreign, _)| *foreign == name) {
        return (*help).to_owned();
    }
    let names = || keys.keys.iter().map(|key| key.name);
    match suggest::nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its keys are {}", names().collect::<Vec<_>>().join(", ")),
    }
}

/// What is wanted, in the words of an error.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(what) => f.write_str(what),
            Self::Scalar => f.write_str("a text"),
            Self::Nothing => f.write_str("nothing"),
            Self::Bool => f.write_str("`true` or `false`"),
            Self::Int { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Duration => f.write_str("a duration such as `90s`, `10m` or `2h`"),
            Self::Size => f.write_str("a size such as `512MB` or `2GB`"),
            Self::Processors => {
                f.write_str("a number of processors such as `2` or `0.5`, at least 0.01")
            }
            Self::Words(what, words) => write!(f, "{what} ({})", words.join(", ")),
            Self::List(one) => write!(f, "a list, each item {one}"),
            Self::Many(one) => write!(f, "{one}, or a list of such"),
            Self::Map(Keys { others: Some((other, _)), .. }) => {
                write!(f, "a map, each key {other}")
            }
            Self::Map(keys) => {
                let names: Vec<&str> = keys.keys.iter().map(|key| key.name).collect();
                match names.len() {
                    0 => f.write_str("a map"),
                    1..=4 => write!(f, "a map with {}", names.join(", ")),
                    _ => write!(f, "a map with {}, …", names[..3].join(", ")),
                }
            }
            Self::Filled(inner) => inner.fmt(f),
            Self::Each(what, _) => write!(f, "a map, each key {what}"),
            Self::Either(shapes) => {
                for (at, shape) in shapes.iter().enumerate() {
                    let join = match at {
                        0 => "",
                        at if at + 1 == shapes.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{join}{shape}")?;
                }
                Ok(())
            }
        }
    }
}

/// A shape as a JSON schema. Maps with keys are referred to by name and collected in `definitions`.
pub fn schema(shape: &Shape, definitions: &mut serde_json::Map<String, Value>) -> Value {
    match shape {
        Shape::Text(_) => json!({ "type": ["string", "number"], "minLength": 1 }),
        Shape::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Nothing => json!({ "type": "null" }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Int { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Duration => json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" }),
        Shape::Size => json!({
            "type": "string",
            "pattern": "^ *[0-9]+(\\.[0-9]+)? *([kKmMgGtT][iI]?)?[bB] *$",
        }),
        Shape::Processors => json!({ "type": ["number", "string"], "minimum": 0.01 }),
        Shape::Words(_, words) => json!({ "enum": words }),
        Shape::List(one) => json!({ "type": "array", "items": schema(one, definitions) }),
        Shape::Many(one) => {
            let one = schema(one, definitions);
            json!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
        }
        Shape::Each(_, one) => {
            json!({ "type": "object", "additionalProperties": schema(one, definitions) })
        }
        Shape::Filled(inner) => {
            // Each says nothing of the other kind of value.
            let mut inner = schema(inner, definitions);
            inner["minItems"] = 1.into();
            inner["minProperties"] = 1.into();
            inner
        }
        Shape::Either(shapes) => {
            let shapes: Vec<Value> = shapes.iter().map(|s| schema(s, definitions)).collect();
            json!({ "anyOf": shapes })
        }
        Shape::Map(keys) => {
            let name = keys.what.trim_start_matches("the ").trim_start_matches("a ");
            let name = name.trim_start_matches("an ").replace(['`', ' '], "");
            if !definitions.contains_key(&name) {
                // In its place before its parts, which may refer to it.
                definitions.insert(name.clone(), Value::Null);
                let object = object(keys, definitions);
                definitions.insert(name.clone(), object);
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
    }
}

fn object(keys: &Keys, definitions: &mut serde_json::Map<String, Value>) -> Value {
    let mut properties = serde_json::Map::new();
    for key in keys.keys {
        let mut property = schema(key.shape, definitions);
        property["description"] = key.about.into();
        properties.insert(key.name.to_owned(), property);
    }
    let required: Vec<&str> = keys.keys.iter().filter(|k| k.required).map(|k| k.name).collect();
    let others = match keys.others {
        Some((_, shape)) => schema(shape, definitions),
        None => false.into(),
    };
    let mut object = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": others,
    });
    if !required.is_empty() {
        object["required"] = required.into();
    }
    if let Some(prefix) = keys.ignored_prefix {
        object["patternProperties"] = json!({ format!("^{prefix}"): true });
    }
    object
}
