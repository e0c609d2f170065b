//! Secrets out of a stream of bytes.
//!
//! Every secret is looked for as it is and in the forms in which it commonly leaks: line by line,
//! base64 in its three alignments (both alphabets, and wrapped at 64 and 76 columns), URL-encoded,
//! escaped as JSON and for a shell. Each occurrence becomes `***`.
//!
//! Always: the output does not depend on how the input was cut into chunks. An end of input that
//! may be the beginning of a secret is held back until more comes or [`Masker::flush`] says that
//! nothing will; everything else is passed on at once.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind};
use zeroize::Zeroizing;

/// Shorter secrets (and lines of secrets) are not masked.
pub(crate) const SECRET_BYTES_MIN: usize = 4;

const STARS: &[u8] = b"***";

pub(crate) struct Masker {
    finder: AhoCorasick,
    /// Sorted, to find out whether a text begins any of them.
    patterns: Vec<Zeroizing<Vec<u8>>>,
    longest: usize,
    begins: [bool; 256],
    /// The held end of the input so far.
    held: Vec<u8>,
}

impl Masker {
    /// `None` when nothing is to be masked.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut forms = BTreeSet::new();
        for secret in secrets {
            add_forms(secret, &mut forms);
        }
        let patterns: Vec<_> = forms.into_iter().map(Zeroizing::new).collect();
        let longest = patterns.iter().map(|p| p.len()).max()?;
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns.iter().map(|p| p.as_slice()))
            .ok()?;
        let mut begins = [false; 256];
        for pattern in &patterns {
            begins[usize::from(pattern[0])] = true;
        }
        Some(Self { finder, patterns, longest, begins, held: Vec::new() })
    }

    /// Appends to `out` what is certain of the input so far.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.held.is_empty() {
            let held_from = self.pass(input, out);
            self.held.extend_from_slice(&input[held_from..]);
            return;
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(input);
        let held_from = self.pass(&all, out);
        all.drain(..held_from);
        self.held = all;
    }

    /// Appends what was held: nothing follows that could complete it.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        let mut from = 0;
        for found in self.finder.find_iter(&held) {
            out.extend_from_slice(&held[from..found.start()]);
            out.extend_from_slice(STARS);
            from = found.end();
        }
        out.extend_from_slice(&held[from..]);
    }

    /// Masks `all` up to where it may begin an unfinished secret, and says where that is.
    fn pass(&self, all: &[u8], out: &mut Vec<u8>) -> usize {
        let mut from = 0;
        let mut held_from = self.held_from(all, 0);
        loop {
            let input = Input::new(all).span(from..all.len()).anchored(Anchored::No);
            match self.finder.find(input) {
                Some(found) if found.start() < held_from => {
                    out.extend_from_slice(&all[from..found.start()]);
                    out.extend_from_slice(STARS);
                    from = found.end();
                    if from > held_from {
                        held_from = self.held_from(all, from);
                    }
                }
                // A match that begins at or after `held_from` may yet lose to an earlier or a
                // longer one.
                _ => {
                    out.extend_from_slice(&all[from..held_from]);
                    return held_from;
                }
            }
        }
    }

    /// The first place at or after `from` whose rest is a beginning, and no more, of a pattern.
    fn held_from(&self, all: &[u8], from: usize) -> usize {
        let first = from.max(all.len().saturating_sub(self.longest - 1));
        (first..all.len()).find(|at| self.begins_a_pattern(&all[*at..])).unwrap_or(all.len())
    }

    fn begins_a_pattern(&self, rest: &[u8]) -> bool {
        if !self.begins[usize::from(rest[0])] {
            return false;
        }
        let at = self.patterns.partition_point(|pattern| pattern.as_slice() <= rest);
        self.patterns.get(at).is_some_and(|pattern| pattern.starts_with(rest))
    }
}

/// Every form of `secret` that is long enough to be looked for.
fn add_forms(secret: &str, forms: &mut BTreeSet<Vec<u8>>) {
    let mut add = |form: Vec<u8>| {
        if form.len() >= SECRET_BYTES_MIN {
            forms.insert(form);
        }
    };
    let mut texts = vec![secret, secret.trim()];
    texts.extend(secret.lines().flat_map(|line| [line, line.trim()]));
    texts.retain(|text| text.len() >= SECRET_BYTES_MIN);
    texts.sort_unstable();
    texts.dedup();
    for text in texts {
        // A text of several lines is masked by its lines, which need no newline to be certain.
        if !text.contains('\n') {
            add(text.as_bytes().to_vec());
            add(text.replace('\'', "'\\''").into_bytes());
        }
        add_base64(text.as_bytes(), &mut add);
        for upper in [true, false] {
            for plus in [true, false] {
                add(url_encoded(text, upper, plus));
            }
        }
        for ascii in [true, false] {
            add(json_escaped(text, ascii));
        }
    }
}

