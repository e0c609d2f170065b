//! A condition's text as tokens. Never stops: what is no token becomes a complaint, and the next
//! character is tried.

use std::ops::Range;

use super::checked::ConditionError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    Int(i64),
    Text(String),
    /// An operator or a bracket, as written.
    Sign(&'static str),
}

pub(super) type Spanned = (Token, Range<usize>);

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: &[&str] =
    &["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", "."];

pub(super) fn lex(text: &str) -> (Vec<Spanned>, Vec<ConditionError>) {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), errors: Vec::new() };
    while let Some(c) = lexer.peek() {
        lexer.token(c);
    }
    (lexer.tokens, lexer.errors)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Spanned>,
    errors: Vec<ConditionError>,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn token(&mut self, c: char) {
        let start = self.at;
        match c {
            c if c.is_whitespace() => self.at += c.len_utf8(),
            c if c.is_alphabetic() || c == '_' => self.name(start),
            '0'..='9' => self.int(start),
            '-' if self.digit_at(start + 1) => self.int(start),
            '\'' | '"' => self.text(start, c),
            '“' | '”' | '‘' | '’' => {
                self.at += c.len_utf8();
                self.error(start, format!("`{c}` is no quotation mark"), "write \"…\" or '…'");
            }
            _ => self.sign(start, c),
        }
    }

    fn digit_at(&self, at: usize) -> bool {
        self.text.as_bytes().get(at).is_some_and(u8::is_ascii_digit)
    }

    /// Letters, digits and `_`. A dash inside is a likely slip, since job names have them.
    fn name(&mut self, start: usize) {
        self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '-');
        self.at = start + self.text[start..self.at].trim_end_matches('-').len();
        let name = self.text[start..self.at].to_owned();
        if name.contains('-') {
            let parent = self.parent_path();
            let (message, help) = match parent {
                Some(parent) => (
                    format!("a name with a dash is written in brackets: `{parent}[\"{name}\"]`"),
                    format!("write `{parent}[\"{name}\"]`"),
                ),
                None => (
                    format!("`{name}` is not a name, and there is no subtraction"),
                    "a text is written in quotation marks".to_owned(),
                ),
            };
            self.error(start, message, &help);
        }
        self.push(start, Token::Name(name));
    }

    /// What stands before the dot that was read last: `needs` in `needs.`.
    fn parent_path(&self) -> Option<String> {
        let mut tokens = self.tokens.iter().rev();
        match (tokens.next()?, tokens.next()?) {
            ((Token::Sign("."), _), (Token::Name(name), _)) => Some(name.clone()),
            _ => None,
        }
    }

    fn int(&mut self, start: usize) {
        self.at += 1;
        self.take_while(|c| c.is_ascii_digit() || c == '_');
        let fraction = self.peek() == Some('.') && self.digit_at(self.at + 1);
        if fraction {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        let digits = &self.text[start..self.at];
        let value = match digits.parse() {
            Ok(value) => value,
            Err(_) if fraction => {
                let help = "a version is best compared as text: `\"1.5\"`";
                self.error(start, "only whole numbers are known here".to_owned(), help);
                0
            }
            Err(_) => {
                let message = "this is not a whole number of at most 64 bits".to_owned();
                self.error(start, message, "write digits only");
                0
            }
        };
        self.push(start, Token::Int(value));
    }

    fn text(&mut self, start: usize, quote: char) {
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let at = self.at;
            self.at += c.len_utf8();
            match c {
                c if c == quote => return self.push(start, Token::Text(text)),
                '\\' => self.escape(at, &mut text),
                c => text.push(c),
            }
        }
        let message = "this text has no end".to_owned();
        self.error(start, message, &format!("close it with `{quote}`"));
        self.push(start, Token::Text(text));
    }

    fn escape(&mut self, start: usize, text: &mut String) {
        let Some(c) = self.peek() else { return };
        self.at += c.len_utf8();
        match c {
            '\\' | '"' | '\'' | '`' | '?' | '/' => text.push(c),
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'u' => {
                let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
                let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
                match u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) {
                    Some(c) if hex => {
                        self.at += 4;
                        text.push(c);
                    }
                    _ => self.error(
                        start,
                        "`\\u` needs four hexadecimal digits of a character".to_owned(),
                        "write `\\u00e9` for `é`",
                    ),
                }
            }
            other => self.error(
                start,
                format!("`\\{other}` is not an escape"),
                "the escapes are \\\\ \\\" \\' \\n \\r \\t and \\uXXXX; a backslash is \\\\",
            ),
        }
    }

    fn sign(&mut self, start: usize, c: char) {
        let rest = &self.text[start..];
        if rest.starts_with("${{") || rest.starts_with("}}") {
            self.at += if rest.starts_with('$') { 3 } else { 2 };
            let message = "a condition is written without `${{ }}`".to_owned();
            return self.error(start, message, "remove `${{` and `}}`");
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            self.at += sign.len();
            return self.push(start, Token::Sign(sign));
        }
        self.at += c.len_utf8();
        let meant = match c {
            '=' => Some("=="),
            '&' => Some("&&"),
            '|' => Some("||"),
            _ => None,
        };
        match meant {
            Some(sign) => {
                let message = format!("`{c}` is not an operator");
                self.error(start, message, &format!("write `{sign}`"));
                self.push(start, Token::Sign(sign));
            }
            None => {
                let shown: String = c.escape_default().collect();
                let shown = if c.is_control() { shown } else { c.to_string() };
                self.error(
                    start,
                    format!("`{shown}` has no meaning in a condition"),
                    "the operators are == != < <= > >= && || ! in",
                );
            }
        }
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) {
        while let Some(c) = self.peek().filter(|c| belongs(*c)) {
            self.at += c.len_utf8();
        }
    }

    fn push(&mut self, start: usize, token: Token) {
        self.tokens.push((token, start..self.at));
    }

    fn error(&mut self, start: usize, message: String, help: &str) {
        self.errors.push(ConditionError::new(start..self.at, message, help));
    }
}
