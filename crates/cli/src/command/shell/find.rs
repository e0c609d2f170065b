//! The job that is meant: of a local run, of a server that runs, or of one that does not.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_api::scene::{Enter, Scene};
use kiln_api::user::ErrorBody;
use kiln_model::{ProjectName, RunNumber};
use kiln_server::ask::AskError;
use kiln_server::runs::{Places, Runs};
use kiln_server::scene::{self, Unanswered};
use kiln_stdx::SystemClock;
use kiln_store::{RunRow, Store, StoreError};

use super::Job;
use crate::client::{Note, ServerArgs};
use crate::command::run::{Allow, allow, with_way};
use crate::error::{Blame, Failure, Result};
use crate::origin::{Origin, OriginArgs};
use crate::place::Data;
use crate::reference::Reference;

pub async fn job(
    reference: &Reference,
    at: &OriginArgs,
    enter: Enter,
    allowed: &[Allow],
) -> Result<Job> {
    if reference.project.is_none() {
        // An error where a server was named without a project.
        let Origin::Local { mut local, row } = Origin::find(reference, at).await? else {
            return Err(Failure::ours("a local run was found at a server"));
        };
        allow(&mut local, allowed);
        let runs = local.runs().await?;
        let enter = Enter { secrets: true, ..enter };
        let scene = of_runs(&runs, *row, &enter).await.map_err(with_way)?;
        let config = local.data.config();
        return Ok(found(scene, String::new(), local.data.local(), config));
    }
    let data = data_of(reference, &at.server)?;
    let places = data.server();
    let asked = {
        let (places, enter) = (places.clone(), enter.clone());
        tokio::task::spawn_blocking(move || scene::ask(&places, &enter)).await
    };
    let scene = match asked.map_err(Failure::ours)? {
        Ok(scene) => scene,
        Err(Unanswered::Refused(status, body)) => return Err(refused(status, body)),
        Err(Unanswered::Away(cause)) => without_server(&places, &enter, &cause).await?,
    };
    Ok(found(scene, enter.project, places, data.config()))
}

fn found(scene: Scene, project: String, places: Places, config: PathBuf) -> Job {
    let is_local = project.is_empty();
    let assignment = &scene.assignment;
    let reference = format!("{project}#{}/{}", assignment.number, assignment.job.name);
    Job { reference, layers: places.layers(), config, is_local, scene }
}

/// The data folder of the server that is meant, which must be on this machine.
fn data_of(reference: &Reference, server: &ServerArgs) -> Result<Data> {
    let data = Data::find(server.data.as_deref())?;
    let url = reference.server.as_ref().or(server.server.as_ref());
    let is_its = |url: &String| {
        Note::read(&data)
            .is_some_and(|note| note.url.trim_end_matches('/') == url.trim_end_matches('/'))
    };
    let folder = data.root.display();
    if let Some(url) = url.filter(|url| !is_its(url)) {
        return Err(Failure::yours(format!(
            "the server at {url} does not serve the data folder `{folder}`"
        ))
        .help("a shell opens on the server's machine; there, name its data folder with --data"));
    }
    let Ok(known) = std::fs::metadata(&data.root) else {
        return Err(Failure::yours(format!("there is no data folder `{folder}`"))
            .help("a shell opens on the server's machine; name its data folder with --data"));
    };
    if known.uid() != rustix::process::geteuid().as_raw() {
        let uid = known.uid();
        return Err(Failure::yours(format!(
            "the data folder `{folder}` belongs to another user, as whom its jobs run"
        ))
        .help(format!("become that user: `sudo -u '#{uid}' kiln shell …`")));
    }
    Ok(data)
}

/// From the rows of a data folder that nobody serves.
async fn without_server(places: &Places, enter: &Enter, cause: &std::io::Error) -> Result<Scene> {
    let folder = places.data.display();
    if !places.data.join("kiln.db").is_file() {
        return Err(Failure::elsewhere(format!(
            "no server answers in the data folder `{folder}` ({cause}), and its runs are not in it"
        ))
        .help("start the server with `kiln serve`, or name another folder with --data"));
    }
    let store = Store::open(&places.data, None, false).await?;
    let wrong = format!("`{}` is not a project's name", crate::output::visible(&enter.project));
    let name = ProjectName::new(enter.project.as_str()).yours(wrong)?;
    let missing = |what: String| {
        move |error| match error {
            StoreError::NotFound(_) => Failure::yours(what)
                .help("name the server's folder with --data; a local run is written `#12`"),
            error => Failure::from(error),
        }
    };
    let project = store.project(&name).await;
    let project =
        project.map_err(missing(format!("there is no project `{name}` in `{folder}`")))?;
    let row = store.run_by_number(project.id, RunNumber(enter.number)).await;
    let row = row.map_err(missing(format!("there is no run {name}#{}", enter.number)))?;
    let runs = Runs::open(store, places.clone(), Arc::new(SystemClock)).await?;
    of_runs(&runs, row, enter).await
}

async fn of_runs(runs: &Runs, row: RunRow, enter: &Enter) -> Result<Scene> {
    scene::scene(runs, row, enter).await.map_err(|error| match error {
        AskError::Wrong { message, help, .. } => Failure { help, ..Failure::yours(message) },
        AskError::NotFound { message, .. } | AskError::Conflict { message, .. } => {
            let run = format!("{}#{}", enter.project, enter.number);
            Failure::yours(message).help(format!("`kiln show '{run}'` lists its jobs"))
        }
        AskError::Store(error) => error.into(),
        other => Failure::elsewhere(other),
    })
}

fn refused(status: u16, body: ErrorBody) -> Failure {
    let failure = match status {
        400..=499 => Failure::yours(body.message),
        _ => Failure::elsewhere(body.message),
    };
    Failure { help: body.help, ..failure }
}
