//! `kiln workspace`: the files of a past job, into an archive and out of it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_agent::Bases;
use kiln_api::scene::{Enter, Moment, Scene};
use kiln_model::layer::LayerId;
use kiln_stdx::bytes;
use kiln_stdx::fs::Named;
use kiln_workspace::archive::{Bounds, Over, Packed, UnpackError};
use kiln_workspace::{PackingError, WorkspaceError, Workspaces, archive};

use crate::command::run::Allow;
use crate::command::shell::find;
use crate::error::{Blame, Exit, Failure, Result};
use crate::origin::OriginArgs;
use crate::output::{Output, visible};
use crate::reference::Reference;

/// Take the files of a job to another machine
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Pack(Pack),
    Unpack(Unpack),
}

/// Pack what a job wrote, or all that it saw
///
/// A tar compressed by zstd, as images of containers have it: a file that the job deleted is an empty
/// one with `.wh.` before its name. Works for failed jobs too. Jobs of a server are packed on the
/// server's machine.
#[derive(clap::Args, Debug)]
#[command(after_help = PACK_EXAMPLES)]
pub struct Pack {
    /// `#12/test` or `project#12/test`; without a job, the only one or the only one that failed
    #[arg(value_name = "RUN[/JOB]")]
    reference: Reference,
    /// Where to; `-` is standard output [default: named after the job, here]
    #[arg(short, long, value_name = "FILE.tar.zst")]
    output: Option<PathBuf>,
    /// Every file that the job saw, not only what it changed
    #[arg(long)]
    all: bool,
    /// Of an earlier attempt [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    #[command(flatten)]
    at: OriginArgs,
}

const PACK_EXAMPLES: &str = "\
Examples:
  kiln workspace pack '#12/test'
  kiln workspace pack 'site#12/build' --all -o build.tar.zst
  kiln workspace pack '#12/test' --all -o - | ssh other kiln workspace unpack - test";

/// Unpack such an archive, or any other tar
///
/// Plain, or compressed by zstd or gzip. Nothing is written outside the folder, whatever the archive
/// says; one that leads out of it, or has devices, is refused.
#[derive(clap::Args, Debug)]
#[command(after_help = UNPACK_EXAMPLES)]
pub struct Unpack {
    /// The archive; `-` is standard input
    file: PathBuf,
    /// Where to: a new or an empty folder
    directory: PathBuf,
    /// Lay it over the files of the folder: what the archive has takes their place, what the job
    /// deleted is deleted
    #[arg(long)]
    over: bool,
    /// The most that it may be, unpacked [default: what is free on the disk]
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// The most files that it may have
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    max_files: u64,
}

const UNPACK_EXAMPLES: &str = "\
Examples:
  kiln workspace unpack site-12-build.tar.zst build
  git checkout 4f2a1c9 && kiln workspace unpack site-12-test.tar.zst . --over";

/// Deeper than any tree that a person made.
const DEPTH_MAX: usize = 1000;

pub async fn run(command: Command, out: &Output) -> Result<Exit> {
    match command {
        Command::Pack(args) => pack(args, out).await,
        Command::Unpack(args) => unpack(&args, out),
    }
}

/// What is to be packed.
struct What {
    /// With all layers, lowest first.
    scene: Scene,
    /// Those that the job made.
    own: Vec<LayerId>,
    all: bool,
}

async fn pack(args: Pack, out: &Output) -> Result<Exit> {
    let at = |moment| Enter {
        project: args.reference.project.clone().unwrap_or_default(),
        number: args.reference.number,
        job: args.reference.job.clone(),
        attempt: args.attempt,
        moment,
        secrets: false,
    };
    // Files are read and nothing is run, so whatever the run was allowed may be.
    let allow = [Allow::Privileged, Allow::DockerSocket];
    let job = find::job(&args.reference, &args.at, at(Moment::Left), &allow).await?;
    let began = find::job(&args.reference, &args.at, at(Moment::Start), &allow).await?;
    let reference = job.reference.clone();
    let below = began.scene.assignment.layers;
    let own: Vec<_> = job
        .scene
        .assignment
        .layers
        .iter()
        .filter(|layer| !below.contains(layer))
        .cloned()
        .collect();
    if own.is_empty() && !args.all {
        return Err(Failure::yours(format!("{} wrote no files", visible(&reference)))
            .help("`--all` packs those that it saw"));
    }
    let what = What { scene: job.scene, own, all: args.all };
    let to = args.output.unwrap_or_else(|| default_name(&reference));
    let layers = job.layers;
    let packed = tokio::task::spawn_blocking(move || {
        let packed = write(&layers, &what, &to);
        packed.map(|packed| (packed, to))
    });
    let (packed, to) =
        packed.await.map_err(Failure::ours)?.map_err(|failure| lost(&reference, failure))?;
    if packed.n_left_out > 0 {
        out.note(&format!("note: {} sockets and devices are left out", packed.n_left_out));
    }
    if to != Path::new("-") {
        let size = fs::metadata(&to).map_or(0, |meta| meta.len());
        let (n, size) = (packed.n_entries, bytes::show(size));
        out.note(&format!("{}: {n} entries, {size}", visible(&to.display().to_string())));
    }
    Ok(Exit::Success)
}

