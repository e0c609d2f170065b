//! The small things that every page shows: states, times, durations, sentences, links.
//!
//! Each function gives finished HTML as [`Html`], and everything that came from outside is escaped
//! here or by the template, never by the caller. The script (`static/time.js`) finds times and
//! durations by their attributes and makes them relative and live; without it they are absolute.

use std::fmt::{self, Write as _};
use std::time::Duration;

use kiln_stdx::{Timestamp, bytes, duration};

/// Text that is HTML already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Html(pub String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Html {}

/// Safe in an element and in a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// A picture of the sprite in `templates/icons.html`; it says nothing to a screen reader.
pub fn icon(name: &str) -> Html {
    Html(format!("<svg class=\"icon\" aria-hidden=\"true\"><use href=\"#i-{name}\"/></svg>"))
}

/// A state by colour, icon and word.
pub fn state(word: &str) -> Html {
    Html(format!("<span class=\"state s-{word}\">{}<span>{word}</span></span>", icon(word)))
}

/// A state by colour and icon, the word left to screen readers and the tooltip.
pub fn state_mark(word: &str) -> Html {
    Html(format!(
        "<span class=\"mark s-{word}\" title=\"{word}\">{}<span class=\"sr\">{word}</span></span>",
        icon(word)
    ))
}

/// A moment: exact in the attribute and the tooltip, to the minute in the text.
pub fn time(at: &Timestamp) -> Html {
    let exact = at.to_string();
    let readable = exact.get(..19).map_or(exact.clone(), |t| t.replace('T', " "));
    let short = readable.get(..16).unwrap_or(&readable);
    Html(format!("<time datetime=\"{exact}\" title=\"{readable} UTC\">{short} UTC</time>"))
}

/// How long something took; when it has not ended, how long it has taken by `now`, and it ticks.
pub fn span(from: &Option<Timestamp>, to: &Option<Timestamp>, now: &Timestamp) -> Html {
    let Some(from) = *from else { return Html::default() };
    Html(match to {
        Some(to) => format!("<span class=\"dur\">{}</span>", duration::show(to.since(from))),
        None => format!(
            "<span class=\"dur\" data-since=\"{}\">{}</span>",
            from.as_millis(),
            duration::show(now.since(from))
        ),
    })
}

/// A sentence in which `` `names` `` are set as code.
pub fn prose(text: &str) -> Html {
    let mut html = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        let Some((code, behind)) = after.split_once('`') else { break };
        let _ = write!(html, "{}<code><bdi>{}</bdi></code>", escape(before), escape(code));
        rest = behind;
    }
    html.push_str(&escape(rest));
    Html(html)
}

/// The first digits of a commit, as git abbreviates.
pub fn short(commit: &str) -> &str {
    commit.char_indices().nth(8).map_or(commit, |(at, _)| &commit[..at])
}

/// A size as people read it.
pub fn size(n_bytes: u64) -> String {
    bytes::show(n_bytes)
}

/// A span as people read it.
pub fn length(span: Duration) -> String {
    duration::show(span)
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 job`, `2 jobs`.
pub fn plural(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// One segment of a path, or one value of a query: everything but letters, digits and `-._~` is
/// percent-encoded.
pub fn segment(text: &str) -> String {
    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                url.push(char::from(byte));
            }
            byte => {
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
    url
}

/// A path of several segments.
pub fn path(text: &str) -> String {
    text.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_is_escaped() {
        assert_eq!(escape("<a b='c' d=\"e\">&"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;");
        assert_eq!(
            prose("step 1 `<script>` ended & how").0,
            "step 1 <code><bdi>&lt;script&gt;</bdi></code> ended &amp; how"
        );
        assert_eq!(prose("a ` alone").0, "a ` alone");
        assert_eq!(segment("a/b?c=%<\u{e9}>:15,x"), "a%2Fb%3Fc%3D%25%3C%C3%A9%3E%3A15%2Cx");
        assert_eq!(path("dist/a b.tar"), "dist/a%20b.tar");
    }

    #[test]
    fn a_time_is_exact_in_its_attribute() {
        let at = Timestamp::from_millis(1_795_227_048_123);
        assert_eq!(
            time(&at).0,
            "<time datetime=\"2026-11-21T02:10:48.123Z\" title=\"2026-11-21 02:10:48 UTC\">\
             2026-11-21 02:10 UTC</time>"
        );
    }

    #[test]
    fn only_what_has_not_ended_ticks() {
        let at = Timestamp::from_millis;
        assert_eq!(span(&None, &None, &at(5)).0, "");
        assert_eq!(
            span(&Some(at(0)), &Some(at(4_200)), &at(9)).0,
            "<span class=\"dur\">4.2s</span>"
        );
        assert_eq!(
            span(&Some(at(1_000)), &None, &at(3_000)).0,
            "<span class=\"dur\" data-since=\"1000\">2.0s</span>"
        );
    }

    #[test]
    fn numbers_are_grouped_and_commits_cut() {
        assert_eq!(count(25_000_000), "25,000,000");
        assert_eq!(count(999), "999");
        assert_eq!(plural(1, "job"), "1 job");
        assert_eq!(short("0123456789abcdef"), "01234567");
        assert_eq!(short("é"), "é");
    }
}
