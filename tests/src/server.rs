//! A real `kiln serve`, ended by its process id.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::{self, Answer};
use crate::repository::Bare;
use crate::sse::Sse;
use crate::wait::{self, PATIENCE};
use crate::world::World;

/// A running server. Dropping it kills the process.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// What it says after its first lines; read so that it never blocks on a full pipe.
    said: Receiver<String>,
}

/// Jobs of stories leave marks outside of their workspaces, and wait for some. A server's own default would put
/// them into sandboxes; what is about that default writes its own configuration before.
fn open_to_stories(data: &std::path::Path) {
    use std::os::unix::fs::DirBuilderExt;
    let config = data.join("kiln.toml");
    if !config.exists() {
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700).create(data).expect("a data folder");
        std::fs::write(config, "[jobs]\nsandbox = \"wished\"\n").expect("a configuration");
    }
}

impl World {
    /// Starts a server on this world's data folder and a free port, and waits for its address.
    pub fn serve(&self) -> Server {
        self.serve_with(&["--listen", "127.0.0.1:0"])
    }

    /// Starts a server with these arguments after `--data DIR`.
    pub fn serve_with(&self, args: &[&str]) -> Server {
        match self.try_serve(args) {
            Ok(server) => server,
            Err(said) => panic!("the server ended instead of listening:\n{said}"),
        }
    }

    /// As [`World::serve_with`]; `Err` carries what a server said that ended.
    pub fn try_serve(&self, args: &[&str]) -> Result<Server, String> {
        let data = self.data();
        open_to_stories(&data);
        let mut command = self.kiln_command(["serve", "--data"]);
        command.arg(data).args(args).stdin(Stdio::null());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kiln starts");
        let (lines, said) = mpsc::channel();
        forward(child.stdout.take().expect("is piped"), lines.clone());
        forward(child.stderr.take().expect("is piped"), lines);
        let mut so_far = String::new();
        loop {
            match said.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(address) = address_in(&line) {
                        return Ok(Server { child, address, said });
                    }
                    so_far.push_str(&line);
                    so_far.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait().expect("it can be waited for");
                    return Err(format!("{so_far}({status})"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("the server neither listens nor ends:\n{so_far}");
                }
            }
        }
    }

    /// Adds a project for `bare` and installs its hook.
    pub fn watch(&self, name: &str, bare: &Bare) {
        let repo = bare.path.to_string_lossy();
        let data = self.data();
        let data = data.to_string_lossy();
        self.kiln(self.path(), ["project", "add", name, "--repo", &repo, "--data", &data])
            .success();
        self.kiln(self.path(), ["project", "hook", name, "--data", &data]).success();
    }
}

/// `http://127.0.0.1:4117` somewhere in the line.
fn address_in(line: &str) -> Option<SocketAddr> {
    let after = line.split_once("http://")?.1;
    let end = after.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)));
    after[..end.unwrap_or(after.len())].trim_end_matches(['.', ':']).parse().ok()
}

fn forward(from: impl Read + Send + 'static, to: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            // Nobody listens any more: keep reading, so that the writer never blocks.
            let _ = to.send(line);
        }
    });
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        http::get(self.address, path).expect("the server answers")
    }

    /// A JSON twin, which must be there.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(&format!("/api/v1{path}"));
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        http::post(self.address, &format!("/api/v1{path}"), body).expect("the server answers")
    }

    pub fn sse(&self, path: &str) -> Sse {
        Sse::open(self.address, &format!("/api/v1{path}"), None).expect("the stream opens")
    }

    /// Runs of a project, oldest first.
    pub fn runs(&self, project: &str) -> Vec<Value> {
        let runs = self.json(&format!("/projects/{project}/runs?limit=1000"));
        let mut runs = runs.as_array().expect("a list of runs").clone();
        runs.reverse();
        runs
    }

    /// Waits until run `number` is over and gives it.
    pub fn over(&self, project: &str, number: i64) -> Value {
        let path = format!("/api/v1/projects/{project}/runs/{number}");
        let what = format!("{project}#{number} is over");
        wait::until(&what, || {
            let answer = self.get(&path);
            let run = (answer.status == 200).then(|| answer.json())?;
            is_over(run["state"].as_str()?).then_some(run)
        })
    }

    /// A job's log as raw bytes.
    pub fn log(&self, project: &str, number: i64, job: &str) -> Vec<u8> {
        let answer = self.get(&format!("/api/v1/projects/{project}/runs/{number}/jobs/{job}/log"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.body
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// TERM, and its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().expect("it can be waited for").code()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id is not zero");
        kill_process(pid, signal).expect("the server is there");
    }

    /// What it has said since the last call.
    pub fn said(&self) -> String {
        self.said.try_iter().collect::<Vec<_>>().join("\n")
    }

    /// `kill -9` where it is; dropping it does the same.
    pub fn end(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("--- the server said\n{}", self.said());
        }
    }
}

pub fn is_over(state: &str) -> bool {
    matches!(state, "success" | "warning" | "failed" | "cancelled")
}
