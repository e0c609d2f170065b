//! From git calling the hook to the first byte of output in a reader's hands.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use kiln_it::sse::Sse;
use kiln_it::wait::PATIENCE;
use kiln_it::world::ran;
use kiln_it::{Bare, Server, World};
use kiln_stdx::clock::Stopwatch;
use serde_json::Value;

use super::figure::{Figure, Goal, Limit, Samples, ms, time};

const N_PUSHES: i64 = 50;
const N_WARM: i64 = 3;

/// A real bare repository, a real server, the hook called exactly as git calls it.
pub fn hook_to_output() -> Result<Vec<Figure>> {
    let world = World::new();
    let bare = world.bare("site.git");
    let clone = world.clone_of(&bare, "site");
    clone.write(".kiln.yml", "jobs: { hello: { steps: [echo hello] } }\n");
    clone.commit("pipeline");
    clone.push(["main"]);
    let server = world.serve();
    world.watch("site", &bare);
    let mut values = Vec::new();
    for number in 1..=N_PUSHES + N_WARM {
        let old = clone.head();
        let new = clone.commit("next");
        // Objects and ref are in place before the hook is called, as in a push. Fetched and not
        // pushed: a push would call the hook itself, and the server would be warm.
        let mut fetch = world.command("git");
        fetch.args(["fetch", "--quiet"]).arg(&clone.path).arg("+main:refs/heads/main");
        ran(fetch.current_dir(&bare.path)).success();
        let took = one(
            &world,
            &server,
            &bare,
            &format!("{old} {new} refs/heads/main\n"),
            (number, "hello"),
        )?;
        if number > N_WARM {
            values.push(took);
        }
        server.over("site", number);
    }
    let limit = time(N_WARM as usize, N_PUSHES as usize, || echo(&world))?;
    Ok(vec![Figure {
        name: "hook-to-output",
        unit: "ms",
        samples: Samples::new(values),
        limit: Limit::Measured { what: "sh -c echo, piped", samples: limit },
        goal: Goal::AtMost(8.0),
    }])
}

/// Milliseconds from the start of the hook to the first output at a reader that followed the lists.
pub fn one(
    world: &World,
    server: &Server,
    bare: &Bare,
    refs: &str,
    (number, job): (i64, &'static str),
) -> Result<f64> {
    let mut live = server.sse("/live");
    let address = server.address;
    let (ready, is_ready) = mpsc::channel();
    let (send, first) = mpsc::channel();
    let reader = std::thread::spawn(move || -> Result<()> {
        ready.send(())?;
        loop {
            let event = live.next_event()?.context("the live stream ended")?;
            let told: Value = serde_json::from_str(&event.data).unwrap_or_default();
            if told["number"].as_i64() == Some(number) {
                break;
            }
        }
        let path = format!("/api/v1/projects/site/runs/{number}/jobs/{job}/log/stream");
        let mut log = Sse::open(address, &path, None)?;
        while let Some(event) = log.next_event()? {
            if event.name == "log" {
                send.send(Stopwatch::start())?;
                break;
            }
        }
        Ok(())
    });
    is_ready.recv_timeout(PATIENCE)?;
    let mut hook = world.command(bare.path.join("hooks/post-receive"));
    hook.current_dir(&bare.path).env("GIT_DIR", ".");
    hook.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let since = Stopwatch::start();
    let mut hook = hook.spawn().context("the hook starts")?;
    hook.stdin.take().context("is piped")?.write_all(refs.as_bytes())?;
    let arrived = first.recv_timeout(PATIENCE);
    // Started when the byte arrived, so the difference does not count this thread's wake-up.
    let took = arrived.map(|at| ms(since.elapsed().saturating_sub(at.elapsed())));
    ensure!(hook.wait()?.success(), "the hook failed");
    reader.join().expect("the reader does not panic")?;
    took.context("no output came")
}

/// The least that starting a command and reading its first byte costs here.
fn echo(world: &World) -> Result<()> {
    let mut command = world.command("sh");
    let mut child = command.args(["-c", "echo hello"]).stdout(Stdio::piped()).spawn()?;
    let mut byte = [0];
    child.stdout.take().context("is piped")?.read_exact(&mut byte)?;
    child.wait()?;
    Ok(())
}
