//! A job that Docker runs, beside `docker run`; fetching a large image, beside `docker pull` and `skopeo copy`.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use kiln_it::world::ran;
use kiln_it::{World, wait};

use super::bundle;
use super::figure::{Figure, Goal, Limit, Samples, in_turns, took};
use crate::machine;

const N_RUNS: usize = 15;
/// Seconds each.
const N_PULLS: usize = 3;

const N_LAYERS: usize = 5;
/// Of each layer: what compresses like a program, and what does not at all.
const SOFT_BYTES: usize = 40_000_000;
const HARD_BYTES: usize = 60_000_000;

/// A daemon of the figures' own, which ends with them: another socket, other images, no bridge.
struct Dockerd {
    socket: PathBuf,
    child: Child,
}

impl Dockerd {
    /// `None` where none is installed, or only root could start it.
    fn start(world: &World) -> Result<Option<Self>> {
        if !machine::found("dockerd") || !machine::found("docker") || !machine::is_root() {
            return Ok(None);
        }
        let socket = world.at("docker.sock");
        let mut command = world.command("setpriv");
        // The pid namespace takes its containers along.
        command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--fork"]);
        command.args(["--kill-child", "--mount-proc", "dockerd", "--bridge", "none"]);
        command.args(["--iptables=false", "--ip-forward=false", "--storage-driver", "overlay2"]);
        for (flag, name) in
            [("--data-root", "docker"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(flag).arg(world.at(name));
        }
        command.arg("--host").arg(format!("unix://{}", socket.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("setpriv and unshare are part of util-linux")?;
        let mut said = BufReader::new(child.stderr.take().context("it is a pipe")?).lines();
        let mut words = String::new();
        loop {
            match said.next() {
                Some(Ok(line)) if line.contains("API listen on") => break,
                Some(Ok(line)) => words = line,
                _ => bail!("dockerd did not start: {words}"),
            }
        }
        std::thread::spawn(move || said.map_while(Result::ok).for_each(drop));
        Ok(Some(Self { socket, child }))
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn docker(&self, world: &World, args: &[&str]) -> Command {
        let mut command = world.command("docker");
        command.env("DOCKER_HOST", self.host()).args(args);
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `kiln run` of one job with `executor: docker`, and `docker run` of the same.
pub fn one_job() -> Result<Vec<Figure>> {
    let world = World::new();
    let figure = |samples, limit| Figure {
        name: "docker-job",
        unit: "ms",
        samples,
        limit,
        goal: Goal::AtMostTimes(1.15),
    };
    let Some(daemon) = Dockerd::start(&world)? else {
        let limit = Limit::Absent { why: "no dockerd, or not root" };
        return Ok(vec![figure(Samples::one(f64::NAN), limit)]);
    };
    let archive = world.at("tiny.tar");
    bundle::archive(&world, &archive)?;
    let mut load = daemon.docker(&world, &["load", "--quiet", "--input"]);
    ran(load.arg(&archive)).success();
    let job = "{ image: 'tiny:1', executor: docker, network: none, steps: [{ run: ['true'] }] }";
    let tree =
        world.repository_with("docker", &[(".kiln.yml", &format!("jobs: {{ a: {job} }}\n"))]);
    let ours = || {
        took(|| {
            ran(tree.kiln_command(["run"]).env("DOCKER_HOST", daemon.host())).success();
            Ok(())
        })
    };
    let theirs = || {
        took(|| {
            let args = ["run", "--rm", "--network", "none", "tiny:1", "true"];
            ran(&mut daemon.docker(&world, &args)).success();
            Ok(())
        })
    };
    let (samples, limit) = in_turns(2, N_RUNS, ours, theirs)?;
    Ok(vec![figure(samples, Limit::Measured { what: "docker run --rm", samples: limit })])
}

/// An image of 500 MB in five layers, from a registry on this machine, into empty stores.
pub fn pull() -> Result<Vec<Figure>> {
    let mut figure = Figure {
        name: "image-pull",
        unit: "ms",
        samples: Samples::one(f64::NAN),
        limit: Limit::Absent { why: "no docker-registry or no skopeo" },
        // 0.8 times the speed.
        goal: Goal::AtMostTimes(1.25),
    };
    if !machine::found("docker-registry") || !machine::found("skopeo") {
        return Ok(vec![figure]);
    }
    let world = World::new();
    let registry = Registry::start(&world)?;
    let archive = large(&world)?;
    let name = format!("{}/large:1", registry.host);
    let (from, to) = (format!("docker-archive:{}", archive.display()), format!("docker://{name}"));
    ran(world.command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", &from, &to]))
        .success();
    std::fs::remove_file(archive)?;
    let daemon = Dockerd::start(&world)?;
    let (mut ours, mut skopeo, mut docker) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=N_PULLS {
        let pulled = ours_once(&world, &name)?;
        let copied = skopeo_once(&world, &to)?;
        let by_docker =
            daemon.as_ref().map(|daemon| docker_once(&world, daemon, &name)).transpose()?;
        // The first reads what the disk has.
        if round > 0 {
            ours.push(pulled);
            skopeo.push(copied);
            docker.extend(by_docker);
        }
    }
    let (skopeo, docker) = (Samples::new(skopeo), Samples::new(docker));
    // `false` also when there is no daemon, whose median is no number.
    let by_docker = docker.median() < skopeo.median();
    let (what, samples) = if by_docker { ("docker pull", docker) } else { ("skopeo copy", skopeo) };
    figure.samples = Samples::new(ours);
    figure.limit = Limit::Measured { what, samples };
    Ok(vec![figure])
}

fn ours_once(world: &World, name: &str) -> Result<f64> {
    let data = world.data();
    let took = took(|| {
        world.kiln(world.path(), ["image", "pull", name]).success();
        Ok(())
    })?;
    // Layers may be write-protected as their image has them.
    ran(world.command("rm").arg("-rf").arg(data)).success();
    Ok(took)
}

fn skopeo_once(world: &World, from: &str) -> Result<f64> {
    let into = world.at("copied");
    let to = format!("oci:{}:1", into.display());
    let took = took(|| {
        let args = ["copy", "--quiet", "--src-tls-verify=false", from, &to];
        ran(world.command("skopeo").args(args)).success();
        Ok(())
    })?;
    std::fs::remove_dir_all(into)?;
    Ok(took)
}

fn docker_once(world: &World, daemon: &Dockerd, name: &str) -> Result<f64> {
    let took = took(|| {
        ran(&mut daemon.docker(world, &["pull", "--quiet", name])).success();
        Ok(())
    })?;
    ran(&mut daemon.docker(world, &["rmi", name])).success();
    Ok(took)
}

struct Registry {
    host: String,
    child: Child,
}

impl Registry {
    fn start(world: &World) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let (folder, file) = (world.at("registry"), world.at("registry.yml"));
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nhttp: {{ addr: \"{host}\" }}\n\
             storage: {{ filesystem: {{ rootdirectory: \"{}\" }} }}\n",
            folder.display()
        );
        std::fs::write(&file, config)?;
        let mut command = world.command("docker-registry");
        command.arg("serve").arg(file).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait::until("the registry listens", || TcpStream::connect(&host).ok());
        Ok(Self { host, child })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `docker save` would give of it.
fn large(world: &World) -> Result<PathBuf> {
    let scratch = world.at("large");
    let (mut layers, mut ids) = (Vec::new(), Vec::new());
    let mut random = fastrand::Rng::with_seed(5);
    for n in 0..N_LAYERS {
        let folder = scratch.join(format!("l{n}"));
        std::fs::create_dir_all(&folder)?;
        let mut bytes = vec![0; HARD_BYTES];
        random.fill(&mut bytes);
        std::fs::write(folder.join(format!("hard{n}")), &bytes)?;
        // Words of a short list, as text and code have.
        let words: Vec<String> =
            (0..400).map(|_| (0..6).map(|_| random.lowercase()).collect()).collect();
        let mut text = String::with_capacity(SOFT_BYTES + 8);
        while text.len() < SOFT_BYTES {
            text += &words[random.usize(..words.len())];
            text.push(' ');
        }
        std::fs::write(folder.join(format!("soft{n}")), text)?;
        let layer = format!("l{n}.tar");
        tar(world, &scratch, &["-cf", &layer, "-C", &format!("l{n}"), "."]);
        ids.push(format!("sha256:{}", bundle::sha256(world, &scratch, &layer)?));
        layers.push(layer);
        std::fs::remove_dir_all(folder)?;
    }
    bundle::describe(&scratch, "large:1", &layers, &ids)?;
    let mut args = vec!["-cf", "../large.tar", "manifest.json", "config.json"];
    args.extend(layers.iter().map(String::as_str));
    tar(world, &scratch, &args);
    std::fs::remove_dir_all(scratch)?;
    Ok(world.at("large.tar"))
}

fn tar(world: &World, folder: &Path, args: &[&str]) {
    ran(world.command("tar").args(args).current_dir(folder)).success();
}
