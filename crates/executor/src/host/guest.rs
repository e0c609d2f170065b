//! The guest's side of a session that somebody else owns.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use kiln_model::Exit;
use tokio::sync::mpsc;

use super::attach;
use super::session::is_nobody;
use super::talk::Talk;
use super::wire::{Ask, StreamKind, Tell, encode};
use crate::contract::words;
use crate::{OpenError, StepError, Streams};

/// A person in a session that runs. Dropping it ends what is on its terminal, and nothing else.
#[derive(Debug)]
pub struct Guest {
    talk: Talk,
}

impl Guest {
    /// Comes into the session of an attempt's folder. `None`: there is none that lets anybody in.
    ///
    /// # Errors
    ///
    /// When there is one, and it cannot be reached.
    pub fn enter(attempt_dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = attempt_dir.join(attach::GUESTS);
        let stream = match attach::with_short_path(&path, |short| StdUnixStream::connect(short)) {
            Ok(stream) => stream,
            Err(cause) if is_nobody(&cause) => return Ok(None),
            Err(cause) => {
                let why = words(&cause);
                let path = path.display();
                return Err(OpenError::Other(format!(
                    "cannot reach the session at `{path}`: {why}"
                )));
            }
        };
        Ok(Some(Self { talk: Talk::over(stream)? }))
    }

    /// Runs one command where the steps run, with the variables and in the folder of the step that runs
    /// now. Empty: a shell, whose prompt bears the label. As [`crate::Session::visit`] otherwise.
    ///
    /// # Errors
    ///
    /// [`StepError::Closed`] and [`StepError::Gone`] when the job has ended.
    pub async fn run(
        mut self,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        label: String,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> Result<Exit, StepError> {
        let (on, lent) = match &streams {
            Streams::Terminal(end) => (StreamKind::Terminal, std::slice::from_ref(end)),
            Streams::Plain(all) => (StreamKind::Plain, all.as_slice()),
        };
        let lent: Vec<_> = lent.iter().map(AsFd::as_fd).collect();
        let ask = Ask::Join { argv, env: env.into_iter().collect(), label, on };
        let link = self.talk.link.clone();
        link.send_with(&encode(&ask), &lent).await.map_err(|_| StepError::Gone)?;
        // The command has its own by now: who reads from the other side shall hear of its end.
        drop(streams);
        let passed_on = async move {
            while let Some(number) = signals.recv().await {
                link.ask(&Ask::Signal { number });
            }
            std::future::pending::<()>().await;
        };
        let over = async {
            loop {
                match self.talk.hear().await {
                    Some(Tell::VisitOver(over)) => return over,
                    Some(_) => {}
                    None => return Err(StepError::Gone),
                }
            }
        };
        tokio::select! {
            over = over => over,
            () = passed_on => unreachable!("it waits for ever"),
        }
    }
}
