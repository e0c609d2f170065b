//! A daemon for tests that answers as it is told to.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

pub(super) struct Fake {
    folder: tempfile::TempDir,
    asked: JoinHandle<Vec<String>>,
}

impl Fake {
    /// `answer` gives a status and a body for a path.
    pub fn new(mut answer: impl FnMut(&str) -> (u16, String) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let asked = std::thread::spawn(move || {
            let mut asked = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let Some(path) = line.split(' ').nth(1) else { return asked };
                let (status, body) = answer(path);
                let n_bytes = body.len();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {n_bytes}\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
                asked.push(path.to_owned());
            }
        });
        Self { folder, asked }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Ends it, and gives the paths that it was asked for.
    pub fn asked(self) -> Vec<String> {
        // Who says nothing is the end.
        UnixStream::connect(self.socket()).unwrap();
        self.asked.join().unwrap()
    }
}
