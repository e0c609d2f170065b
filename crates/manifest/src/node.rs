//! A document as a tree in which every part knows its place.

use std::ops::Range;
use std::rc::Rc;

/// A value and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Range<usize>,
}

pub type Text = Spanned<String>;

impl<T> Spanned<T> {
    pub fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span }
    }
}

/// A part of a document. Aliases share what they point to, so a tree can be larger than its text.
#[derive(Debug)]
pub struct Node {
    pub span: Range<usize>,
    pub kind: Kind,
    /// How many levels it has, itself included.
    pub height: usize,
    /// How many nodes it has, shared ones counted each time.
    pub weight: usize,
}

#[derive(Debug)]
pub enum Kind {
    /// `plain`: without quotation marks, and so perhaps a number, a truth value or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<(Text, Rc<Node>)>),
    /// Something that was complained about; nothing more is to be said of it.
    Wrong,
}

impl Node {
    pub fn new(span: Range<usize>, kind: Kind) -> Self {
        let (height, weight) = match &kind {
            Kind::Scalar { .. } | Kind::Wrong => (0, 0),
            Kind::List(items) => sum(items.iter()),
            Kind::Map(entries) => sum(entries.iter().map(|entry| &entry.1)),
        };
        Self { span, kind, height: height + 1, weight: weight + 1 }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name.value == key).map(|entry| &*entry.1)
    }

    /// The entries of a map; of anything else, none.
    pub fn entries(&self) -> &[(Text, Rc<Node>)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; of anything else, none.
    pub fn items(&self) -> &[Rc<Node>] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true }
            if matches!(text.as_str(), "~" | "null" | "Null" | "NULL" | ""))
    }

    /// A scalar as it is written, unless there is nothing.
    pub fn text(&self) -> Option<Text> {
        match &self.kind {
            Kind::Scalar { text, .. } if !self.is_null() => {
                Some(Text::new(text.clone(), self.span.clone()))
            }
            _ => None,
        }
    }

    pub fn truth(&self) -> Option<bool> {
        match &self.kind {
            Kind::Scalar { text, plain: true } => match text.as_str() {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match &self.kind {
            Kind::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        }
    }

    /// What it is, in the words of an error.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Map(_) => "a map".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Wrong => "something wrong".to_owned(),
            Kind::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Kind::Scalar { text, .. } => {
                let kind = match (self.truth(), self.int()) {
                    (Some(_), _) => "the truth value",
                    (_, Some(_)) => "the number",
                    _ => "the text",
                };
                format!("{kind} `{}`", first_line(text, 40))
            }
        }
    }
}

fn sum<'a>(parts: impl Iterator<Item = &'a Rc<Node>>) -> (usize, usize) {
    parts.fold((0, 0), |(height, weight), part| {
        (height.max(part.height), weight.saturating_add(part.weight))
    })
}

/// The beginning of a text, as long as fits in a message.
pub fn first_line(text: &str, n_characters_max: usize) -> String {
    let line = text.trim().lines().next().unwrap_or_default().trim_end();
    let cut = line.char_indices().nth(n_characters_max).map(|(at, _)| at);
    match cut {
        Some(cut) => format!("{}…", &line[..cut]),
        None if text.trim().lines().nth(1).is_some() => format!("{line} …"),
        None => line.to_owned(),
    }
}
