//! A run for programs: one event a line.
//!
//! ```text
//! {"type":"run","project":"site","number":12,"state":"running",…}
//! {"type":"job","job":"test","attempt":1,"state":"running",…}
//! {"type":"step","job":"test","attempt":1,"step":0,"name":"make","state":"success",…}
//! {"type":"log","job":"test","attempt":1,"offset":0,"text":"…"}     "base64" when not UTF-8
//! {"type":"note","text":"…"}
//! {"type":"result","state":"success","exit_code":0,"jobs":[…],…}    the last one
//! ```
//!
//! A job's `running` comes before its log, its end after it. A `log` event holds whole lines where
//! the job wrote them; its `offset` is the position of its first byte.

use std::collections::HashMap;

use kiln_model::{JobState, RunState};
use kiln_stdx::base64;
use serde_json::{Value, json};

use super::{Picture, Viewer, Wants};
use crate::error::{Exit, Result};
use crate::output::Output;

/// An unfinished line longer than this is given in parts.
const LINE_MAX: usize = 64 << 10;

pub struct Json {
    out: Output,
    run: Option<RunState>,
    /// How many beginnings and ends of steps have been told, by job and attempt.
    steps: HashMap<(usize, u32), usize>,
    unfinished: HashMap<(usize, u32), Unfinished>,
}

#[derive(Default)]
struct Unfinished {
    offset: u64,
    bytes: Vec<u8>,
}

impl Json {
    pub fn new(out: Output) -> Self {
        Self { out, run: None, steps: HashMap::new(), unfinished: HashMap::new() }
    }

    /// The last event.
    pub fn result(&self, picture: &Picture, exit: Exit) -> Result<()> {
        let jobs: Vec<Value> = picture.jobs.iter().map(job).collect();
        self.out.json_line(&json!({
            "type": "result",
            "project": picture.project,
            "number": picture.number,
            "state": picture.state,
            "reason": picture.reason,
            "exit_code": exit.code(),
            "created_at": picture.created_at,
            "finished_at": picture.finished_at,
            "jobs": jobs,
        }))
    }

    fn steps(&mut self, picture: &Picture, at: usize) -> Result<()> {
        let job = &picture.jobs[at];
        let told = self.steps.entry((at, job.attempt)).or_default();
        let mut n_seen = 0;
        for (position, step) in job.steps.iter().enumerate() {
            let state = |state: &str| {
                json!({
                    "type": "step", "job": job.name, "attempt": job.attempt, "step": position,
                    "name": step.name, "state": state, "exit": step.exit,
                    "started_at": step.started_at, "finished_at": step.finished_at,
                })
            };
            let ended =
                step.exit.as_ref().map(|exit| if exit.is_success() { "success" } else { "failed" });
            for change in [step.started_at.map(|_| "running"), ended].into_iter().flatten() {
                n_seen += 1;
                if n_seen > *told {
                    *told = n_seen;
                    let mut event = state(change);
                    if change == "running" {
                        event["exit"] = Value::Null;
                        event["finished_at"] = Value::Null;
                    }
                    self.out.json_line(&event)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, picture: &Picture, at: usize, attempt: u32) -> Result<()> {
        match self.unfinished.remove(&(at, attempt)).filter(|rest| !rest.bytes.is_empty()) {
            Some(rest) => self.log_event(picture, at, attempt, rest.offset, &rest.bytes),
            None => Ok(()),
        }
    }

    fn log_event(
        &self,
        picture: &Picture,
        at: usize,
        n: u32,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let (key, text) = match std::str::from_utf8(bytes) {
            Ok(text) => ("text", text.to_owned()),
            Err(_) => ("base64", base64::encode(bytes)),
        };
        let name = &picture.jobs[at].name;
        self.out.json_line(
            &json!({"type": "log", "job": name, "attempt": n, "offset": offset, key: text}),
        )
    }
}

impl Viewer for Json {
    fn picture(&mut self, picture: &Picture) -> Result<()> {
        if self.run != Some(picture.state) {
            self.run = Some(picture.state);
            self.out.json_line(&json!({
                "type": "run",
                "project": picture.project,
                "number": picture.number,
                "state": picture.state,
                "reason": picture.reason,
                "branch": picture.branch,
                "commit": picture.commit,
                "created_at": picture.created_at,
                "finished_at": picture.finished_at,
            }))?;
        }
        for at in 0..picture.jobs.len() {
            if picture.jobs[at].state == JobState::Running
                && self.steps.contains_key(&(at, picture.jobs[at].attempt))
            {
                self.steps(picture, at)?;
            }
        }
        Ok(())
    }

    fn job_started(&mut self, picture: &Picture, at: usize, attempt: u32) -> Result<()> {
        if attempt > 1 {
            self.flush(picture, at, attempt - 1)?;
        }
        let mut event = job(&picture.jobs[at]);
        event["attempt"] = json!(attempt);
        event["state"] = json!(JobState::Running);
        event["reason"] = Value::Null;
        event["finished_at"] = Value::Null;
        event["warnings"] = json!([]);
        self.out.json_line(&event)?;
        if attempt == picture.jobs[at].attempt { self.steps(picture, at) } else { Ok(()) }
    }

    fn log(&mut self, picture: &Picture, at: usize, attempt: u32, bytes: &[u8]) -> Result<()> {
        let held = self.unfinished.entry((at, attempt)).or_default();
        held.bytes.extend_from_slice(bytes);
        let whole = match held.bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if held.bytes.len() >= LINE_MAX => held.bytes.len(),
            None => return Ok(()),
        };
        let rest = held.bytes.split_off(whole);
        let given = std::mem::replace(&mut held.bytes, rest);
        let offset = held.offset;
        held.offset += given.len() as u64;
        self.log_event(picture, at, attempt, offset, &given)
    }

    fn job_over(&mut self, picture: &Picture, at: usize) -> Result<()> {
        self.flush(picture, at, picture.jobs[at].attempt)?;
        if self.steps.contains_key(&(at, picture.jobs[at].attempt)) {
            self.steps(picture, at)?;
        }
        self.out.json_line(&job(&picture.jobs[at]))
    }

    fn tail(&mut self, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn frame(&mut self, _: &Picture) -> Result<()> {
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.out.json_line(&json!({"type": "note", "text": text}))
    }

    fn wants(&self) -> Wants {
        Wants::Logs
    }
}

fn job(job: &super::picture::Job) -> Value {
    json!({
        "type": "job",
        "job": job.name,
        "attempt": job.attempt,
        "state": job.state,
        "reason": job.reason,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "warnings": job.warnings,
        "reused_from": job.reused_from,
    })
}
