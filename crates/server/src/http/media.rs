//! What kind of file an artifact is: by its name, and by a look at its start.
//!
//! Always: nothing that a browser would run as a script of ours is called one; and what is called
//! text is text.

/// By the end of the name, lower case. `true`: text, in UTF-8 when it looks so.
const TYPES: &[(&str, &str, bool)] = &[
    ("html", "text/html", true),
    ("htm", "text/html", true),
    ("css", "text/css", true),
    ("csv", "text/csv", true),
    ("md", "text/markdown", true),
    ("json", "application/json", true),
    ("svg", "image/svg+xml", true),
    ("png", "image/png", false),
    ("jpg", "image/jpeg", false),
    ("jpeg", "image/jpeg", false),
    ("gif", "image/gif", false),
    ("webp", "image/webp", false),
    ("avif", "image/avif", false),
    ("bmp", "image/bmp", false),
    ("ico", "image/x-icon", false),
    ("mp4", "video/mp4", false),
    ("webm", "video/webm", false),
    ("mp3", "audio/mpeg", false),
    ("ogg", "audio/ogg", false),
    ("wav", "audio/wav", false),
    ("woff", "font/woff", false),
    ("woff2", "font/woff2", false),
    ("ttf", "font/ttf", false),
    ("pdf", "application/pdf", false),
    ("zip", "application/zip", false),
    ("jar", "application/java-archive", false),
    ("gz", "application/gzip", false),
    ("tgz", "application/gzip", false),
    ("zst", "application/zstd", false),
    ("xz", "application/x-xz", false),
    ("bz2", "application/x-bzip2", false),
    ("tar", "application/x-tar", false),
    ("wasm", "application/wasm", false),
    ("deb", "application/vnd.debian.binary-package", false),
    ("rpm", "application/x-rpm", false),
    ("apk", "application/vnd.android.package-archive", false),
];

const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// The media type of a file that begins with `start`. Scripts are plain text.
pub fn of(path: &str, start: &[u8]) -> String {
    let is_text = is_text(start);
    match known(path) {
        Some((media_type, true)) if is_text && media_type.starts_with("text/") => {
            format!("{media_type}; charset=utf-8")
        }
        // JSON and SVG are UTF-8 by themselves.
        Some((media_type, text)) if is_text == text || start.is_empty() => media_type.to_owned(),
        _ if is_text => TEXT.to_owned(),
        _ => BYTES.to_owned(),
    }
}

/// Whether a browser shows a file of this name itself, rather than saving it. Only a guess where the
/// name tells nothing.
pub fn is_shown(path: &str) -> bool {
    let shown = ["text/", "image/", "video/", "audio/", "application/json"];
    match known(path) {
        Some((media_type, _)) => shown.iter().any(|kind| media_type.starts_with(kind)),
        None => {
            let name = path.rsplit('/').next().unwrap_or(path);
            let plain = ["txt", "log", "xml", "yml", "yaml", "toml", "ini", "diff", "patch", "out"];
            matches!(name, "LICENSE" | "README" | "NOTICE") || plain.contains(&extension(path))
        }
    }
}

fn known(path: &str) -> Option<(&'static str, bool)> {
    let extension = extension(path).to_ascii_lowercase();
    let found = TYPES.iter().find(|(name, ..)| *name == extension)?;
    Some((found.1, found.2))
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(before, after)| if before.is_empty() { "" } else { after })
}

/// UTF-8 without the control characters that no text has.
fn is_text(start: &[u8]) -> bool {
    let is_utf8 = match std::str::from_utf8(start) {
        Ok(_) => true,
        // The last character may be cut in the middle.
        Err(error) => error.error_len().is_none(),
    };
    is_utf8 && !start.iter().any(|b| *b < b' ' && !b"\t\n\r\x0c\x1b".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_that_of_the_name_when_the_bytes_agree() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("a/report.html", b"<p>", "text/html; charset=utf-8"),
            ("a/REPORT.HTM", b"<p>", "text/html; charset=utf-8"),
            ("x.svg", b"<svg>", "image/svg+xml"),
            ("x.json", b"{}", "application/json"),
            ("x.png", b"\x89PNG\r\n\x1a\n\0", "image/png"),
            ("app.tar.gz", b"\x1f\x8b\x08\0", "application/gzip"),
            ("x.js", b"alert(1)", TEXT),
            ("x.mjs", b"alert(1)", TEXT),
            ("x.xhtml", b"<html>", TEXT),
            ("x.html", b"\0\x01", BYTES),
            ("x.png", b"<script>", TEXT),
            ("Makefile", b"all:", TEXT),
            (".html", b"x", TEXT),
            ("log", b"\xc3", TEXT),
            ("core", b"\x7fELF\0", BYTES),
            ("latin", b"\xe9t\xe9 ", BYTES),
        ];
        for (path, start, media_type) in cases {
            assert_eq!(of(path, start), *media_type, "{path}");
        }
    }

    #[test]
    fn what_a_browser_cannot_show_is_saved() {
        for shown in ["a.html", "x/y.PNG", "junit.xml", "x.log", "LICENSE"] {
            assert!(is_shown(shown), "{shown}");
        }
        for saved in ["a.tar.gz", "app", "x.pdf", "x.wasm", "a.deb"] {
            assert!(!is_shown(saved), "{saved}");
        }
    }
}
