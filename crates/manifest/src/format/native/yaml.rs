//! YAML's events as a tree of our own: anchors and merge keys resolved, doubled keys refused.
//!
//! The tree is built with an explicit stack. An alias shares the node that it points to; its height
//! and weight are counted each time, so that a document which explodes or nests without end is
//! refused while it is still small.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use crate::complaint::Complaints;
use crate::node::{Kind, Node, Text, first_line};

/// Deepest nesting. The format itself needs 8.
const DEPTH_MAX: usize = 64;
/// Most nodes, after aliases are followed. The largest allowed file without aliases stays below.
const NODES_MAX: usize = 1_000_000;

/// The tree of the only document. What is wrong is complained about; `None`: too much to go on.
pub fn tree(text: &str, complaints: &mut Complaints) -> Option<Rc<Node>> {
    if let Some(at) = leading_tab(text) {
        complaints.error(at..at + 1, "a tab cannot indent in YAML", "use spaces");
        return None;
    }
    let mut options = granit_parser::options! {
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    let mut builder =
        Builder { text, complaints, open: Vec::new(), anchors: HashMap::new(), n_nodes: 0 };
    let mut root = None;
    let mut n_documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((Event::DocumentStart(..), span)) => {
                n_documents += 1;
                if n_documents == 2 {
                    let span = span.byte_range().unwrap_or(0..0);
                    let help = "remove everything from `---` on";
                    builder.complaints.error(span, "a manifest is one YAML document", help);
                    break;
                }
            }
            Ok((event, span)) => match builder.event(event, span.byte_range().unwrap_or(0..0)) {
                Ok(Some(node)) => root = root.or(Some(node)),
                Ok(None) => {}
                Err(TooMuch) => return None,
            },
            Err(error) => {
                syntax_error(text, &error, builder.complaints);
                return None;
            }
        }
    }
    match root {
        Some(root) if !root.is_null() => Some(root),
        _ => {
            let help = "write at least\n\njobs:\n  build:\n    steps:\n      - make";
            complaints.error(0..0, "the manifest is empty", help);
            None
        }
    }
}

/// The document is larger or deeper than allowed, and that was said.
struct TooMuch;

/// A list or a map that is not closed yet.
struct Open {
    start: usize,
    anchor: usize,
    items: Vec<Rc<Node>>,
    /// `None`: a list.
    map: Option<OpenMap>,
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<(Text, Rc<Node>)>,
    waiting: Waiting,
}

/// What a map waits for.
#[derive(Default)]
enum Waiting {
    #[default]
    Key,
    Value(Text),
    /// The value of a key that was complained about.
    Nothing,
}

struct Builder<'a> {
    text: &'a str,
    complaints: &'a mut Complaints,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    n_nodes: usize,
}

