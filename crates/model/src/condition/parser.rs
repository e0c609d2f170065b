//! Tokens as a tree, by recursive descent: `||`, then `&&`, then one comparison, then `!`, then
//! names, calls and brackets.
//!
//! After a complaint the parser goes on at the next `&&`, `||`, `,` or closing bracket, so that one
//! pass finds the slips of every part.

use std::ops::Range;

use kiln_stdx::suggest;

use super::Value;
use super::checked::ConditionError;
use super::function::{FUNCTIONS, Function};
use super::lexer::{Spanned, Token};
use super::syntax::{Comparison, Expr, Kind};
use crate::pattern::Glob;

/// Deepest nesting of brackets, `!` and calls. People write 3; a thread's stack bears thousands.
const DEPTH_MAX: usize = 64;
/// Most levels of the tree: a bracket makes at most four (`||`, `&&`, a comparison, `!`).
const HEIGHT_MAX: usize = 4 * DEPTH_MAX;

pub(super) fn parse(tokens: &[Spanned], end: usize) -> (Expr, Vec<ConditionError>) {
    let mut parser = Parser { tokens, at: 0, end, depth: 0, too_deep: None, errors: Vec::new() };
    let expr = parser.any();
    if let Some(error) = parser.too_deep {
        return (Expr::new(0..end, Kind::Wrong), vec![error]);
    }
    if let Some((token, span)) = parser.tokens.get(parser.at).cloned() {
        parser.trailing(&token, span);
    }
    (expr, parser.errors)
}

struct Parser<'a> {
    tokens: &'a [Spanned],
    at: usize,
    /// Length of the text: the place of what is missing at its end.
    end: usize,
    depth: usize,
    /// The one complaint that silences all others.
    too_deep: Option<ConditionError>,
    errors: Vec<ConditionError>,
}

