//! `kiln image`: the container images on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_executor::{HostExecutor, Spawner};
use kiln_image::{Entry, Folder, Images, Policy, Progress, Reference};
use kiln_server::runs::Places;
use kiln_stdx::{Clock, SystemClock, bytes, duration, suggest};
use kiln_workspace::Workspaces;
use serde::Serialize;
use tokio::sync::watch;

use super::runs::ago;
use crate::error::{Blame, Exit, Failure, Result};
use crate::local::machine;
use crate::output::{Cell, Output, Style, visible};
use crate::place::Data;

/// Between two lines about a pull.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// Of a digest, in a list.
const DIGEST_CHARS: usize = 12;

/// Container images: fetch them beforehand, list them, forget them
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Pull(Pull),
    Ls(Ls),
    Rm(Rm),
}

/// Fetch images, so that jobs need no network for them
///
/// An image whose name leads to another one now is fetched anew; layers that are here stay. Logins are
/// those of `docker login`; mirrors are in `[registries]` of `kiln.toml` in the data folder.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  kiln image pull rust:1.90 postgres:16\n  kiln image pull --serve ghcr.io/team/app@sha256:…"
)]
pub struct Pull {
    /// As in manifests: `rust:1.90`, `ghcr.io/team/app:v1`
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    of: Of,
}

/// List the images of registries that are on this machine
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  kiln image ls\n  kiln image ls --json | jq -r '.[].name'")]
pub struct Ls {
    /// As a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
}

/// Forget images
///
/// The next job that names one fetches it again. Its layers go when they are collected: at once with
/// `kiln gc --keep-images 0`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  kiln image rm rust:1.89")]
pub struct Rm {
    /// As in manifests, or as `kiln image ls` has it
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    of: Of,
}

/// Whose images.
#[derive(clap::Args, Debug)]
struct Of {
    /// The data folder [env: KILN_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Those of `kiln serve`, instead of those of `kiln run`
    #[arg(long)]
    serve: bool,
}

/// The images of one data folder.
struct Kept {
    workspaces: Arc<Workspaces>,
    images: Images,
}

/// One of the list.
#[derive(Serialize)]
struct Row {
    name: String,
    digest: String,
    n_layers: usize,
    /// On disk, with what it shares with others. Absent while a layer of it is gone.
    n_bytes: Option<u64>,
    pulled_at: kiln_stdx::Timestamp,
}

pub async fn run(command: Command, spawner: Spawner, out: &Output) -> Result<Exit> {
    match command {
        Command::Pull(args) => pull(args, spawner, out).await,
        Command::Ls(args) => ls(args, spawner, out).await,
        Command::Rm(args) => rm(args, spawner, out).await,
    }
}

impl Of {
    async fn open(&self, spawner: Spawner) -> Result<Kept> {
        let data = Data::find(self.data.as_deref())?;
        let places = self.places(&data)?;
        let workspaces = machine::workspaces(&HostExecutor::new(spawner), &places.layers()).await?;
        let workspaces = Arc::new(workspaces);
        let images = machine::images(&workspaces, &places.images(), &data.config())?;
        Ok(Kept { workspaces, images })
    }

    fn places(&self, data: &Data) -> Result<Places> {
        if !self.serve {
            data.make_local()?;
            return Ok(data.local());
        }
        match data.root.is_dir() {
            true => Ok(data.server()),
            false => Err(Failure::yours(format!("there is no folder `{}`", data.root.display()))
                .help("name the server's data folder with --data")),
        }
    }
}

async fn pull(args: Pull, spawner: Spawner, out: &Output) -> Result<Exit> {
    let names = args.images.iter().map(|name| in_full(name)).collect::<Result<Vec<_>>>()?;
    let Kept { images, .. } = args.of.open(spawner).await?;
    for name in names {
        let (progress, began) = (watch::Sender::default(), SystemClock.monotonic());
        // Nothing is looked for on disk: the name is of a registry.
        let files = Arc::new(Folder(PathBuf::from("/nonexistent")));
        let image = tokio::select! {
            image = images.get(&name, Policy::Always, files, &progress) => image,
            never = tell(progress.subscribe(), &name, out) => match never {},
        };
        let image = image.map_err(Failure::elsewhere)?;
        let done: Progress = *progress.borrow();
        let took = duration::show(SystemClock.monotonic().saturating_sub(began));
        let how = match done.n_fetched {
            0 => "nothing had to be fetched".to_owned(),
            n => format!("{} in {took}", bytes::show(n)),
        };
        let digest = format!("sha256:{}", image.digest);
        out.lines(&format!("{name}  {}  {how}\n", out.paint(Style::Dim, &digest)))?;
    }
    Ok(Exit::Success)
}

