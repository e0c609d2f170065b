//! A job's image: fetched where it is missing, and made the root of the job's container.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_api::agent::Assignment;
use kiln_executor::{Bind, Container, Daemon, Root, SessionSpec};
use kiln_image::{Files, Folder, Image, Images, LayerStore, Policy, Progress};
use kiln_model::layer::Digest;
use kiln_model::plan::{ExecutorKind, Pull};
use kiln_workspace::{Base, Prepared, Workspaces};
use tokio::sync::watch;

use crate::base::Bases;
use crate::job::OUTPUT_FILE;
use crate::{environment, history};

/// Where a container has its workspace.
pub(crate) const WORKSPACE: &str = "/workspace";
/// Where `KILN_OUTPUT` points in a container.
pub(crate) const OUTPUT: &str = "/run/kiln/output";
/// Where root lives in an image, unless it says otherwise.
const ROOTS_HOME: &str = "/root";

/// The layers of images among all others.
pub struct ImageLayers(pub Arc<Workspaces>);

impl LayerStore for ImageLayers {
    fn has(&self, diff_id: &Digest) -> bool {
        self.0.has_image_layer(diff_id)
    }

    fn unpack(&self, diff_id: &Digest, archive: &mut (dyn Read + Send)) -> Result<(), String> {
        self.0.make_image_layer(diff_id, archive).map_err(|error| error.to_string())
    }
}

/// The image that a job asks for, its layers on this machine. Its `digest` names it by content: what a
/// result depends on. `files` finds the folders whose files the job starts from, lowest first; it may
/// block. `progress` is told what is fetched.
pub(crate) async fn get(
    images: &Images,
    assignment: &Assignment,
    files: impl FnOnce() -> Result<Vec<PathBuf>, String> + Send + 'static,
    progress: &watch::Sender<Progress>,
) -> Result<Option<Image>, String> {
    let Some(name) = &assignment.job.image else { return Ok(None) };
    let asked = (name.as_str(), policy(assignment), assignment.job.executor);
    named(images, asked, files, progress).await.map(Some)
}

/// When its registry is asked, as was granted.
pub(crate) fn policy(assignment: &Assignment) -> Policy {
    match assignment.job.pull.unwrap_or_default() {
        Pull::Missing => Policy::Missing,
        Pull::Always => Policy::Always,
        Pull::Never => Policy::Never,
    }
}

/// As [`get`], of an image by its name.
pub(crate) async fn named(
    images: &Images,
    (name, policy, executor): (&str, Policy, ExecutorKind),
    files: impl FnOnce() -> Result<Vec<PathBuf>, String> + Send + 'static,
    progress: &watch::Sender<Progress>,
) -> Result<Image, String> {
    if executor == ExecutorKind::Docker {
        let found = images.with_daemon(name, policy, progress).await;
        return found.map_err(|error| error.to_string());
    }
    let folders = match name.starts_with("oci:") || name.starts_with("docker-archive:") {
        true => tokio::task::spawn_blocking(files).await.map_err(|panic| panic.to_string())??,
        false => Vec::new(),
    };
    let files = Arc::new(Stacked(folders));
    images.get(name, policy, files, progress).await.map_err(|error| error.to_string())
}

/// The folders that a job starts from, lowest first. Blocking.
pub(crate) fn folders(
    workspaces: &Workspaces,
    bases: &Bases,
    assignment: &Assignment,
) -> Result<Vec<PathBuf>, String> {
    let mut folders = match bases.of(assignment)? {
        Base::WorkingTree { root, over, .. } => [vec![root], over].concat(),
        Base::Source { layer, .. } => workspaces.layer_paths(&layer).unwrap_or_default(),
        Base::Nothing => Vec::new(),
    };
    let needs = assignment.layers.iter().filter_map(|layer| workspaces.layer_paths(layer));
    folders.extend(needs.flatten());
    Ok(folders)
}

