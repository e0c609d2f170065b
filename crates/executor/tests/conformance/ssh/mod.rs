//! The table over ssh, and what only a far machine can do wrong.

mod sshd;
mod step;
mod files;
mod connection;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kiln_executor::{
    Attached, Executor, HostExecutor, HostSession, OpenError, Remote, SessionSpec,
};
use kiln_model::AttemptId;

use self::sshd::Sshd;
pub use self::sshd::Tools;
use crate::bench::{Case, Subject};

/// A machine of its own, as far as ssh can tell.
#[derive(Clone)]
pub struct Far {
    inner: HostExecutor,
    place: Arc<Place>,
    known: Option<PathBuf>,
}

struct Place {
    tools: Tools,
    sshd: OnceLock<Sshd>,
}

impl Far {
    /// `None`: this machine cannot be such a far one. It is made when it is first needed.
    pub fn new(inner: &HostExecutor, tools: Tools) -> Option<Self> {
        let place = Arc::new(Place { tools, sshd: OnceLock::new() });
        tools.are_here().then(|| Self { inner: inner.clone(), place, known: None })
    }

    /// The one that another process has made.
    pub fn known(inner: &HostExecutor, folder: &str) -> Self {
        let place = Arc::new(Place { tools: Tools::Machines, sshd: OnceLock::new() });
        Self { inner: inner.clone(), place, known: Some(PathBuf::from(folder)) }
    }

    fn folder(&self) -> &Path {
        match &self.known {
            Some(folder) => folder,
            None => self.place.sshd.get_or_init(|| Sshd::start(self.place.tools)).folder(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn remote(&self) -> Remote {
        Remote {
            host: "far".to_owned(),
            config: Some(self.path("config")),
            machine_env: Vec::new(),
            workspace_env: Vec::new(),
            output_env: vec!["OUT".to_owned()],
            output_file: "output".to_owned(),
        }
    }

    /// The folders of sessions there.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("home/.cache/kiln")).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }

    /// The workspace of the only session.
    fn work(&self) -> PathBuf {
        match &self.folders()[..] {
            [one] => one.join("work"),
            other => panic!("one session, not {other:?}"),
        }
    }
}

impl Executor for Far {
    type Session = HostSession;

    async fn open(&self, mut spec: SessionSpec) -> Result<HostSession, OpenError> {
        spec.remote.get_or_insert(self.remote());
        // It was for the case to see that a variable is told; the table's environments are exact.
        if !spec.env.contains_key("WANTS_OUT") {
            spec.remote.iter_mut().for_each(|remote| remote.output_env.clear());
        }
        self.inner.open(spec).await
    }

    async fn attach(&self, attempt_dir: &Path) -> Result<Option<Attached<HostSession>>, OpenError> {
        self.inner.attach(attempt_dir).await
    }

    fn reap(&self, attempt: AttemptId, attempt_dir: &Path) {
        self.inner.reap(attempt, attempt_dir);
    }
}

impl Subject for Far {
    fn begin(&self) {
        self.folder();
    }

    fn seen(&self, _work: PathBuf) -> PathBuf {
        self.work()
    }

    fn places(&self, folder: &Path) -> Vec<PathBuf> {
        let of_socket = std::fs::read_to_string(folder.join("attempt/ssh"));
        let of_socket = of_socket.expect("there is a connection").into();
        self.folders().into_iter().chain([of_socket]).collect()
    }

    fn words(&self) -> Vec<String> {
        vec!["far".to_owned(), self.folder().display().to_string()]
    }

    fn meters(&self) -> bool {
        false
    }
}

/// What the table asks that the far side answers otherwise; each has a row of its own in [`step`].
pub const OTHERWISE: &[(&str, &str)] = &[
    ("nothing_else_is_inherited", "a shell there may ignore SIGRTMIN+n, as dash does"),
    ("a_signal_is_not_an_exit_code", "a shell there says nothing of SIGINT, SIGQUIT and SIGPIPE"),
];

pub fn cases() -> Vec<Case<Far>> {
    let mut cases = step::cases();
    cases.extend(files::cases());
    cases.extend(connection::cases());
    cases
}