impl Builder<'_> {
    /// Takes one event; gives the root when it is complete.
    fn event(&mut self, event: Event, span: Range<usize>) -> Result<Option<Rc<Node>>, TooMuch> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let Some(is_text) = self.tag(tag.as_deref(), &span) else {
                    return self.wrong(span);
                };
                let plain = style == ScalarStyle::Plain && !is_text;
                // Nothing at all is reported as `~` of no length.
                let span = self.value_span(span);
                let node = Node::new(span, Kind::Scalar { text: text.into_owned(), plain });
                self.add(node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &span);
                self.open(span.start, anchor, None);
                Ok(None)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &span);
                self.open(span.start, anchor, Some(OpenMap::default()));
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(&span),
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => self.place(node, &span),
                None => {
                    let help = "an alias can only stand after the part that it repeats";
                    self.complaints.error(span.clone(), "this alias is part of itself", help);
                    self.wrong(span)
                }
            },
            Event::UnresolvedAlias(name) => {
                let help = match name.is_empty() {
                    true => "quote a text that begins with `*`".to_owned(),
                    false => format!(
                        "write `&{name}` at the part to repeat, or quote a pattern that begins \
                         with `*`"
                    ),
                };
                self.complaints.error(span.clone(), format!("no anchor is named `{name}`"), help);
                self.wrong(span)
            }
            _ => Ok(None),
        }
    }

    /// Where a scalar stands, without the line break that ends a block.
    fn value_span(&self, span: Range<usize>) -> Range<usize> {
        let written = self.text.get(span.clone()).unwrap_or_default();
        span.start..span.start + written.trim_end().len()
    }

    /// Whether a tag says that it is a text, as `!!str` does; `None`: the tag has no meaning here.
    fn tag(&mut self, tag: Option<&Tag>, span: &Range<usize>) -> Option<bool> {
        let Some(tag) = tag else { return Some(false) };
        match tag.core_suffix() {
            Some("str") => Some(true),
            Some("int" | "bool" | "float" | "null" | "map" | "seq") => Some(false),
            _ => {
                let name = tag.original();
                let message =
                    format!("YAML reads `{name}` as a tag, and tags have no meaning here");
                let help = "quote a text that begins with `!`, as in `if: '!success()'`";
                let before = self.text.get(..span.start).unwrap_or_default();
                let start = before.rfind(name.as_str()).unwrap_or(span.start);
                let end = (start + name.len()).min(self.text.len());
                self.complaints.error(start..end, message, help);
                None
            }
        }
    }

    fn wrong(&mut self, span: Range<usize>) -> Result<Option<Rc<Node>>, TooMuch> {
        self.add(Node::new(span, Kind::Wrong), 0)
    }

    fn open(&mut self, start: usize, anchor: usize, map: Option<OpenMap>) {
        self.open.push(Open { start, anchor, items: Vec::new(), map });
    }

    fn close(&mut self, span: &Range<usize>) -> Result<Option<Rc<Node>>, TooMuch> {
        let Some(open) = self.open.pop() else { return Ok(None) };
        let (kind, last) = match open.map {
            None => {
                let last = open.items.last().map(|item| item.span.end);
                (Kind::List(open.items), last)
            }
            Some(OpenMap { entries, .. }) => {
                let last = entries.last().map(|(key, value)| key.span.end.max(value.span.end));
                (Kind::Map(self.merge(entries)), last)
            }
        };
        // A block has no closing mark: its end is the end of its last part.
        let end = if span.is_empty() { last.unwrap_or(open.start) } else { span.end };
        self.add(Node::new(open.start..end.max(open.start), kind), open.anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<Option<Rc<Node>>, TooMuch> {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let span = node.span.clone();
        // What is inside was counted when it was added.
        self.n_nodes = self.n_nodes.saturating_sub(node.weight - 1);
        self.place(node, &span)
    }

    /// Puts a node, new or shared, where the document has it.
    fn place(&mut self, node: Rc<Node>, span: &Range<usize>) -> Result<Option<Rc<Node>>, TooMuch> {
        self.n_nodes = self.n_nodes.saturating_add(node.weight);
        if self.n_nodes > NODES_MAX {
            let message = format!("the manifest has more than {NODES_MAX} values");
            let help = "aliases that repeat aliases multiply; write fewer of them";
            self.complaints.error(span.clone(), message, help);
            return Err(TooMuch);
        }
        if self.open.len() + node.height > DEPTH_MAX {
            let message = format!("the manifest is nested more than {DEPTH_MAX} deep");
            self.complaints.error(span.clone(), message, "");
            return Err(TooMuch);
        }
        let Some(open) = self.open.last_mut() else { return Ok(Some(node)) };
        match &mut open.map {
            None => open.items.push(node),
            Some(map) => match std::mem::take(&mut map.waiting) {
                Waiting::Key => map.waiting = key(&node, span, self.complaints),
                Waiting::Value(key) => map.entries.push((key, node)),
                Waiting::Nothing => {}
            },
        }
        Ok(None)
    }

    /// Refuses doubled keys, and follows `<<`: what the map itself says goes first.
    fn merge(&mut self, entries: Vec<(Text, Rc<Node>)>) -> Vec<(Text, Rc<Node>)> {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut merged: Vec<(Text, Rc<Node>)> = Vec::new();
        let mut sources = Vec::new();
        for (key, value) in entries {
            if key.value == "<<" {
                sources.push(value);
                continue;
            }
            match places.get(&key.value) {
                Some(first) => {
                    let line = self.text[..*first].matches('\n').count() + 1;
                    let message = format!("the key `{}` occurs twice", first_line(&key.value, 40));
                    self.complaints.error(key.span, message, format!("it is first on line {line}"));
                }
                None => {
                    places.insert(key.value.clone(), key.span.start);
                    merged.push((key, value));
                }
            }
        }
        for source in sources {
            let maps = match &source.kind {
                Kind::List(maps) => maps.clone(),
                _ => vec![Rc::clone(&source)],
            };
            for map in maps {
                if !matches!(map.kind, Kind::Map(_) | Kind::Wrong) {
                    let message = format!("`<<` needs a map, found {}", map.describe());
                    self.complaints.error(map.span.clone(), message, "as in `<<: *defaults`");
                }
                for (key, value) in map.entries() {
                    if let std::collections::hash_map::Entry::Vacant(place) =
                        places.entry(key.value.clone())
                    {
                        place.insert(key.span.start);
                        merged.push((key.clone(), Rc::clone(value)));
                    }
                }
            }
        }
        merged
    }
}

fn key(node: &Node, span: &Range<usize>, complaints: &mut Complaints) -> Waiting {
    match &node.kind {
        Kind::Scalar { text, .. } => Waiting::Value(Text::new(text.clone(), span.clone())),
        Kind::Wrong => Waiting::Nothing,
        Kind::List(_) | Kind::Map(_) => {
            let message = format!("a key must be a text, found {}", node.describe());
            complaints.error(node.span.clone(), message, "");
            Waiting::Nothing
        }
    }
}

/// A line that begins with a tab before something that is not a comment. The parser takes some of
/// them and stumbles later, where nobody looks for a tab.
fn leading_tab(text: &str) -> Option<usize> {
    let first =
        text.lines().find(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))?;
    let spaces = first.len() - first.trim_start_matches(' ').len();
    first[spaces..]
        .starts_with('\t')
        .then(|| first.as_ptr() as usize - text.as_ptr() as usize + spaces)
}

