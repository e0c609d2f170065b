//! A job's image: fetched where it is missing, and made the root of the job's container.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_api::agent::Assignment;
use kiln_executor::{Bind, Container, Network, SessionSpec};
use kiln_image::{Files, Folder, Image, Images, LayerStore, Policy};
use kiln_model::layer::Digest;
use kiln_workspace::{Base, Prepared, Workspaces};
use tokio::sync::watch;

use crate::base::Bases;
use crate::environment;
use crate::job::OUTPUT_FILE;

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
        self.0.image_layer(diff_id).is_some()
    }

    fn unpack(&self, diff_id: &Digest, archive: &mut (dyn Read + Send)) -> Result<(), String> {
        self.0.make_image_layer(diff_id, archive).map_err(|error| error.to_string())
    }
}

/// The image that a job asks for, its layers on this machine. `files` finds the folders whose files the job
/// starts from, lowest first; it may block.
pub(crate) async fn get(
    images: &Images,
    assignment: &Assignment,
    files: impl FnOnce() -> Result<Vec<PathBuf>, String> + Send + 'static,
) -> Result<Option<Image>, String> {
    let Some(name) = &assignment.job.image else { return Ok(None) };
    let folders = match name.starts_with("oci:") || name.starts_with("docker-archive:") {
        true => tokio::task::spawn_blocking(files).await.map_err(|panic| panic.to_string())??,
        false => Vec::new(),
    };
    let files = Arc::new(Stacked(folders));
    let image = images.get(name, Policy::Missing, files, &watch::Sender::default()).await;
    image.map(Some).map_err(|error| error.to_string())
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
    if prepared.mount.is_none() {
        return Err("containers need overlays, and this machine cannot mount them for this job; \
                    `kiln doctor` says why"
            .to_owned());
    }
    let root = workspaces.prepare_root(folder, &image.layers).map_err(|error| error.to_string())?;
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
    binds.push(Bind { from: output, to: OUTPUT.into(), writable: true });
    for name in ["/etc/resolv.conf", "/etc/hosts"] {
        if Path::new(name).exists() {
            binds.push(Bind { from: name.into(), to: name.into(), writable: false });
        }
    }
    spec.container = Some(Container {
        root,
        workspace: WORKSPACE.into(),
        binds,
        user: image.config.user.clone(),
        hostname: "kiln".to_owned(),
        network: Network::Host,
    });
    // What the image says takes the place of what the machine says.
    let of_image = image.config.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    let of_image: Vec<_> = of_image.collect();
    spec.env = environment::of(assignment, &of_image, Path::new(WORKSPACE), Path::new(OUTPUT));
    Ok(())
}
