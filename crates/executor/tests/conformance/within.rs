//! The host executor with every session in a container or a sandbox, for the cases of the table.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_executor::{
    Attached, Bind, Container, Executor, HostExecutor, HostSession, OpenError, Root, Sandbox,
    SessionSpec,
};
use kiln_model::AttemptId;
use kiln_stdx::overlay::Mount;

use crate::bench::Subject;

/// Around every session.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// On an empty image, with the machine's programs bound into it.
    Container {
        user: bool,
    },
    Sandbox {
        user: bool,
    },
}

#[derive(Clone)]
pub struct Within {
    pub inner: HostExecutor,
    pub kind: Kind,
}

impl Executor for Within {
    type Session = HostSession;

    async fn open(&self, mut spec: SessionSpec) -> Result<HostSession, OpenError> {
        let folder = spec.attempt_dir.parent().expect("it is in the bench's folder").to_owned();
        match self.kind {
            Kind::Container { user } => spec.container = Some(container(&folder, &spec, user)),
            Kind::Sandbox { user } => spec.sandbox = Some(sandbox(&folder, user)),
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

impl Subject for Within {
    fn words(&self) -> Vec<String> {
        let (word, user) = match self.kind {
            Kind::Container { user } => ("container", user),
            Kind::Sandbox { user } => ("sandbox", user),
        };
        [word, if user { "user" } else { "root" }].map(str::to_owned).to_vec()
    }
}

impl Kind {
    /// Reads [`Subject::words`].
    pub fn from_words(words: &[&str]) -> Option<Self> {
        let user = words.get(1) == Some(&"user");
        match *words.first()? {
            "container" => Some(Self::Container { user }),
            "sandbox" => Some(Self::Sandbox { user }),
            _ => None,
        }
    }
}

fn container(folder: &Path, spec: &SessionSpec, user: bool) -> Container {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let own = folder.join(format!("container-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
    for name in ["image/etc", "upper", "work", "at"] {
        std::fs::create_dir_all(own.join(name)).unwrap();
    }
    let programs = ["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(PathBuf::from).into_iter();
    let mut binds: Vec<Bind> = programs
        .filter(|path| path.exists())
        .map(|path| Bind { from: path.clone(), to: path, writable: false })
        .collect();
    binds.push(Bind { from: folder.to_owned(), to: folder.to_owned(), writable: true });
    Container {
        root: Root::Layers(Mount {
            lowers: vec![own.join("image")],
            upper: own.join("upper"),
            work: own.join("work"),
            at: own.join("at"),
            user,
        }),
        workspace: spec.directory.clone(),
        binds,
        user: String::new(),
        volumes: Vec::new(),
        privileged: false,
        hostname: "kiln".to_owned(),
    }
}

pub fn sandbox(folder: &Path, user: bool) -> Sandbox {
    Sandbox {
        user,
        home: PathBuf::from("/root"),
        hidden: Vec::new(),
        binds: vec![Bind { from: folder.to_owned(), to: folder.to_owned(), writable: true }],
    }
}