impl Parser<'_> {
    fn any(&mut self) -> Expr {
        self.chain("||", Self::all, Kind::Any)
    }

    fn all(&mut self) -> Expr {
        self.chain("&&", Self::comparison, Kind::All)
    }

    /// One part, or several between `sign`.
    fn chain(
        &mut self,
        sign: &str,
        part: fn(&mut Self) -> Expr,
        kind: fn(Vec<Expr>) -> Kind,
    ) -> Expr {
        let first = part(self);
        let mut parts = vec![first];
        while self.take(sign) {
            parts.push(part(self));
        }
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let span = parts[0].span.start..parts[parts.len() - 1].span.end;
        Expr::new(span, kind(parts))
    }

    fn comparison(&mut self) -> Expr {
        let mut left = self.not();
        let mut n_compared = 0;
        while let Some((comparison, span)) = self.comparison_sign() {
            self.at += 1;
            n_compared += 1;
            if n_compared == 2 {
                let help = "compare two at a time and join them with `&&`";
                self.error(span, "comparisons cannot be chained".to_owned(), help);
            }
            let right = self.not();
            let span = left.span.start..right.span.end;
            left = match n_compared {
                1 => Expr::new(span, Kind::Compare(Box::new(left), comparison, Box::new(right))),
                _ => Expr::new(span, Kind::Wrong),
            };
        }
        left
    }

    fn comparison_sign(&self) -> Option<(Comparison, Range<usize>)> {
        let (token, span) = self.tokens.get(self.at)?;
        let comparison = match token {
            Token::Sign(sign) => Comparison::from_sign(sign)?,
            Token::Name(name) if name == "in" => Comparison::In,
            _ => return None,
        };
        Some((comparison, span.clone()))
    }

    fn not(&mut self) -> Expr {
        let start = self.place().start;
        if self.peek_sign() != Some("!") {
            return self.postfix();
        }
        self.at += 1;
        let inner = self.deeper(Self::not);
        Expr::new(start..inner.span.end, Kind::Not(Box::new(inner)))
    }

    /// Runs `parse` one level down, unless that is too deep: then the rest is given up.
    fn deeper(&mut self, parse: fn(&mut Self) -> Expr) -> Expr {
        if self.depth == DEPTH_MAX {
            return self.too_deep();
        }
        self.depth += 1;
        let expr = parse(self);
        self.depth -= 1;
        expr
    }

    fn too_deep(&mut self) -> Expr {
        let span = self.place();
        self.too_deep.get_or_insert(ConditionError::new(
            span.clone(),
            format!("the condition is nested more than {DEPTH_MAX} deep"),
            "split the job, or compute the answer in a step and give it as an output",
        ));
        self.at = self.tokens.len();
        Expr::new(span, Kind::Wrong)
    }

    /// A value and what follows it: `.name`, `["name"]`, `(…)`.
    fn postfix(&mut self) -> Expr {
        let mut expr = self.primary();
        loop {
            expr = match self.peek_sign() {
                Some(".") => self.part(expr),
                Some("[") if matches!(expr.kind, Kind::Path(_)) => self.index(expr),
                Some("(") if matches!(expr.kind, Kind::Path(_)) => self.call(expr),
                _ => return expr,
            };
            // A chain of methods is deep, although nothing in it is nested.
            if expr.height > HEIGHT_MAX {
                return self.too_deep();
            }
        }
    }

    fn part(&mut self, expr: Expr) -> Expr {
        self.at += 1;
        let Some((Token::Name(name), span)) = self.tokens.get(self.at).cloned() else {
            let span = self.place();
            self.error(span, "a name must follow the dot".to_owned(), "as in `needs.build.state`");
            return Expr::new(expr.span, Kind::Wrong);
        };
        self.at += 1;
        let whole = expr.span.start..span.end;
        match expr.kind {
            Kind::Path(mut parts) => {
                parts.push((name, span));
                Expr::new(whole, Kind::Path(parts))
            }
            // A method of something that is no name: `lower(title).contains("x")`.
            _ if self.peek_sign() == Some("(") => {
                self.function(&name, span, whole.start, Some(expr))
            }
            Kind::Wrong => Expr::new(whole, Kind::Wrong),
            _ => {
                self.error(span, format!("there is no part `{name}` in this"), "");
                Expr::new(whole, Kind::Wrong)
            }
        }
    }

    fn index(&mut self, expr: Expr) -> Expr {
        let Kind::Path(mut parts) = expr.kind else { unreachable!("the caller has looked") };
        let open = self.place().start;
        self.at += 1;
        match self.tokens.get(self.at).cloned() {
            Some((Token::Text(name), span)) => {
                self.at += 1;
                parts.push((name, span));
            }
            _ => {
                let span = self.place();
                let help = "as in `needs[\"build-all\"].state`";
                self.error(span, "a name in quotation marks must follow `[`".to_owned(), help);
                self.recover();
            }
        }
        let end = self.place().end;
        self.close("]", open);
        Expr::new(expr.span.start..end, Kind::Path(parts))
    }

    fn call(&mut self, callee: Expr) -> Expr {
        let Kind::Path(mut parts) = callee.kind else { unreachable!("the caller has looked") };
        let (name, span) = parts.pop().expect("a path has a part");
        let receiver = parts
            .last()
            .map(|last| callee.span.start..last.1.end)
            .map(|span| Expr::new(span, Kind::Path(std::mem::take(&mut parts))));
        self.function(&name, span, callee.span.start, receiver)
    }

    /// A call, from its opening bracket on.
    fn function(
        &mut self,
        name: &str,
        name_span: Range<usize>,
        start: usize,
        receiver: Option<Expr>,
    ) -> Expr {
        let open = self.place().start;
        self.at += 1;
        let mut arguments: Vec<Expr> = receiver.into_iter().collect();
        arguments.extend(self.list(")"));
        let end = self.place().end;
        self.close(")", open);
        let span = start..end;
        let Some(function) = Function::from_name(name) else {
            let near = suggest::nearest(name, FUNCTIONS.iter().map(|f| f.name));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let names: Vec<&str> = FUNCTIONS.iter().map(|f| f.name).collect();
                    format!("the functions are {}", names.join(", "))
                }
            };
            self.error(name_span, format!("there is no function `{name}`"), &help);
            return Expr::new(span, Kind::Wrong);
        };
        let globs = self.globs(function, &arguments);
        Expr::new(span, Kind::Call { function, arguments, globs })
    }

    /// Makes the patterns among the arguments.
    fn globs(&mut self, function: Function, arguments: &[Expr]) -> Vec<Glob> {
        let mut globs = Vec::new();
        for (at, argument) in arguments.iter().enumerate() {
            if !function.is_pattern(at) {
                continue;
            }
            match &argument.kind {
                Kind::Literal(Value::Text(pattern)) => match Glob::new(pattern) {
                    Ok(glob) => globs.push(glob),
                    Err(error) => {
                        let message = format!("`{pattern}` is not a pattern: {error}");
                        self.error(argument.span.clone(), message, GLOB_HELP);
                    }
                },
                Kind::Wrong => {}
                _ => {
                    let message = "a pattern must be written out as a text".to_owned();
                    self.error(argument.span.clone(), message, function.signature().usage);
                }
            }
        }
        globs
    }

    fn primary(&mut self) -> Expr {
        let Some((token, span)) = self.tokens.get(self.at).cloned() else {
            let place = self.place();
            let message = "the condition ends where a value is expected".to_owned();
            self.error(place.clone(), message, "");
            return Expr::new(place, Kind::Wrong);
        };
        let literal = |value| Kind::Literal(value);
        let kind = match token {
            Token::Int(value) => literal(Value::Int(value)),
            Token::Text(text) => literal(Value::Text(text)),
            Token::Name(name) => match name.as_str() {
                "true" => literal(Value::Bool(true)),
                "false" => literal(Value::Bool(false)),
                "null" => literal(Value::Null),
                "not" => return self.unexpected("not", span, "write `!` for `not`"),
                "in" => {
                    return self.unexpected("in", span, "as in `branch in [\"main\", \"dev\"]`");
                }
                _ => Kind::Path(vec![(name, span.clone())]),
            },
            Token::Sign("(") => {
                self.at += 1;
                let inner = self.deeper(Self::any);
                let end = self.place().end;
                self.close(")", span.start);
                return Expr::new(span.start..end, inner.kind);
            }
            Token::Sign("[") => {
                self.at += 1;
                let items = self.list("]");
                let end = self.place().end;
                self.close("]", span.start);
                return Expr::new(span.start..end, Kind::List(items));
            }
            Token::Sign(sign) => return self.unexpected(sign, span, ""),
        };
        self.at += 1;
        Expr::new(span, kind)
    }

    /// Expressions between commas, up to but without the closing bracket.
    fn list(&mut self, close: &str) -> Vec<Expr> {
        let mut items = Vec::new();
        while self.at < self.tokens.len() && self.peek_sign() != Some(close) {
            items.push(self.deeper(Self::any));
            if !self.take(",") {
                break;
            }
        }
        items
    }

    fn unexpected(&mut self, found: &str, span: Range<usize>, help: &str) -> Expr {
        self.error(span.clone(), format!("expected a value, found `{found}`"), help);
        self.recover();
        Expr::new(span, Kind::Wrong)
    }

    fn trailing(&mut self, token: &Token, span: Range<usize>) {
        let (found, help) = match token {
            Token::Name(name) => {
                let help = match name.to_lowercase().as_str() {
                    "and" => "write `&&` for `and`",
                    "or" => "write `||` for `or`",
                    "is" => "write `==` for `is`",
                    "not" => "write `!(… in …)` for `not in`",
                    "matches" => "write `glob(branch, \"release/*\")`",
                    _ => "a text is written in quotation marks",
                };
                (name.as_str(), help)
            }
            Token::Text(_) => ("a text", ""),
            Token::Int(_) => ("a number", ""),
            Token::Sign(sign @ (")" | "]")) => (*sign, "this bracket was not opened"),
            Token::Sign(sign) => (*sign, ""),
        };
        let quoted = match token {
            Token::Text(_) | Token::Int(_) => found.to_owned(),
            _ => format!("`{found}`"),
        };
        self.error(span, format!("expected an operator, found {quoted}"), help);
    }

    fn close(&mut self, bracket: &str, open: usize) {
        if self.take(bracket) || self.too_deep.is_some() {
            return;
        }
        match self.tokens.get(self.at).cloned() {
            Some((token, span)) => {
                self.trailing(&token, span);
                self.recover();
                self.take(bracket);
            }
            None => {
                let message = format!("the bracket is not closed with `{bracket}`");
                self.error(open..open + 1, message, "");
            }
        }
    }

    /// Goes to the next place where an expression may end.
    fn recover(&mut self) {
        let mut open = 0usize;
        while let Some((token, _)) = self.tokens.get(self.at) {
            match token {
                Token::Sign("(" | "[") => open += 1,
                Token::Sign(")" | "]") if open == 0 => return,
                Token::Sign(")" | "]") => open -= 1,
                Token::Sign("&&" | "||" | ",") if open == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn peek_sign(&self) -> Option<&'static str> {
        match self.tokens.get(self.at) {
            Some((Token::Sign(sign), _)) => Some(sign),
            _ => None,
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.peek_sign() == Some(sign);
        self.at += usize::from(found);
        found
    }

    fn place(&self) -> Range<usize> {
        self.tokens.get(self.at).map_or(self.end..self.end, |(_, span)| span.clone())
    }

    fn error(&mut self, span: Range<usize>, message: String, help: &str) {
        self.errors.push(ConditionError::new(span, message, help));
    }
}

pub(super) const GLOB_HELP: &str =
    "`*` matches within a name, `**` across folders, `?` one character, `{a,b}` either";