async fn tell(
    mut progress: watch::Receiver<Progress>,
    name: &str,
    out: &Output,
) -> std::convert::Infallible {
    loop {
        if progress.changed().await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(SAY_EVERY).await;
        let now = *progress.borrow_and_update();
        let (n, of) = (bytes::show(now.n_bytes), bytes::show(now.of_bytes));
        out.note(&format!("pulling {name}: {n} of {of}, {} layers", now.n_layers));
    }
}

async fn ls(args: Ls, spawner: Spawner, out: &Output) -> Result<Exit> {
    let Kept { workspaces, images } = args.of.open(spawner).await?;
    let sizes = tokio::task::spawn_blocking(move || workspaces.images_kept()).await;
    let sizes = sizes.map_err(Failure::ours)?.elsewhere("cannot look at the layers of images")?;
    // Named by what they hold and by the form they are kept in.
    let sizes: BTreeMap<String, u64> = sizes
        .into_iter()
        .filter_map(|layer| Some((layer.name.split_once('-')?.0.to_owned(), layer.n_bytes)))
        .collect();
    let rows: Vec<Row> = images.all().into_iter().map(|entry| row(entry, &sizes)).collect();
    if args.json {
        out.json(&rows)?;
        return Ok(Exit::Success);
    }
    if rows.is_empty() {
        out.note("no images of registries are here; `kiln image pull NAME` fetches one");
        return Ok(Exit::Success);
    }
    let now = SystemClock.now();
    let cells = |row: &Row| {
        vec![
            Cell::styled(Style::Bold, visible(&row.name)),
            Cell::styled(Style::Dim, row.digest.get(7..7 + DIGEST_CHARS).unwrap_or("-")),
            Cell::from(row.n_bytes.map_or("not whole".to_owned(), bytes::show)),
            Cell::from(row.n_layers.to_string()),
            Cell::from(ago(row.pulled_at, now)),
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    out.table(&["image", "sha256", "size", "layers", "pulled"], &rows)?;
    Ok(Exit::Success)
}

fn row(entry: Entry, sizes: &BTreeMap<String, u64>) -> Row {
    let Entry { name, image, pulled_at } = entry;
    let sizes = image.layers.iter().map(|layer| sizes.get(layer.as_str()).copied());
    Row {
        digest: format!("sha256:{}", image.digest),
        n_layers: image.layers.len(),
        n_bytes: sizes.sum(),
        name,
        pulled_at,
    }
}

async fn rm(args: Rm, spawner: Spawner, out: &Output) -> Result<Exit> {
    let names = args.images.iter().map(|name| in_full(name)).collect::<Result<Vec<_>>>()?;
    let Kept { images, .. } = args.of.open(spawner).await?;
    let known: Vec<String> = images.all().into_iter().map(|entry| entry.name).collect();
    // All or nothing: a slip in the last name does not cost the first.
    if let Some(missing) = names.iter().find(|name| !known.contains(name)) {
        let failure = Failure::yours(format!("the image `{}` is not here", visible(missing)));
        let near = suggest::nearest(missing, known.iter().map(String::as_str));
        return Err(match near {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help("`kiln image ls` lists those that are"),
        });
    }
    for name in &names {
        images.forget(name);
        out.lines(&format!("{name}  forgotten\n"))?;
    }
    out.note("their layers go when they are collected; at once with `kiln gc --keep-images 0`");
    Ok(Exit::Success)
}

/// The name of an image in a registry, with everything that is usually left out.
fn in_full(name: &str) -> Result<String> {
    match name.parse::<Reference>().map_err(Failure::yours)? {
        Reference::Registry(named) => Ok(named.to_string()),
        _ => {
            let what = format!("`{}` is a file of a repository, not of a registry", visible(name));
            Err(Failure::yours(what).help("jobs find it in their commit; nothing is to be fetched"))
        }
    }
}
