//! `kiln logs`: what jobs printed.

use kiln_api::user::JobDetail;
use kiln_model::JobState;
use kiln_stdx::base64;

use crate::client::Client;
use crate::command::trigger::follow;
use crate::error::{Blame, Exit, Failure, Result};
use crate::interrupt::Interrupts;
use crate::origin::{Origin, OriginArgs};
use crate::output::Output;
use crate::pipeline::unknown_job;
use crate::reference::Reference;
use crate::watch::lines::Prefixed;
use crate::watch::{Picture, Watched};

/// Print the log of a job, or of every job of a run
///
/// The log of one job is printed byte for byte. With several jobs each line begins with its job's
/// name, one job after the other.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `#12/test`, `project#12/test`, `#12` or the address of a page
    #[arg(value_name = "RUN[/JOB]")]
    reference: Reference,
    /// Go on until the job, or the run, is over
    #[arg(short, long)]
    follow: bool,
    /// Of this service of the job: a container beside it
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// An earlier attempt, counted from 1 [default: the last one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    #[command(flatten)]
    at: OriginArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln logs '#12/test'
  kiln logs 'site#12/test' -f
  kiln logs 'site#12/test' --service db -f
  kiln logs 'site#12' > all.log";

/// How much of a live log is read at once.
const CHUNK_BYTES: usize = 256 << 10;

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let origin = Origin::find(&args.reference, &args.at).await?;
    match &args.reference.job {
        Some(job) => one(&args, out, origin, job).await,
        None if args.attempt.is_some() => {
            Err(Failure::yours("`--attempt` is of one job").help("name it: RUN/JOB"))
        }
        None if args.service.is_some() => {
            Err(Failure::yours("`--service` is of one job").help("name it: RUN/JOB"))
        }
        None => all(&args, out, origin).await,
    }
}

async fn all(args: &Args, out: &Output, origin: Origin) -> Result<Exit> {
    let detail = origin.detail().await?;
    if args.follow && !detail.run.state.is_over() {
        // Following a whole run is watching it as a reader of lines does.
        let lines = out.without_cursor();
        return follow(&lines, args.json, origin.watched()?, None).await;
    }
    let only = detail.jobs.len() == 1;
    for job in detail.jobs.iter().filter(|job| job.attempt > 0) {
        let mut printer = Printer::new(out, args.json, &job.job, job.attempt, !only);
        origin.log((&job.job, None), job.attempt, |bytes| printer.bytes(bytes)).await?;
        printer.end()?;
    }
    Ok(Exit::Success)
}

async fn one(args: &Args, out: &Output, origin: Origin, job: &str) -> Result<Exit> {
    let detail = origin.job(job).await?;
    let service = args.service.as_deref();
    if let Some(service) = service {
        check_service(&origin, job, service).await?;
    }
    let last = detail.row.attempt;
    let attempt = args.attempt.unwrap_or(last);
    if args.attempt.is_some_and(|wanted| wanted > last) {
        let n = if last == 1 { "1 attempt".to_owned() } else { format!("{last} attempts") };
        return Err(Failure::yours(format!("`{job}` has {n}")));
    }
    let over = detail.row.state.is_over() || attempt < last;
    let mut printer = Printer::new(out, args.json, job, attempt.max(1), false);
    if !args.follow || over {
        if attempt > 0 {
            origin.log((job, service), attempt, |bytes| printer.bytes(bytes)).await?;
        }
        printer.end()?;
        return Ok(Exit::Success);
    }
    let mut interrupts = Interrupts::listen()?;
    let of = (job, service);
    let following = async {
        match origin {
            Origin::Server { client, project, number } => {
                stream(&client, &project, number, of, attempt.max(1), &mut printer).await
            }
            Origin::Local { .. } => grow(origin.watched()?, of, attempt.max(1), &mut printer).await,
        }
    };
    tokio::select! {
        done = following => done?,
        _ = interrupts.next() => return Ok(Exit::Interrupted),
    }
    printer.end()?;
    Ok(Exit::Success)
}

/// A name that the job has no service of is told before anything is waited for.
async fn check_service(origin: &Origin, job: &str, service: &str) -> Result<()> {
    let plan = origin.plan().await?;
    let found = plan.as_ref().and_then(|plan| Some(plan.job(plan.find(job)?)));
    let names = found.map(|job| job.services.keys().map(String::as_str).collect::<Vec<_>>());
    let names = names.unwrap_or_default();
    if names.contains(&service) {
        return Ok(());
    }
    let help = match (kiln_stdx::suggest::nearest(service, names.iter().copied()), names.as_slice())
    {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, []) => format!("`{job}` has no services"),
        (None, names) => format!("its services: {}", names.join(", ")),
    };
    Err(Failure::yours(format!("`{job}` has no service `{service}`")).help(help))
}

