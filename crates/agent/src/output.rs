//! Values that steps give to later jobs: lines of the file that `KILN_OUTPUT` names.
//!
//! `name=value` gives one line. `name<<WORD`, some lines, and `WORD` alone give several, without the
//! last newline. A later value of the same name wins.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kiln_model::limit::{OUTPUT_BYTES_MAX, OUTPUTS_MAX};

/// Why an output file cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("the output file cannot be read: {0}")]
    Read(String),
    #[error("what `$KILN_OUTPUT` names is no longer a regular file")]
    NotFile,
    #[error("the outputs are larger than {OUTPUT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("there are more than {OUTPUTS_MAX} outputs")]
    TooMany,
    #[error("the outputs are not UTF-8")]
    NotText,
    #[error("line {line} of the outputs is not `name=value`: `{text}`")]
    Shape { line: usize, text: String },
    #[error("line {line} of the outputs opens `{word}` and nothing closes it")]
    Open { line: usize, word: String },
    #[error("the job promises the output `{0}` and gave none")]
    Missing(String),
}

/// Reads the file; a file that is not there gives nothing.
pub(crate) fn read(
    path: &Path,
    promised: &[String],
) -> Result<BTreeMap<String, String>, OutputError> {
    let outputs = parse(&text(path)?)?;
    match promised.iter().find(|name| !outputs.contains_key(*name)) {
        Some(missing) => Err(OutputError::Missing(missing.clone())),
        None => Ok(outputs),
    }
}

/// What steps have written so far, as it is.
pub(crate) fn text(path: &Path) -> Result<String, OutputError> {
    let mut bytes = Vec::new();
    if let Some(file) = open(path)? {
        let most = OUTPUT_BYTES_MAX as u64 + 1;
        file.take(most).read_to_end(&mut bytes).map_err(|e| OutputError::Read(e.to_string()))?;
    }
    if bytes.len() > OUTPUT_BYTES_MAX {
        return Err(OutputError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| OutputError::NotText)
}

/// The job may have put anything in the file's place: a pipe would be waited for without end, and a
/// link leads to a file that is not the job's to give.
fn open(path: &Path) -> Result<Option<File>, OutputError> {
    use rustix::fs::OFlags;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(link) if link.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(OutputError::NotFile);
        }
        Err(error) => return Err(OutputError::Read(error.to_string())),
    };
    match file.metadata() {
        Ok(known) if known.is_file() => Ok(Some(file)),
        Ok(_) => Err(OutputError::NotFile),
        Err(error) => Err(OutputError::Read(error.to_string())),
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, OutputError> {
    let mut outputs = BTreeMap::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let equals = line.find('=').unwrap_or(usize::MAX);
        let (name, value) = match line.find("<<") {
            Some(opens) if opens < equals => {
                let word = line[opens + 2..].trim();
                let mut value: Vec<&str> = Vec::new();
                loop {
                    match lines.next() {
                        Some((_, line)) if line == word => break,
                        Some((_, line)) => value.push(line),
                        None => {
                            return Err(OutputError::Open { line: at + 1, word: word.to_owned() });
                        }
                    }
                }
                (&line[..opens], value.join("\n"))
            }
            _ => match line.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => return Err(shape(at, line)),
            },
        };
        let name = name.trim();
        let lawful = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(lawful) {
            return Err(shape(at, line));
        }
        outputs.insert(name.to_owned(), value);
        if outputs.len() > OUTPUTS_MAX {
            return Err(OutputError::TooMany);
        }
    }
    Ok(outputs)
}

fn shape(at: usize, line: &str) -> OutputError {
    OutputError::Shape { line: at + 1, text: line.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_written() {
        let text = "version=1.2=3\n\nnotes<<END\nfirst\n\nsecond\nEND\nversion=2\n";
        let outputs = parse(text).unwrap();
        assert_eq!(outputs["version"], "2");
        assert_eq!(outputs["notes"], "first\n\nsecond");
    }

    #[test]
    fn what_a_job_put_in_the_place_of_the_file_is_neither_waited_for_nor_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("real"), "a=1").unwrap();
        std::os::unix::fs::symlink("real", path("link")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), fifo, mode, 0).unwrap();
        for name in ["link", "folder", "pipe"] {
            assert_eq!(read(&path(name), &[]), Err(OutputError::NotFile), "{name}");
        }
        assert_eq!(read(&path("real"), &[]).unwrap()["a"], "1");
        assert_eq!(read(&path("missing"), &[]).unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_output_is_named_with_its_line() {
        assert_eq!(
            parse("a=1\nnonsense"),
            Err(OutputError::Shape { line: 2, text: "nonsense".into() })
        );
        assert_eq!(parse("a<<END\nx"), Err(OutputError::Open { line: 1, word: "END".into() }));
        assert!(parse("a b=1").unwrap_err().to_string().contains("line 1"));
    }
}