/// `site-12-test.tar.zst`; of a job's name what a file may be called.
fn default_name(reference: &str) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = reference.trim_start_matches('#').chars().map(plain).collect();
    format!("{name}.tar.zst").into()
}

/// Written beside its place and renamed, so that half an archive never has its name.
fn write(layers: &Path, what: &What, to: &Path) -> Result<Packed> {
    let workspaces = Arc::new(Workspaces::open(layers, None).elsewhere("cannot open the layers")?);
    if to == Path::new("-") {
        return stream(&workspaces, what, io::stdout().lock());
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).named("create a file in", folder)?;
    let packed = stream(&workspaces, what, file.as_file_mut())?;
    file.persist(to).map_err(|error| error.error).named("write", to)?;
    Ok(packed)
}

fn stream(workspaces: &Arc<Workspaces>, what: &What, to: impl io::Write) -> Result<Packed> {
    let packed = if what.all {
        let bases = Bases::new(workspaces.clone());
        let base = bases.of(&what.scene.assignment);
        workspaces.pack_view(&base.map_err(Failure::elsewhere)?, &what.scene.assignment.layers, to)
    } else {
        workspaces.pack(&what.own, to)
    };
    packed.map_err(|error| match error {
        PackingError::Workspace(error @ WorkspaceError::Missing(_)) => Failure::yours(error),
        error => Failure::elsewhere(described(&error)),
    })
}

fn lost(reference: &str, failure: Failure) -> Failure {
    let again = reference.rsplit_once('/').map_or_else(
        || format!("kiln rerun '{reference}'"),
        |(run, job)| format!("kiln rerun '{run}' --job '{job}'"),
    );
    match failure.kind {
        crate::error::Kind::Yours => {
            failure.help(format!("`{}` makes them again", visible(&again)))
        }
        _ => failure,
    }
}

fn unpack(args: &Unpack, out: &Output) -> Result<Exit> {
    let from: Box<dyn Read + Send> = match args.file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(BufReader::new(File::open(&args.file).named("open", &args.file)?)),
    };
    let over = if args.over { Over::Files } else { Over::Nothing };
    let free = args.max_bytes.unwrap_or_else(|| free(&args.directory));
    let bounds = Bounds { bytes: free, entries: args.max_files, depth: DEPTH_MAX };
    let done = archive::unpack(from, &args.directory, over, &bounds).map_err(|error| {
        let text = described(&error);
        match error {
            UnpackError::Damaged { .. } | UnpackError::Refused { .. } => Failure::yours(text),
            UnpackError::TooMuch { .. } => {
                Failure::yours(text).help("`--max-bytes` and `--max-files` allow more")
            }
            UnpackError::NotEmpty(_) => Failure::yours(text)
                .help("name a new folder, or lay the archive over these files with `--over`"),
            UnpackError::Read { .. } | UnpackError::Fs(_) => Failure::elsewhere(text),
        }
    });
    let done = done?;
    let into = visible(&args.directory.display().to_string());
    out.note(&format!("{into}: {} entries", done.n_entries));
    if done.n_gone > 0 && !args.over {
        out.note(&format!(
            "note: the job deleted {} files of those that it found; `--over` lays the archive over them",
            done.n_gone
        ));
    }
    Ok(Exit::Success)
}

/// Of the nearest folder that is there.
fn free(directory: &Path) -> u64 {
    let absolute = std::path::absolute(directory).unwrap_or_default();
    let disk = absolute.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// With what caused it.
fn described(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let mut text = visible(&error.to_string());
    for cause in causes.map(|cause| visible(&cause.to_string())) {
        if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_named_after_its_job() {
        let name = |reference| default_name(reference).display().to_string();
        assert_eq!(name("site#12/test"), "site-12-test.tar.zst");
        assert_eq!(name("#12/test:15,linux"), "12-test-15-linux.tar.zst");
        assert_eq!(name("#1/../../x"), "1-..-..-x.tar.zst");
    }
}
