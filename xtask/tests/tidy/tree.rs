//! The files of the checkout.

use std::path::{Path, PathBuf};

use kiln_it::binary::checkout;

/// A text file: its path from the checkout's root, and what is in it.
pub struct Text {
    pub path: PathBuf,
    pub text: String,
}

impl Text {
    pub fn name(&self) -> &str {
        self.path.file_stem().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether it lies in a folder of this name, at any depth.
    pub fn in_folder(&self, name: &str) -> bool {
        self.path.parent().is_some_and(|folder| folder.iter().any(|part| part == name))
    }

    /// Part of a test suite and not of a product.
    pub fn is_test(&self) -> bool {
        self.in_folder("tests") || matches!(self.name(), "tests" | "conformance")
    }
}

/// Every file with this extension, in order; nothing hidden, nothing built.
pub fn with_extension(extension: &str) -> Vec<Text> {
    let mut files = Vec::new();
    walk(checkout(), &mut files);
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read(&path).expect("a file of the checkout can be read");
        let text = String::from_utf8_lossy(&text).into_owned();
        let path = path.strip_prefix(checkout()).expect("walked from there").to_owned();
        Text { path, text }
    };
    files.into_iter().map(read).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the checkout").flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().expect("a file has a type");
        if name.starts_with('.') || name == "target" {
            continue;
        } else if kind.is_dir() {
            walk(&entry.path(), files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

/// Fails with one line for each complaint.
#[track_caller]
pub fn none(what: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{what}:\n  {}", complaints.join("\n  "));
}