/// A local job that another process runs.
async fn grow(
    mut watched: Watched,
    (job, service): (&str, Option<&str>),
    attempt: u32,
    printer: &mut Printer<'_>,
) -> Result<()> {
    let mut offset = 0;
    loop {
        let picture = watched.picture().await?;
        let at = position(&picture, job)?;
        let over = picture.jobs[at].state.is_over() || picture.jobs[at].attempt > attempt;
        loop {
            let bytes = match service {
                None => watched.log(&picture, at, attempt, offset, CHUNK_BYTES).await?,
                Some(name) => watched.service_log((at, name), attempt, offset, CHUNK_BYTES)?,
            };
            if bytes.is_empty() {
                break;
            }
            offset += bytes.len() as u64;
            printer.bytes(&bytes)?;
        }
        if over {
            return Ok(());
        }
        watched.changed().await;
    }
}

fn position(picture: &Picture, job: &str) -> Result<usize> {
    let names = picture.jobs.iter().map(|job| job.name.as_str());
    picture.jobs.iter().position(|known| known.name == job).ok_or_else(|| unknown_job(job, names))
}

/// A server's job, over server-sent events, going on after a lost connection.
async fn stream(
    client: &Client,
    project: &str,
    number: i64,
    (job, service): (&str, Option<&str>),
    attempt: u32,
    printer: &mut Printer<'_>,
) -> Result<()> {
    const AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(500);
    let mut offset = 0;
    loop {
        let mut stream = client.log_live(project, number, (job, service), attempt, offset).await?;
        while let Ok(Some(event)) = stream.next().await {
            match event.name.as_str() {
                "log" => {
                    let bytes = base64::decode(event.data.trim())
                        .elsewhere("the server sent a part of the log that is not understood")?;
                    offset = event
                        .id
                        .and_then(|id| id.parse().ok())
                        .unwrap_or(offset + bytes.len() as u64);
                    printer.bytes(&bytes)?;
                }
                "end" => return Ok(()),
                _ => {}
            }
        }
        // Cut off: by a restart of the server, or because the job ended meanwhile.
        tokio::time::sleep(AGAIN_AFTER).await;
        let detail = client.job(project, number, job).await?;
        let over = detail.row.state.is_over() || detail.row.attempt > attempt;
        let n_bytes = log_bytes(&detail, attempt, service);
        if over && detail.row.state != JobState::Lost && offset >= n_bytes {
            return Ok(());
        }
    }
}

fn log_bytes(detail: &JobDetail, attempt: u32, service: Option<&str>) -> u64 {
    let Some(attempt) = detail.attempts.iter().find(|known| known.attempt == attempt) else {
        return 0;
    };
    let Some(service) = service else { return attempt.log_bytes };
    let found = attempt.services.iter().find(|known| known.service == service);
    found.map_or(0, |service| service.log_bytes)
}

/// Prints one log: as it is, behind its job's name, or as JSON.
struct Printer<'a> {
    out: &'a Output,
    json: bool,
    job: String,
    attempt: u32,
    offset: u64,
    prefixed: Option<Prefixed>,
}

impl<'a> Printer<'a> {
    fn new(out: &'a Output, json: bool, job: &str, attempt: u32, prefixed: bool) -> Self {
        let prefixed = (prefixed && !json).then(|| Prefixed::new(job));
        Self { out, json, job: job.to_owned(), attempt, offset: 0, prefixed }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        if self.json {
            let (key, text) = match std::str::from_utf8(bytes) {
                Ok(text) => ("text", text.to_owned()),
                Err(_) => ("base64", base64::encode(bytes)),
            };
            return self.out.json_line(&serde_json::json!({
                "type": "log", "job": self.job, "attempt": self.attempt, "offset": offset, key: text,
            }));
        }
        match &mut self.prefixed {
            Some(prefixed) => self.out.bytes(&prefixed.lines(bytes)),
            None => self.out.bytes(bytes),
        }
    }

    fn end(&mut self) -> Result<()> {
        match &mut self.prefixed {
            Some(prefixed) => self.out.bytes(&prefixed.rest()),
            None => Ok(()),
        }
    }
}
