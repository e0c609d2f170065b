//! One PostgreSQL for the whole test run.
//!
//! A guardian (this binary again, see `role`) starts it and stops it by its pid when the test
//! process is gone, however it went: the guardian's standard input ends then.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_stdx::process::{command, output};
use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::role;

const MISSING: &str = "these tests need PostgreSQL 15 or newer, and it is not installed: \
                       `apt-get install postgresql` (no service needs to run)";

/// Ends all other connections of a database, and waits until they are gone.
pub const CUT: &str = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";

struct Server {
    /// The folder of its socket, as the host of a URL.
    host: String,
    _guardian: ChildStdin,
}

/// The URL of a new, empty database.
pub async fn database() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static N: AtomicU32 = AtomicU32::new(0);
    let host = &SERVER.get_or_init(start).host;
    let name = format!("test_{}", N.fetch_add(1, Ordering::Relaxed));
    let url = |name: &str| format!("postgres://postgres@{host}/{name}");
    execute(&url("postgres"), &format!("CREATE DATABASE {name}")).await;
    url(&name)
}

/// Statements of the test's own, past the store.
pub async fn execute(url: &str, sql: &str) {
    connect(url).await.batch_execute(sql).await.unwrap();
}

pub async fn query(url: &str, sql: &str) -> Vec<tokio_postgres::Row> {
    connect(url).await.query(sql, &[]).await.unwrap()
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn start() -> Server {
    let binaries = binaries().expect(MISSING);
    let folder = tempfile::Builder::new().prefix("kiln-pg-").tempdir().unwrap().keep();
    if getuid().is_root() {
        // PostgreSQL refuses to run as root.
        let (uid, gid) = postgres_user().expect(MISSING);
        chown(&folder, Some(uid), Some(gid)).unwrap();
    }
    let data = folder.join("data");
    let mut initdb = as_owner(&folder, &binaries.join("initdb"));
    initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    output(initdb.args(["--no-sync", "--pgdata"]).arg(&data)).unwrap();
    let mut guardian = role::command("guardian");
    guardian.env("KILN_PG_FOLDER", &folder).env("KILN_PG_BINARIES", &binaries);
    guardian.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    #[expect(clippy::zombie_processes, reason = "it outlives this process, by design")]
    let mut guardian = guardian.spawn().unwrap();
    let said = BufReader::new(guardian.stdout.take().unwrap());
    let ready = said.lines().map_while(Result::ok).any(|line| line == "postgres is ready");
    assert!(ready, "PostgreSQL did not start");
    let host = folder.to_str().unwrap().replace('/', "%2F");
    Server { host, _guardian: guardian.stdin.take().unwrap() }
}

/// The guardian's life.
pub fn guard() {
    let folder = PathBuf::from(std::env::var_os("KILN_PG_FOLDER").unwrap());
    let binaries = PathBuf::from(std::env::var_os("KILN_PG_BINARIES").unwrap());
    let mut postgres = as_owner(&folder, &binaries.join("postgres"));
    postgres.arg("-D").arg(folder.join("data")).arg("-k").arg(&folder);
    postgres.args(["-c", "listen_addresses=", "-c", "max_connections=300", "-c", "fsync=off"]);
    let mut postgres = postgres.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(postgres.stderr.take().unwrap());
    std::thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            if line.ends_with("database system is ready to accept connections") {
                // Past the test harness, which would keep what `println` writes.
                std::io::stdout().write_all(b"\npostgres is ready\n").unwrap();
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let pid = Pid::from_raw(i32::try_from(postgres.id()).unwrap()).unwrap();
    let _ = kill_process(pid, Signal::QUIT);
    postgres.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    // Nobody is left to whom the test harness could report.
    std::process::exit(0);
}

/// A program as whoever owns the folder.
fn as_owner(folder: &Path, program: &Path) -> Command {
    let owner = std::fs::metadata(folder).unwrap();
    let mut command = if getuid().is_root() {
        let mut setpriv = command("setpriv");
        setpriv.arg(format!("--reuid={}", owner.uid())).arg(format!("--regid={}", owner.gid()));
        setpriv.arg("--clear-groups").arg(program);
        setpriv
    } else {
        command(program)
    };
    command.current_dir(folder).env("LC_ALL", "C");
    command
}

/// Debian keeps them by version, beside `PATH`; others have them in it.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| *version >= 15)
        .max();
    if let Some(version) = newest {
        return Some(format!("/usr/lib/postgresql/{version}/bin").into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").exists())
}

fn postgres_user() -> Option<(u32, u32)> {
    let line = output(command("getent").args(["passwd", "postgres"])).ok()?;
    let line = String::from_utf8(line).ok()?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
