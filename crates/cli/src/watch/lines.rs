//! A run where no terminal is: each line of each job behind the job's name, as it comes.
//!
//! Bytes are passed on as they are, also when they are not UTF-8. Lines of one job keep their order;
//! a line is written whole, so that jobs do not mix within one. A line longer than [`LINE_MAX`] is
//! folded.

use std::collections::HashMap;

use kiln_stdx::{Clock, SystemClock, duration};

use super::{Picture, Viewer, Wants};
use crate::error::Result;
use crate::output::{Output, Style, visible};

/// Kept per running job at most.
const LINE_MAX: usize = 64 << 10;

pub struct Lines {
    out: Output,
    unfinished: HashMap<usize, Prefixed>,
    begun: bool,
}

/// Puts a job's name before each of its lines.
pub struct Prefixed {
    prefix: Vec<u8>,
    /// The line that has no end yet.
    line: Vec<u8>,
}

impl Prefixed {
    pub fn new(job: &str) -> Self {
        Self { prefix: format!("{job} | ").into_bytes(), line: Vec::new() }
    }

    /// The lines that are whole with these bytes, behind their prefix.
    pub fn lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes.len() + bytes.len() / 4);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A long line is folded on the way, so that little is kept of it.
            for part in part.chunks(LINE_MAX) {
                self.line.extend_from_slice(part);
                if part.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                    text.extend(self.rest());
                }
            }
        }
        text
    }

    /// What there is of an unfinished line, ended.
    pub fn rest(&mut self) -> Vec<u8> {
        if self.line.is_empty() {
            return Vec::new();
        }
        let mut text = self.prefix.clone();
        text.append(&mut self.line);
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text
    }
}

impl Lines {
    pub fn new(out: Output) -> Self {
        Self { out, unfinished: HashMap::new(), begun: false }
    }

    /// What is left of a line that its job never ended.
    fn flush(&mut self, job: usize) -> Result<()> {
        match self.unfinished.remove(&job) {
            Some(mut rest) => self.out.bytes(&rest.rest()),
            None => Ok(()),
        }
    }

    fn remark(&self, style: Style, text: &str) -> Result<()> {
        self.out.lines(&format!("{} {}\n", self.out.paint(style, "kiln:"), visible(text)))
    }
}

impl Viewer for Lines {
    fn picture(&mut self, picture: &Picture) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let jobs = match picture.jobs.len() {
            1 => "1 job".to_owned(),
            n => format!("{n} jobs"),
        };
        self.remark(Style::Dim, &format!("run {}, {jobs}", picture.reference))
    }

    fn job_started(&mut self, picture: &Picture, job: usize, attempt: u32) -> Result<()> {
        self.flush(job)?;
        let name = &picture.jobs[job].name;
        let text = match attempt {
            1 => format!("{name} started"),
            n => format!("{name} started, attempt {n}"),
        };
        self.remark(Style::Dim, &text)
    }

    fn log(&mut self, picture: &Picture, job: usize, _: u32, bytes: &[u8]) -> Result<()> {
        let name = &picture.jobs[job].name;
        let unfinished = self.unfinished.entry(job).or_insert_with(|| Prefixed::new(name));
        self.out.bytes(&unfinished.lines(bytes))
    }

    fn job_over(&mut self, picture: &Picture, job: usize) -> Result<()> {
        self.flush(job)?;
        let job = &picture.jobs[job];
        let mut text = format!("{} {}", job.name, job.state);
        if let Some(span) = job.elapsed(SystemClock.now()) {
            text.push_str(&format!(" in {}", duration::show(span)));
        }
        if let Some(reason) = &job.reason {
            text.push_str(&format!(": {reason}"));
        }
        self.remark(super::summary::style(job.state), &text)?;
        for warning in &job.warnings {
            self.remark(Style::Yellow, &format!("{} warning: {warning}", job.name))?;
        }
        Ok(())
    }

    fn tail(&mut self, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn frame(&mut self, _: &Picture) -> Result<()> {
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.remark(Style::Yellow, text)
    }

    fn wants(&self) -> Wants {
        Wants::Logs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_bytes_are_kept() {
        let mut job = Prefixed::new("test");
        assert_eq!(job.lines(b"a\nb"), b"test | a\n");
        assert_eq!(job.lines(b"\xff\r\n\n"), b"test | b\xff\r\ntest | \n");
        assert_eq!(job.lines(b"end"), b"");
        assert_eq!(job.rest(), b"test | end\n");
        assert_eq!(job.rest(), b"");
    }

    #[test]
    fn a_line_without_end_is_folded_and_not_kept() {
        let mut job = Prefixed::new("j");
        let long = vec![b'x'; 3 * LINE_MAX + 5];
        let text = job.lines(&long);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(job.line.len(), 5);
    }
}