fn syntax_error(text: &str, error: &ScanError, complaints: &mut Complaints) {
    let mut at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    let begins = text[..at].rfind('\n').map_or(0, |start| start + 1);
    // What comes after the tab is told to be wrong; the tab is.
    if text[begins..at].trim().is_empty() {
        at = text[begins..at].find('\t').map_or(at, |tab| begins + tab);
    }
    let end = text[at..].chars().next().filter(|c| *c != '\n').map_or(at, |c| at + c.len_utf8());
    let line = &text[begins..end];
    let (message, help) = match error.kind() {
        ErrorKind::TabInBlockIndentation => {
            ("a tab cannot indent in YAML".to_owned(), "use spaces")
        }
        _ if line.contains('\t') && line.trim().is_empty() => {
            ("a tab cannot indent in YAML".to_owned(), "use spaces")
        }
        ErrorKind::RecursionLimitExceeded => {
            (format!("the manifest is nested more than {DEPTH_MAX} deep"), "")
        }
        ErrorKind::MappingValueNotAllowed => (
            "this colon cannot stand here".to_owned(),
            "quote a text that has `: ` in it, or check the indentation of this line and the one \
             above",
        ),
        ErrorKind::UnclosedQuotedScalar => {
            ("this text has no end".to_owned(), "close the quotation mark")
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            (format!("the bracket `{open}` is not closed"), "")
        }
        ErrorKind::MisplacedFlowCollectionEnd => ("this bracket was not opened".to_owned(), ""),
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::ExpectedBlockSequenceEntry => (
            "this line is indented differently from the lines that it belongs to".to_owned(),
            "keys of one map, and items of one list, begin in the same column",
        ),
        ErrorKind::BlockSequenceEntryNotAllowed => {
            ("a list cannot begin here".to_owned(), "begin it on a line of its own")
        }
        ErrorKind::MissingAnchorOrAliasName => (
            "YAML reads this as an alias or an anchor without a name".to_owned(),
            "quote a text that begins with `*` or `&`",
        ),
        ErrorKind::InvalidTrailingDoubleQuotedScalar => (
            "something follows the closing quotation mark".to_owned(),
            "quote the whole text, as in `'\"a\" == branch'`",
        ),
        ErrorKind::UnknownQuotedScalarEscape => (
            "this text has an unknown escape".to_owned(),
            "write `\\\\` for a backslash, or use single quotation marks",
        ),
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => (
            format!("the control character U+{:04X} cannot stand in YAML", u32::from(*character)),
            "",
        ),
        ErrorKind::UnexpectedCharacter { character } => {
            (format!("a text cannot begin with `{character}`"), "quote it")
        }
        _ => (error.info(), ""),
    };
    let message = message.strip_prefix("while parsing a block mapping, ").unwrap_or(&message);
    complaints.error(at..end, message, help);
}