fn add_base64(secret: &[u8], add: &mut impl FnMut(Vec<u8>)) {
    let both = |text: Vec<u8>, add: &mut dyn FnMut(Vec<u8>)| {
        let swap = |b| match b {
            b'+' => b'-',
            b'/' => b'_',
            b => b,
        };
        add(text.iter().copied().map(swap).collect());
        add(text);
    };
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(secret);
        let whole = base64(&padded);
        // Characters that also depend on the bytes before, and on those after, are left out; with
        // nothing after, the last one is the secret's own.
        let first = [0, 2, 3][before];
        let certain = padded.len() * 8 / 6;
        if first < certain {
            both(whole[first..certain].to_vec(), add);
            both(whole[first..].to_vec(), add);
        }
    }
    for columns in [64, 76] {
        let whole = base64(secret);
        if whole.len() > columns {
            whole.chunks(columns).for_each(|line| both(line.to_vec(), add));
        }
    }
}

/// Without padding.
fn base64(bytes: &[u8]) -> Vec<u8> {
    let padded = kiln_stdx::base64::encode(bytes);
    padded.trim_end_matches('=').as_bytes().to_vec()
}

fn url_encoded(text: &str, upper: bool, plus: bool) -> Vec<u8> {
    let mut encoded = Vec::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte);
            }
            b' ' if plus => encoded.push(b'+'),
            _ if upper => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => encoded.extend_from_slice(format!("%{byte:02x}").as_bytes()),
        }
    }
    encoded
}

/// As inside a JSON string; with `ascii`, everything else as `\u….`, as Python writes it.
fn json_escaped(text: &str, ascii: bool) -> Vec<u8> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).unwrap_or_default();
    if !ascii {
        return inner.as_bytes().to_vec();
    }
    let mut escaped = String::new();
    for letter in inner.chars() {
        if letter.is_ascii() {
            escaped.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], chunks: &[&[u8]]) -> String {
        let mut masker = Masker::new(secrets.iter().copied()).expect("there is a secret");
        let mut out = Vec::new();
        for chunk in chunks {
            masker.feed(chunk, &mut out);
        }
        masker.flush(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn every_common_form_of_a_secret_is_masked() {
        let secret = "p\"ss wörd/+?1'x";
        let cases = [
            secret.to_owned(),
            "p%22ss%20w%C3%B6rd%2F%2B%3F1%27x".to_owned(),
            "p%22ss+w%c3%b6rd%2f%2b%3f1%27x".to_owned(),
            "p\\\"ss wörd/+?1'x".to_owned(),
            "p\\\"ss w\\u00f6rd/+?1'x".to_owned(),
            "p\"ss wörd/+?1'\\''x".to_owned(),
            String::from_utf8(base64(secret.as_bytes())).unwrap(),
        ];
        for case in cases {
            assert_eq!(masked(&[secret], &[format!("<{case}>").as_bytes()]), "<***>", "{case}");
        }
    }

    #[test]
    fn base64_is_masked_at_each_alignment() {
        for before in ["", "a", "ab", "abc"] {
            for after in ["", "z", "zy", "zyx"] {
                let text = base64(format!("{before}hunter2hunter2{after}").as_bytes());
                let out = masked(&["hunter2hunter2"], &[&text]);
                assert!(out.contains("***"), "{before} {after}: {out}");
                assert!(out.len() <= "***".len() + 10, "{before} {after}: {out}");
            }
        }
    }

    #[test]
    fn the_lines_of_a_key_are_masked_also_when_base64_is_wrapped() {
        let key: String = (0..12).map(|n| format!("line {n} of the private key\n")).collect();
        assert_eq!(masked(&[&key], &[b"a line 7 of the private key\r\n"]), "a ***\r\n");
        let wrapped: Vec<u8> =
            base64(key.as_bytes()).chunks(76).flat_map(|l| [l, b"\n"].concat()).collect();
        let out = masked(&[&key], &[&wrapped]);
        assert!(out.lines().all(|line| line == "***"), "{out}");
    }

    #[test]
    fn the_cut_into_chunks_does_not_matter() {
        let secrets = ["abcabd", "abc", "bcabdxyz", "dxyzzz"];
        let text = b"zabcabdxyabcabcabd abcabdxyzzz bcabdxy abca";
        let whole = masked(&secrets, &[text]);
        for size in 1..text.len() {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(masked(&secrets, &chunks), whole, "chunks of {size}");
        }
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut masker = Masker::new(["secret-value"]).unwrap();
        let mut out = Vec::new();
        masker.feed(b"progress 10%", &mut out);
        assert_eq!(out, b"progress 10%");
        masker.feed(b" secret-", &mut out);
        assert_eq!(out, b"progress 10% ");
        masker.feed(b"ly", &mut out);
        assert_eq!(out, b"progress 10% secret-ly");
    }

    #[test]
    fn short_secrets_are_left() {
        assert!(Masker::new(["abc", ""]).is_none());
    }
}
