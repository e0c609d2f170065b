//! What a commit says of itself.

use kiln_stdx::Timestamp;

use crate::error::GitError;

/// Longest title and author that are kept: they are shown on one line.
const LINE_CHARS_MAX: usize = 500;

/// A commit, without its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    pub commit: String,
    pub tree: String,
    pub parents: Vec<String>,
    /// The first paragraph of the message, on one line, without control characters.
    pub title: String,
    /// The whole message, lossily decoded.
    pub message: String,
    /// `Name <mail>`.
    pub author: String,
    pub committed_at: Timestamp,
}

impl CommitInfo {
    /// Its author asks that it starts nothing: `[skip ci]` or a usual variant in the message.
    pub fn asks_to_skip(&self) -> Option<&'static str> {
        const WORDS: [&str; 5] =
            ["[skip ci]", "[ci skip]", "[no ci]", "[skip kiln]", "[kiln skip]"];
        let message = self.message.to_lowercase();
        WORDS.into_iter().find(|word| message.contains(word))
    }

    pub(crate) fn parse(commit: &str, bytes: &[u8]) -> Result<Self, GitError> {
        let (head, message) = match bytes.windows(2).position(|two| two == b"\n\n") {
            Some(at) => (&bytes[..at], &bytes[at + 2..]),
            None => (bytes, &[][..]),
        };
        let latin1 = head.split(|b| *b == b'\n').any(|line| {
            let line = line.to_ascii_lowercase();
            matches!(line.as_slice(), b"encoding iso-8859-1" | b"encoding latin1")
        });
        let text = |bytes: &[u8]| match latin1 {
            true => bytes.iter().map(|b| char::from(*b)).collect(),
            false => String::from_utf8_lossy(bytes).into_owned(),
        };
        let (head, message) = (text(head), text(message));
        // Header lines come in a fixed order; a signature's lines begin with a space.
        let field = |key: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
                .map(str::to_owned)
        };
        let damaged = || GitError::Failed {
            doing: "reading a commit",
            message: format!("the commit {commit} is damaged"),
        };
        let parents = head.lines().filter_map(|line| line.strip_prefix("parent "));
        Ok(Self {
            commit: commit.to_owned(),
            tree: field("tree").ok_or_else(damaged)?,
            parents: parents.map(str::to_owned).collect(),
            title: title(&message),
            author: one_line(person(&field("author").unwrap_or_default())),
            committed_at: moment(&field("committer").unwrap_or_default()),
            message,
        })
    }
}

fn title(message: &str) -> String {
    let lines = message.lines().map(str::trim).skip_while(|line| line.is_empty());
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    one_line(&paragraph.join(" "))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_CHARS_MAX).collect()
}

/// `Name <mail> 1700000000 +0100` without the moment.
fn person(line: &str) -> &str {
    line.rfind('>').map_or(line, |end| &line[..=end])
}

fn moment(line: &str) -> Timestamp {
    let after = line.rfind('>').map_or("", |end| &line[end + 1..]);
    let seconds: i64 = after.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or(0);
    Timestamp::from_millis(seconds.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> CommitInfo {
        CommitInfo::parse("c0ffee", text).unwrap()
    }

    #[test]
    fn a_commit_is_read_with_its_odd_corners() {
        let info = parse(
            b"tree 4b82\nparent aa\nparent bb\nauthor A <B> C <a@b> 1 +0000\n\
              committer X <x@y> 1700000000 +0100\ngpgsig -----BEGIN\n parent no\n\n\
              Fix\n  the thing\n\nBody [CI Skip]\n",
        );
        assert_eq!(info.parents, ["aa", "bb"]);
        assert_eq!(info.title, "Fix the thing");
        assert_eq!(info.author, "A <B> C <a@b>");
        assert_eq!(info.committed_at, Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(info.asks_to_skip(), Some("[ci skip]"));
    }

    #[test]
    fn old_encodings_and_bad_bytes_are_shown() {
        let latin = parse(b"tree 4b\nauthor J\xf8rn <j@x> 1 +0000\nencoding ISO-8859-1\n\nP\xe5\n");
        assert_eq!((latin.author.as_str(), latin.title.as_str()), ("Jørn <j@x>", "På"));
        assert_eq!(parse(b"tree 4b\n\n\xff\x1b[2J").title, "\u{fffd} [2J");
        assert_eq!(parse(b"tree 4b").title, "");
        assert!(CommitInfo::parse("x", b"\n\n").is_err());
    }
}
