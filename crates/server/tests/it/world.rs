//! A server, a client and a repository for tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_api::agent::{AgentInfo, Assignment, JobResult, JobSource};
use kiln_model::{LeaseId, Outcome, Surroundings};
use kiln_server::{ServeOptions, Server, hook};
use kiln_stdx::process;
use serde_json::Value;

/// Longer than anything here takes: a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const MANIFEST: &str =
    "jobs:\n  build:\n    steps: [make]\n  test:\n    needs: build\n    steps: [make check]\n";

/// A data folder with its server.
pub struct World {
    pub place: tempfile::TempDir,
    pub server: Server,
}

impl World {
    pub async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let server = Self::serve(place.path()).await;
        Self { place, server }
    }

    async fn serve(place: &Path) -> Server {
        let start = async {
            loop {
                let options = ServeOptions::new(place.join("data"), "127.0.0.1:0");
                match Server::start(options).await {
                    Ok(server) => return server,
                    // Another test's git, on its way between fork and exec, holds a copy of every
                    // file of this process, the lock of a server that has just stopped included.
                    Err(error) if error.to_string().contains("in use") => {
                        tokio::task::yield_now().await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, start).await.expect("the data folder becomes free")
    }

    pub fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// Stops the server, does something without it, starts another on the same data.
    pub async fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { place, server } = self;
        server.stop().await;
        meanwhile(&place.path().join("data"));
        let server = Self::serve(place.path()).await;
        Self { place, server }
    }

    /// A project of a new bare repository, and a clone to push from.
    pub async fn project(&self, name: &str) -> Repository {
        let repository = Repository::new(self.place.path(), name);
        let repo = repository.bare.to_str().unwrap();
        let body = serde_json::json!({ "name": name, "repo": repo });
        let added = self.post("/api/v1/projects", &body).await;
        assert_eq!(added.status, 201, "{}", added.text());
        repository
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], body.to_string().as_bytes()).await
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let request = request(method, path, headers, body);
        let address = self.server.address();
        tokio::task::spawn_blocking(move || exchange(address, &request)).await.unwrap()
    }

    /// A connection that goes on: the head has been read.
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let request = request("GET", path, headers, b"");
        let address = self.server.address();
        tokio::task::spawn_blocking(move || Events::open(address, &request)).await.unwrap()
    }

    /// Tells a push as the hook does, and gives what it says.
    pub async fn tell(&self, project: &str, lines: &str) -> String {
        tell(self.data(), project.to_owned(), lines.to_owned()).await
    }

    /// Takes the next job, as an agent does.
    pub async fn take(&self) -> Assignment {
        let agent = self.server.runs().store().agent("tester", &[]).await.unwrap();
        let agent = AgentInfo { id: agent, name: "tester".to_owned(), labels: Vec::new() };
        let taken = tokio::time::timeout(PATIENCE, self.server.runs().take(&agent)).await;
        let taken = taken.expect("there is a job").unwrap();
        self.server.runs().started(taken.lease, Surroundings::default()).await.unwrap();
        taken
    }

    pub async fn finish(&self, lease: LeaseId, outcome: Outcome, log_bytes: u64) {
        let result = JobResult {
            outcome,
            outputs: Default::default(),
            layer: None,
            artifacts: Vec::new(),
            log_bytes,
            notes: Default::default(),
        };
        self.server.runs().finish(lease, result).await.unwrap();
    }

    /// Runs of a project as `number state ref`, oldest first.
    pub async fn runs(&self, project: &str) -> Vec<String> {
        let answer = self.get(&format!("/api/v1/projects/{project}/runs")).await;
        let runs = answer.json();
        let line = |run: &Value| {
            let name = run["branch"].as_str().or(run["tag"].as_str()).unwrap_or("-");
            format!("{} {} {name}", run["number"], run["state"].as_str().unwrap())
        };
        runs.as_array().unwrap().iter().rev().map(line).collect()
    }
}

pub async fn tell(data: PathBuf, project: String, lines: String) -> String {
    let said = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        hook::post_receive(&data, &project, Some("me".to_owned()), lines.as_bytes(), &mut said);
        said
    });
    String::from_utf8(said.await.unwrap()).unwrap()
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: localhost\r\n";
    }
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    text += &format!("Content-Length: {}\r\n\r\n", body.len());
    [text.as_bytes(), body].concat()
}

fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request).unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    Answer::read(&bytes)
}

/// An answer with its body, chunks joined.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self { status, head, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding").is_some() {
            answer.body = unchunked(&answer.body);
        }
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and code of an error.
    pub fn error(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    body
}

/// Server-sent events, one at a time.
pub struct Events {
    socket: std::io::BufReader<TcpStream>,
    pub head: String,
    text: String,
}

impl Events {
    fn open(address: SocketAddr, request: &[u8]) -> Self {
        use std::io::BufRead;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        let mut socket = std::io::BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(socket.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Self { socket, head, text: String::new() }
    }

    /// The next event as (name, id, data); `None` at the end of the stream.
    pub async fn next(self) -> (Self, Option<(String, String, String)>) {
        tokio::task::spawn_blocking(move || {
            let mut this = self;
            let event = this.read();
            (this, event)
        })
        .await
        .unwrap()
    }

    fn read(&mut self) -> Option<(String, String, String)> {
        use std::io::BufRead;
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |key: &str| {
                    let found = event.lines().find_map(|line| line.strip_prefix(key));
                    found.unwrap_or_default().trim().to_owned()
                };
                if event.starts_with(':') {
                    continue;
                }
                return Some((field("event:"), field("id:"), field("data:")));
            }
            let mut size = String::new();
            self.socket.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            self.socket.read_exact(&mut chunk).ok()?;
            if size == 0 {
                return None;
            }
            self.text += std::str::from_utf8(&chunk[..size]).unwrap();
        }
    }
}

/// A bare repository and a working tree that pushes to it.
pub struct Repository {
    pub bare: PathBuf,
    pub work: PathBuf,
}

impl Repository {
    pub fn new(place: &Path, name: &str) -> Self {
        let (bare, work) = (place.join(format!("{name}.git")), place.join(name));
        git(place, &["init", "--quiet", "--bare", "--initial-branch=main", bare.to_str().unwrap()]);
        git(place, &["init", "--quiet", "--initial-branch=main", work.to_str().unwrap()]);
        git(&work, &["remote", "add", "origin", bare.to_str().unwrap()]);
        Self { bare, work }
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.work.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.work, args)
    }

    /// Pushes, and gives the lines that a post-receive hook would get.
    pub fn push(&self, args: &[&str]) -> String {
        let before = self.refs();
        self.git(&[&["push", "--quiet", "origin"], args].concat());
        let after = self.refs();
        let zero = "0".repeat(40);
        let find = |refs: &[(String, String)], name: &str| {
            refs.iter().find(|(n, _)| n == name).map_or(zero.clone(), |(_, id)| id.clone())
        };
        let mut names: Vec<_> = before.iter().chain(&after).map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        let line = |name: String| {
            let (old, new) = (find(&before, &name), find(&after, &name));
            (old != new).then(|| format!("{old} {new} {name}\n"))
        };
        names.into_iter().filter_map(line).collect()
    }

    fn refs(&self) -> Vec<(String, String)> {
        let listed = git(&self.bare, &["for-each-ref", "--format=%(objectname) %(refname)"]);
        let pair = |line: &str| {
            let (id, name) = line.split_once(' ').unwrap();
            (name.to_owned(), id.to_owned())
        };
        listed.lines().map(pair).collect()
    }
}

pub fn git(folder: &Path, args: &[&str]) -> String {
    let mut git = process::command("git");
    git.current_dir(folder)
        .args(["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    let out = process::output(&mut git).unwrap_or_else(|error| panic!("git {args:?}: {error}"));
    String::from_utf8_lossy(&out).trim().to_owned()
}

/// Serves the repositories of a folder over git's own protocol on loopback; gives the URL before
/// their names. One `git daemon` for each connection, until the test's process ends.
pub fn daemon(base: &Path) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}", listener.local_addr().unwrap());
    let base = base.to_owned();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let mut daemon = process::command("git");
            daemon
                .args(["daemon", "--inetd", "--export-all", "--log-destination=none"])
                .arg(format!("--base-path={}", base.display()))
                .stdin(std::os::fd::OwnedFd::from(connection.try_clone().unwrap()))
                .stdout(std::os::fd::OwnedFd::from(connection));
            let Ok(mut child) = daemon.spawn() else { return };
            drop(daemon);
            let _ = child.wait();
        }
    });
    url
}
