//! `kiln serve`: the server and an agent beside it.

use std::path::PathBuf;
use std::time::Duration;

use kiln_agent::Agent;
use kiln_executor::{HostExecutor, Spawner};
use kiln_model::limit::DISCONNECT_GRACE;
use kiln_server::serve::listen::ListenError;
use kiln_server::{ServeError, ServeOptions, Server};

use crate::client::{DEFAULT_PORT, Note};
use crate::error::{Exit, Failure, Kind, Result};
use crate::interrupt::Interrupts;
use crate::local::docker;
use crate::local::machine::{Folder, Part, host_name, machine_env, start_agent};
use crate::output::{Output, Style};
use crate::place::Data;

/// Serve: watch repositories, run their pipelines, show them in a browser
///
/// Everything is kept in one folder. Jobs run on this machine, started by an agent in the same
/// process; when the server is stopped they go on, and it finds them again at its next start.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where everything is kept [env: KILN_DATA] [default: ~/.local/share/kiln]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = format!("127.0.0.1:{DEFAULT_PORT}"))]
    listen: String,
    /// Keep rows in PostgreSQL instead of SQLite
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// What is kept for how long, and what jobs may have of this machine [default: kiln.toml in the data folder, if it is
    /// there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// DANGER: listen on addresses that other machines reach. There are no accounts yet: whoever
    /// reaches the page may run anything here as the user who started the server
    #[arg(long)]
    allow_remote: bool,
    /// Another name by which browsers may call the server, such as that of a proxy before it
    #[arg(long = "host", value_name = "NAME[:PORT]")]
    hosts: Vec<String>,
    /// How many jobs run at once; 0: none, this server only shows [default: one per core]
    #[arg(short, long, value_name = "N")]
    jobs: Option<u16>,
    /// A label of the agent here, for jobs that ask for one
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// The line that says where it is as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln serve
  kiln serve --data /var/lib/kiln --listen 127.0.0.1:8080
  kiln serve --database postgres://kiln@localhost/kiln

SIGTERM and Ctrl-C stop it; jobs go on and are found again. A second one does not wait for requests
that are being answered.";

/// How long jobs go on without their server. As long as an attempt may stay without its agent.
pub const ORPHAN_FOR: Duration = DISCONNECT_GRACE;

pub async fn run(args: Args, spawner: Spawner, out: &Output) -> Result<Exit> {
    let mut interrupts = Interrupts::listen()?;
    let data = Data::find(args.data.as_deref())?;
    let options = ServeOptions {
        data: data.root.clone(),
        listen: args.listen,
        database: args.database,
        allow_remote: args.allow_remote,
        config: args.config,
        hosts: args.hosts,
        daemon_socket: docker::socket(),
    };
    if let Some(config) = options.config.as_ref().filter(|config| !config.is_file()) {
        return Err(Failure::yours(format!("there is no file `{}`", config.display())));
    }
    let server = start(options).await?;
    let part = Part {
        name: host_name(),
        labels: args.labels,
        n_jobs: args.jobs.map(usize::from),
        orphan_for: ORPHAN_FOR,
        folder: Folder::Ours,
        config: server.app().options.config_file(),
        env: Vec::new(),
    };
    let agent = match args.jobs {
        Some(0) => None,
        _ => Some(agent_of(&server, spawner, &data, part).await?),
    };
    Note::write(&data, server.url())?;
    if args.json {
        out.json_line(&serde_json::json!({ "url": server.url(), "data": data.root }))?;
    } else {
        let url = out.paint(Style::Blue, server.url());
        out.lines(&format!("kiln serves {} at {url}\n", data.root.display()))?;
    }
    interrupts.next().await;
    tokio::select! {
        () = stop(server, agent) => {}
        _ = interrupts.next() => {}
    }
    Note::remove(&data);
    Ok(Exit::Success)
}

/// Starts the server, with errors that say whose they are.
pub async fn start(options: ServeOptions) -> Result<Server> {
    let data = options.data.display().to_string();
    let started = Server::start(options).await.map_err(|error| {
        let kind = match &error {
            ServeError::Config(_)
            | ServeError::Listen(ListenError::NotAnAddress(_) | ListenError::Remote(_)) => {
                Kind::Yours
            }
            _ => Kind::Elsewhere,
        };
        let store = matches!(error, ServeError::Store(_));
        let file = matches!(error, ServeError::File(_));
        let help = file.then(|| "choose another data folder with --data".to_owned());
        let failure = Failure { kind, error: error.into(), help };
        match store {
            true => Failure {
                error: failure.error.context(format!("cannot use the data folder `{data}`")),
                ..failure
            },
            false => failure,
        }
    });
    let server = started?;
    // Before the agent makes anything in the folder of layers.
    collects(&server)?;
    Ok(server)
}

/// The server collects what is no longer wanted, from now on.
fn collects(server: &Server) -> Result<()> {
    let layers = crate::local::collect::know_layers(server.runs())?;
    server.collects(layers).map_err(|error| Failure::yours(kiln_server::report::whole(&error)))
}

/// The agent in a server's own process.
pub async fn agent_of(server: &Server, spawner: Spawner, data: &Data, part: Part) -> Result<Agent> {
    let (runs, places) = (server.runs(), data.server());
    runs.note_machine_env(machine_env(part.env.clone()));
    start_agent(HostExecutor::new(spawner), runs.clone(), runs.store(), &places, part).await
}

/// Jobs are left to their sessions; requests are answered.
pub async fn stop(server: Server, agent: Option<Agent>) {
    if let Some(agent) = agent {
        agent.leave().await;
    }
    server.stop().await;
}