/// Folders over one another, the lowest first. A file is the highest one of its name.
struct Stacked(Vec<PathBuf>);

impl Files for Stacked {
    fn open(&self, path: &Path) -> io::Result<File> {
        for folder in self.0.iter().rev() {
            match Folder(folder.clone()).open(path) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
            let is_white_out = |path: &Path| {
                let meta = std::fs::symlink_metadata(folder.join(path));
                meta.is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
            };
            if path.ancestors().any(is_white_out) {
                break;
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What a container of the image stands on. `folder` is the session's own.
pub(crate) fn root(workspaces: &Workspaces, folder: &Path, image: &Image) -> Result<Root, String> {
    if let Some(socket) = &image.daemon {
        let image = format!("sha256:{}", image.digest);
        return Ok(Root::Daemon(Daemon { socket: socket.clone(), image }));
    }
    let stacked = workspaces.prepare_root(folder, &image.layers);
    stacked.map(Root::Layers).map_err(|error| error.to_string())
}

/// Moves a session into a container of the image, over its prepared workspace. `folder` is the session's
/// own, on the file system of the layers.
pub(crate) fn run_in(
    workspaces: &Workspaces,
    folder: &Path,
    (assignment, machine_env): (&Assignment, &[(String, String)]),
    image: &Image,
    prepared: &Prepared,
    spec: &mut SessionSpec,
) -> Result<(), String> {
    let root = root(workspaces, folder, image)?;
    spec.users = workspaces.users();
    let output = folder.join(OUTPUT_FILE);
    // Bound as a file, so it must be one. It may hold what steps before these have written.
    let made = File::options().create(true).append(true).open(&output);
    made.map_err(|cause| format!("cannot create `{}`: {cause}", output.display()))?;
    let machines_home = machine_env.iter().find(|(name, _)| name == "HOME").map(|(_, home)| home);
    let inside = |at: &Path| match machines_home.and_then(|home| at.strip_prefix(home).ok()) {
        Some(below) => Path::new(ROOTS_HOME).join(below),
        None => at.to_owned(),
    };
    let caches = prepared.further.iter();
    let mut binds: Vec<Bind> = caches
        .map(|mount| Bind { from: mount.at.clone(), to: inside(&mount.at), writable: true })
        .collect();
    if prepared.mount.is_none() {
        // A copy, as for files of other owners where there is one user.
        let from = prepared.directory.clone();
        binds.insert(0, Bind { from, to: WORKSPACE.into(), writable: true });
    }
    binds.push(Bind { from: output, to: OUTPUT.into(), writable: true });
    let history = history::of(workspaces, assignment, prepared);
    binds.extend(history.into_iter().map(|at| Bind { from: at.clone(), to: at, writable: false }));
    spec.container = Some(Container {
        root,
        workspace: WORKSPACE.into(),
        binds,
        user: assignment.job.user.clone().unwrap_or_else(|| image.config.user.clone()),
        volumes: assignment.job.volumes.clone(),
        privileged: assignment.job.privileged,
        hostname: "kiln".to_owned(),
    });
    speak_of(assignment, machine_env, image, spec);
    Ok(())
}

/// A session's words for the image: its variables, and what its log says of it.
pub(crate) fn speak_of(
    assignment: &Assignment,
    machine_env: &[(String, String)],
    image: &Image,
    spec: &mut SessionSpec,
) {
    if assignment.log.exists() {
        // Whoever reads of the pull in the log learns what came of it.
        let name = assignment.job.image.as_deref().unwrap_or_default();
        spec.preface.insert(0, format!("`{name}` is sha256:{}", image.digest));
    }
    // What the image says takes the place of what the machine says.
    let of_image = image.config.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    let of_image: Vec<_> = of_image.chain(environment::besides(machine_env)).collect();
    spec.env = environment::of(assignment, &of_image, Path::new(WORKSPACE), Path::new(OUTPUT));
}
