//! Images that a Docker daemon of this machine has, by their name there: asked for over its socket, and read
//! as `docker save` writes them.
//!
//! Source: docs.docker.com/reference/api/engine (images: inspect, get).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_model::layer::Digest;
use serde::Deserialize;

use crate::blob::Budget;
use crate::images::LayerStore;
use crate::limit::{CONFIG_BYTES_MAX, HEAD_BYTES_MAX};
use crate::reference::Named;
use crate::{Files, Image, ImageError, archive};

/// A daemon that packs a large image is silent for a while.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// The daemon that listens at `socket`.
pub(crate) struct Daemon<'a> {
    pub socket: &'a Path,
    /// As it was written.
    pub name: &'a str,
    pub named: &'a Named,
}

#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Id")]
    id: String,
}

impl Daemon<'_> {
    /// Names the image by its content, as an archive of it would.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        let answer = self.ask("json")?;
        let mut body = Vec::new();
        let read = answer.take(CONFIG_BYTES_MAX).read_to_end(&mut body);
        read.map_err(|cause| self.away(&cause))?;
        let inspected: Result<Inspected, _> = serde_json::from_slice(&body);
        let id = inspected.ok().and_then(|said| Digest::new(said.id.strip_prefix("sha256:")?).ok());
        id.ok_or_else(|| ImageError::damaged(self.name, "the daemon does not say its digest"))
    }

    /// Reads it and unpacks the layers that are not there. `folder` is where it may lie meanwhile. Blocking.
    pub fn load(
        &self,
        folder: &Path,
        (store, budget): (&dyn LayerStore, &Budget),
    ) -> Result<Image, ImageError> {
        let mut answer = self.ask("get")?;
        let (path, mut file) = temporary(folder).map_err(|cause| self.away(&cause))?;
        // Gone with its last descriptor, whatever happens.
        let _ = std::fs::remove_file(&path);
        io::copy(&mut answer, &mut file).map_err(|cause| self.away(&cause))?;
        let saved = Saved(file);
        let wanted = self.reference();
        archive::load(self.name, &saved, Path::new("image"), Some(&wanted), (store, budget))
    }

    /// As the daemon writes it: without its own registry and folder.
    fn reference(&self) -> String {
        let full = self.named.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }

    fn ask(&self, what: &str) -> Result<impl Read + use<>, ImageError> {
        let open = || -> io::Result<(u16, BufReader<UnixStream>)> {
            let mut socket = UnixStream::connect(self.socket)?;
            socket.set_read_timeout(Some(SILENCE_MAX))?;
            // The old version: an answer that ends with its connection.
            let line =
                format!("GET /images/{}/{what} HTTP/1.0\r\nHost: docker\r\n\r\n", self.reference());
            socket.write_all(line.as_bytes())?;
            let mut answer = BufReader::new(socket);
            let status = head(&mut answer)?;
            Ok((status, answer))
        };
        match open() {
            Ok((200, answer)) => Ok(answer),
            Ok((404, _)) => Err(ImageError::Unknown {
                name: self.name.to_owned(),
                why: format!("the daemon at `{}` has none of that name", self.socket.display()),
            }),
            Ok((status, _)) => {
                Err(self.away(&io::Error::other(format!("it answers with status {status}"))))
            }
            Err(cause) => Err(self.away(&cause)),
        }
    }

    fn away(&self, cause: &io::Error) -> ImageError {
        let socket = self.socket.display();
        let name = self.name;
        ImageError::Other(format!(
            "the Docker daemon at `{socket}` cannot be asked for `{name}`: {cause}; start it, or name its socket \
             with DOCKER_HOST=unix://…"
        ))
    }
}

/// The status of an answer, and its headers read away.
fn head(answer: &mut impl BufRead) -> io::Result<u16> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP");
    let mut head = answer.take(HEAD_BYTES_MAX);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
    loop {
        line.clear();
        match head.read_line(&mut line)? {
            0 => return Err(damaged()),
            _ if line.trim().is_empty() => return Ok(status),
            _ => {}
        }
    }
}

fn temporary(folder: &Path) -> io::Result<(PathBuf, File)> {
    let thread = format!("{:?}", std::thread::current().id());
    let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
    let path = folder.join(format!(".saved-{}-{thread}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    Ok((path, file))
}

/// One file, under any name.
struct Saved(File);

impl Files for Saved {
    fn open(&self, _: &Path) -> io::Result<File> {
        self.0.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer_is_read_away_and_bounded() {
        let mut answer = &b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\nbody"[..];
        assert_eq!(head(&mut answer).unwrap(), 404);
        assert_eq!(answer, b"body");
        for wrong in ["", "HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\nA: b\r\n", "\0\0\0"] {
            assert!(head(&mut wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        let endless = format!("HTTP/1.0 200 OK\r\n{}", "a: b\r\n".repeat(100_000));
        assert!(head(&mut endless.as_bytes()).is_err());
    }
}
