//! What jobs may have of the machine that they run on, and what they get when they ask for nothing.
//!
//! A manifest asks; the policy, which no repository can write, grants or refuses. What is granted is a job
//! without open wishes: an executor by name, a network, limits. So whoever runs it need not know the policy.
//!
//! Always: what is refused is refused with the name of the policy's key, before anything runs.

use std::collections::BTreeMap;

use crate::name::JobName;
use crate::pattern::Glob;
use crate::plan::{ExecutorKind, Job, Limits, Network, Plan, Pull, Service, Volume};

/// Where daemons that make containers as root listen. Who reaches one is root of the machine.
const DAEMON_SOCKETS: &[&str] = &[
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
];

/// What jobs may have, and what they get.
#[derive(Clone, Debug)]
pub struct JobPolicy {
    /// What is written for it in errors: `this server` or `kiln run`.
    pub whose: &'static str,
    /// Where it is written, if anywhere.
    pub file: Option<Box<PolicyFile>>,
    /// Never holds `Auto`.
    pub executors: Vec<ExecutorKind>,
    /// Which executor `auto` means for a job with an image: `Oci` or `Docker`.
    pub containers: ExecutorKind,
    /// Images in full, with or without their tag, as in `docker.io/library/*`. Of services, too.
    pub images: Vec<Glob>,
    pub pull: Pull,
    pub privileged: bool,
    /// What of the machine may be seen in containers.
    pub mounts: Vec<Opened>,
    /// The sockets of Docker and its like may be.
    pub docker_socket: bool,
    /// Where the daemon of this machine listens, if not where daemons usually do.
    pub daemon_socket: Option<String>,
    /// Images of this machine's Docker daemon may be used.
    pub daemon_images: bool,
    /// Hosts of `ssh`, as they are written.
    pub ssh: Vec<Glob>,
    pub networks: Vec<Network>,
    /// Of a job that says nothing and is apart from the machine.
    pub network: Network,
    /// Whether a job that says nothing of its network, and would have one with a way out, is in the
    /// machine's where nothing gives one. Its log says so then.
    pub or_machines_network: bool,
    pub sandbox: Sandbox,
    /// Where a job says nothing.
    pub limits: Limits,
    /// What it may say at most, and gets when nothing else is said.
    pub limits_max: Limits,
}

/// Whether jobs on the host are apart from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// All of them; `sandbox: false` is refused.
    Always,
    /// Unless the job says `sandbox: false`.
    Default,
    /// When the job says `sandbox: true`, or wants another network than the machine's.
    Wished,
}

/// A folder or file of the machine that containers may see, with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Absolute, without `.` and `..`.
    pub path: String,
    pub read_only: bool,
}

/// The file that a policy is changed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFile {
    pub path: String,
    /// Of the keys that it has, from 1.
    pub lines: BTreeMap<String, u32>,
}

impl PolicyFile {
    fn place(&self, key: &str) -> String {
        match self.lines.get(key) {
            Some(line) => format!(" (`{}:{line}`)", self.path),
            None => format!(" (`[jobs]` of `{}`)", self.path),
        }
    }
}

/// Why a job does not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("job `{job}` asks for {what}, which {whose} does not allow ({key}); {way}")]
pub struct Denied {
    pub job: JobName,
    pub what: String,
    pub whose: &'static str,
    /// What would have to be written, such as `[jobs] privileged`.
    pub key: &'static str,
    /// What to do about it, and where the policy is written.
    pub way: String,
}

impl JobPolicy {
    /// Of a server: what comes with a push is a stranger's.
    pub fn of_server() -> Self {
        Self {
            whose: "this server",
            file: None,
            executors: vec![
                ExecutorKind::Host,
                ExecutorKind::Oci,
                ExecutorKind::Docker,
                ExecutorKind::Ssh,
            ],
            containers: ExecutorKind::Oci,
            images: vec![Glob::new("**").expect("it is a pattern")],
            pull: Pull::Missing,
            privileged: false,
            mounts: Vec::new(),
            docker_socket: false,
            daemon_socket: None,
            daemon_images: false,
            ssh: Vec::new(),
            networks: vec![Network::None, Network::Internet],
            network: Network::Internet,
            or_machines_network: true,
            sandbox: Sandbox::Default,
            limits: Limits::default(),
            limits_max: Limits::default(),
        }
    }

    /// Of `kiln run`: what a person runs on their own machine may do what they may. Only what would make
    /// it more than that, root of the machine, needs their word.
    pub fn of_laptop() -> Self {
        let all = || vec![Glob::new("**").expect("it is a pattern")];
        Self {
            whose: "`kiln run`",
            mounts: vec![Opened { path: "/".to_owned(), read_only: false }],
            ssh: all(),
            daemon_images: true,
            networks: vec![Network::None, Network::Internet, Network::Host],
            sandbox: Sandbox::Wished,
            ..Self::of_server()
        }
    }

    /// The job as it will run, every wish granted or filled in.
    pub fn grant(&self, job: &Job) -> Result<Job, Denied> {
        let executor = self.executor(job)?;
        self.check_images(job)?;
        self.check_ssh(job)?;
        if job.privileged && !self.privileged {
            return Err(self.denied(job, "`privileged`", "privileged", "remove it, or allow it"));
        }
        let volumes = job.volumes.iter().map(|volume| self.volume(job, volume));
        let volumes = volumes.collect::<Result<_, _>>()?;
        let sandbox = self.sandbox(job, executor)?;
        // Beside services it is in their network, unless both are in the machine's.
        let served = !job.services.is_empty() && job.network != Some(Network::Host);
        let apart = sandbox || served || executor != ExecutorKind::Host;
        let network = self.network(job, apart && executor != ExecutorKind::Ssh)?;
        let limits = self.limits(job, job.limits, "limits")?;
        let service = |(name, service): (&String, &Service)| {
            let limits = self.limits(job, service.limits, &format!("services.{name}.limits"))?;
            Ok((name.clone(), Service { limits, ..service.clone() }))
        };
        let services = job.services.iter().map(service).collect::<Result<_, _>>()?;
        let image = job.image.as_ref();
        Ok(Job {
            executor,
            pull: image.map(|_| job.pull.unwrap_or(self.pull)),
            network,
            limits,
            sandbox: Some(sandbox),
            volumes,
            services,
            ..job.clone()
        })
    }

    /// Whether all jobs of a plan get what they ask for; why not, one line for each that does not.
    pub fn check(&self, plan: &Plan) -> Result<(), String> {
        let denied = |job| self.grant(job).err().map(|denied| denied.to_string());
        let words: Vec<String> = plan.jobs.iter().filter_map(denied).collect();
        if words.is_empty() { Ok(()) } else { Err(words.join("\n")) }
    }

    fn executor(&self, job: &Job) -> Result<ExecutorKind, Denied> {
        let kind = match (job.executor, &job.ssh, &job.image) {
            (ExecutorKind::Auto, Some(_), _) => ExecutorKind::Ssh,
            (ExecutorKind::Auto, None, Some(_)) => self.containers,
            (ExecutorKind::Auto, None, None) => ExecutorKind::Host,
            (asked, ..) => asked,
        };
        if self.executors.contains(&kind) {
            return Ok(kind);
        }
        let allowed: Vec<&str> = self.executors.iter().map(|kind| kind.as_str()).collect();
        let way = match kind {
            ExecutorKind::Host if self.executors.contains(&self.containers) => {
                "give it an `image`".to_owned()
            }
            _ => format!("allowed are: {}", allowed.join(", ")),
        };
        Err(self.denied(job, format!("the executor `{}`", kind.as_str()), "executors", way))
    }

    fn check_images(&self, job: &Job) -> Result<(), Denied> {
        let of_services = job.services.values().map(|service| &service.image);
        for image in job.image.iter().chain(of_services) {
            let (name, full) = names_of(image);
            // What lies there was put there by others, and perhaps not for everybody.
            if full.starts_with("docker-daemon:") && !self.daemon_images {
                let what = format!("the image `{full}` of a Docker daemon");
                return Err(self.denied(job, what, "daemon_images", "remove it, or allow it"));
            }
            if !self.images.iter().any(|glob| glob.is_match(&name) || glob.is_match(&full)) {
                let patterns: Vec<&str> = self.images.iter().map(Glob::as_str).collect();
                let way = match patterns.is_empty() {
                    true => "no image is".to_owned(),
                    false => format!("allowed are: {}", patterns.join(", ")),
                };
                return Err(self.denied(job, format!("the image `{full}`"), "images", way));
            }
        }
        Ok(())
    }

    fn check_ssh(&self, job: &Job) -> Result<(), Denied> {
        let Some(host) = &job.ssh else { return Ok(()) };
        match self.ssh.iter().any(|glob| glob.is_match(host)) {
            true => Ok(()),
            false => {
                let what = format!("the host `{host}` over SSH");
                Err(self.denied(job, what, "ssh", format!("add `{host}` to it")))
            }
        }
    }

    /// The volume, which must lie in what is opened wherever links lead.
    fn volume(&self, job: &Job, volume: &Volume) -> Result<Volume, Denied> {
        let from = &volume.from;
        let usual = DAEMON_SOCKETS.iter().copied();
        let mut sockets = usual.chain(self.daemon_socket.as_deref());
        if let Some(socket) = sockets.find(|socket| contains(from, socket)) {
            let is_socket = from == socket;
            if !self.docker_socket {
                let what = match is_socket {
                    true => format!("the socket `{socket}`, which makes it root of the machine"),
                    false => format!("the volume `{from}`, in which `{socket}` lies"),
                };
                return Err(self.denied(job, what, "docker_socket", "remove it, or allow it"));
            }
            if is_socket {
                return Ok(Volume { within: Some(from.clone()), ..volume.clone() });
            }
        }
        let fits = |opened: &&Opened| contains(&opened.path, from);
        // The narrowest that may be written, or else the narrowest.
        let best = self.mounts.iter().filter(fits).max_by_key(|o| (!o.read_only, o.path.len()));
        match best {
            Some(opened) if !opened.read_only || volume.read_only => {
                Ok(Volume { within: Some(opened.path.clone()), ..volume.clone() })
            }
            Some(opened) => {
                let what = format!("the volume `{from}` for writing");
                let way = format!("`{}` may only be read: end the volume with `:ro`", opened.path);
                Err(self.denied(job, what, "mounts", way))
            }
            None => {
                let what = format!("the volume `{from}`");
                let way = format!("add `{from}` to it, or a folder above it");
                Err(self.denied(job, what, "mounts", way))
            }
        }
    }

    fn sandbox(&self, job: &Job, executor: ExecutorKind) -> Result<bool, Denied> {
        if executor != ExecutorKind::Host {
            return Ok(false);
        }
        let apart = job.network.is_some_and(|network| network != Network::Host);
        match (self.sandbox, job.sandbox) {
            (Sandbox::Always, Some(false)) => {
                let way = "remove it, or allow it with `sandbox = \"default\"`";
                Err(self.denied(job, "`sandbox: false`", "sandbox", way))
            }
            (Sandbox::Always, _) => Ok(true),
            (Sandbox::Default, wish) => Ok(wish.unwrap_or(true)),
            (Sandbox::Wished, wish) => Ok(wish.unwrap_or(apart)),
        }
    }

    /// `None`: one with a way out, or the machine's where there is nothing that gives one.
    fn network(&self, job: &Job, apart: bool) -> Result<Option<Network>, Denied> {
        if !apart {
            return Ok(Some(Network::Host));
        }
        let network = job.network.unwrap_or(self.network);
        if job.network.is_none() && network == Network::Internet && self.or_machines_network {
            return Ok(None);
        }
        if self.networks.contains(&network) {
            return Ok(Some(network));
        }
        let allowed: Vec<&str> = self.networks.iter().map(|network| network.as_str()).collect();
        let what = format!("the network `{}`", network.as_str());
        let way = match allowed.is_empty() {
            true => "no network is".to_owned(),
            false => format!("allowed are: {}", allowed.join(", ")),
        };
        Err(self.denied(job, what, "networks", way))
    }

    /// Of a job or of one of its services, for each of which they hold apart; `key` is where they are written.
    fn limits(&self, job: &Job, asked: Limits, key: &str) -> Result<Limits, Denied> {
        let max = self.limits_max;
        let over = |asked: Option<u64>, max: Option<u64>| {
            asked.zip(max).filter(|(asked, max)| asked > max).map(|(_, max)| max)
        };
        let cpu = over(asked.cpu_millis.map(u64::from), max.cpu_millis.map(u64::from));
        let memory = over(asked.memory, max.memory);
        let pids = over(asked.pids.map(u64::from), max.pids.map(u64::from));
        let refused = match (cpu, memory, pids) {
            (Some(max), _, _) => Some(("cpu", format!("{}", max as f64 / 1000.0))),
            (_, Some(max), _) => Some(("memory", kiln_stdx::bytes::show(max))),
            (_, _, Some(max)) => Some(("pids", max.to_string())),
            _ => None,
        };
        match refused {
            Some((what, max)) => {
                let what = format!("more `{key}.{what}` than there may be");
                Err(self.denied(job, what, "limits_max", format!("{max} is the most")))
            }
            None => Ok(asked.or(self.limits).or(max).at_most(max)),
        }
    }

    fn denied(
        &self,
        job: &Job,
        what: impl Into<String>,
        key: &'static str,
        way: impl Into<String>,
    ) -> Denied {
        let (job, whose) = (job.name.clone(), self.whose);
        let place = self.file.as_ref().map(|file| file.place(key)).unwrap_or_default();
        Denied { job, what: what.into(), whose, key, way: way.into() + &place }
    }
}

/// An image's name in full, without its tag and digest, and with them.
fn names_of(written: &str) -> (String, String) {
    if ["oci:", "docker-archive:", "docker-daemon:"].iter().any(|kind| written.starts_with(kind)) {
        return (written.to_owned(), written.to_owned());
    }
    let full = match written.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => match host {
            "index.docker.io" | "registry-1.docker.io" | "docker.io" => of_the_hub(rest),
            _ => written.to_owned(),
        },
        _ => of_the_hub(written),
    };
    let end = full.find('@').unwrap_or(full.len());
    let last = full[..end].rfind('/').map_or(0, |slash| slash + 1);
    let end = full[last..end].find(':').map_or(end, |colon| last + colon);
    (full[..end].to_owned(), full)
}

fn of_the_hub(rest: &str) -> String {
    match rest.contains('/') {
        true => format!("docker.io/{rest}"),
        false => format!("docker.io/library/{rest}"),
    }
}

/// Whether `inner` is `outer` or lies in it. Both are absolute and plain.
fn contains(outer: &str, inner: &str) -> bool {
    let rest = inner.strip_prefix(outer.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(change: impl FnOnce(&mut Job)) -> Job {
        let mut job = Job::sample("build", "make");
        change(&mut job);
        job
    }

    fn refusal(policy: &JobPolicy, change: impl FnOnce(&mut Job)) -> String {
        match policy.grant(&job(change)) {
            Ok(granted) => format!("granted: {granted:?}"),
            Err(denied) => format!("{}: {denied}", denied.key),
        }
    }

    fn volume(from: &str, read_only: bool) -> Vec<Volume> {
        vec![Volume { from: from.into(), to: "/in".into(), read_only, within: None }]
    }

    #[test]
    fn what_nobody_allows_is_refused_with_the_name_of_the_key() {
        let policy = JobPolicy {
            images: vec![Glob::new("docker.io/library/*").unwrap()],
            executors: vec![ExecutorKind::Oci, ExecutorKind::Ssh],
            limits_max: Limits { memory: Some(1_000_000_000), ..Limits::default() },
            ..JobPolicy::of_server()
        };
        let image = |job: &mut Job| job.image = Some("rust".into());
        type Change = Box<dyn FnOnce(&mut Job)>;
        let cases: Vec<(&str, Change)> = vec![
            ("executors", Box::new(|_| {})),
            ("images", Box::new(|job| job.image = Some("ghcr.io/evil/x".into()))),
            ("images", Box::new(|job| job.image = Some("docker.io/evil/x".into()))),
            ("images", Box::new(|job| job.image = Some("oci:x".into()))),
            (
                "executors",
                Box::new(|job| {
                    job.image = Some("rust".into());
                    job.executor = ExecutorKind::Docker;
                }),
            ),
            (
                "images",
                Box::new(move |job| {
                    image(job);
                    let service = serde_json::json!({ "image": "evil/db" });
                    let service = serde_json::from_value(service).unwrap();
                    job.services.insert("db".into(), service);
                }),
            ),
            (
                "privileged",
                Box::new(move |job| {
                    image(job);
                    job.privileged = true;
                }),
            ),
            (
                "mounts",
                Box::new(move |job| {
                    image(job);
                    job.volumes = volume("/etc", true);
                }),
            ),
            (
                "docker_socket",
                Box::new(move |job| {
                    image(job);
                    job.volumes = volume("/run", true);
                }),
            ),
            (
                "networks",
                Box::new(move |job| {
                    image(job);
                    job.network = Some(Network::Host);
                }),
            ),
            (
                "limits_max",
                Box::new(move |job| {
                    image(job);
                    job.limits.memory = Some(2_000_000_000);
                }),
            ),
            ("ssh", Box::new(|job| job.ssh = Some("root@example.org".into()))),
        ];
        for (key, change) in cases {
            let words = refusal(&policy, change);
            let begins = format!("{key}: job `build` asks for ");
            assert!(words.starts_with(&begins), "{key}: {words}");
            assert!(words.contains(&format!("this server does not allow ({key})")), "{words}");
        }
    }

    #[test]
    fn a_volume_lies_in_what_was_opened_for_it() {
        let opened = |path: &str, read_only| Opened { path: path.into(), read_only };
        let policy = JobPolicy {
            mounts: vec![opened("/srv", true), opened("/srv/out", false)],
            ..JobPolicy::of_server()
        };
        let grant = |from: &str, read_only| {
            let asked = job(|job| {
                job.image = Some("rust".into());
                job.volumes = volume(from, read_only);
            });
            policy.grant(&asked).map(|job| job.volumes[0].within.clone().unwrap())
        };
        assert_eq!(grant("/srv/data", true).unwrap(), "/srv");
        assert_eq!(grant("/srv/out/x", false).unwrap(), "/srv/out");
        assert!(grant("/srv/data", false).unwrap_err().way.contains(":ro"));
        for outside in ["/srvx", "/", "/etc"] {
            assert!(grant(outside, true).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_granted_job_has_no_open_wish() {
        let policy = JobPolicy {
            limits: Limits { memory: Some(7), ..Limits::default() },
            limits_max: Limits { pids: Some(100), ..Limits::default() },
            ..JobPolicy::of_server()
        };
        let granted = policy.grant(&job(|job| job.image = Some("rust:1.90".into()))).unwrap();
        assert_eq!(granted.executor, ExecutorKind::Oci);
        assert_eq!(granted.network, None, "the machine's own is not ruled out");
        let strict = JobPolicy { or_machines_network: false, ..policy.clone() };
        let granted_strictly = strict.grant(&job(|job| job.image = Some("rust".into()))).unwrap();
        assert_eq!(granted_strictly.network, Some(Network::Internet));
        let served = |network| {
            let asked = job(|job| {
                job.services.insert("db".into(), Service::of("postgres:17"));
                (job.sandbox, job.network) = (Some(false), network);
            });
            strict.grant(&asked).unwrap().network
        };
        assert_eq!(served(None), Some(Network::Internet), "a job is where its services are");
        assert_eq!(served(Some(Network::Host)), Some(Network::Host));
        assert_eq!((granted.pull, granted.sandbox), (Some(Pull::Missing), Some(false)));
        let limits = Limits { cpu_millis: None, memory: Some(7), pids: Some(100) };
        assert_eq!(granted.limits, limits);
        let on_host = policy.grant(&job(|_| {})).unwrap();
        assert_eq!((on_host.executor, on_host.sandbox), (ExecutorKind::Host, Some(true)));
        assert_eq!(on_host.network, None);
        let open = policy.grant(&job(|job| job.sandbox = Some(false))).unwrap();
        assert_eq!((open.sandbox, open.network), (Some(false), Some(Network::Host)));
    }

    #[test]
    fn a_laptop_grants_what_its_user_may_and_asks_before_root() {
        let daemon_socket = Some("/srv/docker/d.sock".to_owned());
        let laptop = JobPolicy { daemon_socket, ..JobPolicy::of_laptop() };
        let plain = laptop.grant(&job(|_| {})).unwrap();
        assert_eq!((plain.sandbox, plain.network), (Some(false), Some(Network::Host)));
        let apart = laptop.grant(&job(|job| job.network = Some(Network::None))).unwrap();
        assert_eq!((apart.sandbox, apart.network), (Some(true), Some(Network::None)));
        let in_image = |from: &str| {
            let asked = job(|job| {
                job.image = Some("rust".into());
                job.volumes = volume(from, false);
            });
            laptop.grant(&asked)
        };
        assert!(in_image("/home/me").is_ok());
        for socket in ["/var/run/docker.sock", "/run", "/srv/docker/d.sock", "/srv/docker", "/"] {
            assert_eq!(in_image(socket).unwrap_err().key, "docker_socket", "{socket}");
        }
    }

    #[test]
    fn a_plan_is_refused_with_every_job_that_wants_too_much() {
        let job = |name: &str| Job {
            image: Some("rust".into()),
            privileged: true,
            ..Job::sample(name, "make")
        };
        let plan = Plan {
            version: 1,
            manifest: ".kiln.yml".into(),
            inputs: std::collections::BTreeMap::new(),
            jobs: vec![job("a"), Job::sample("b", "make"), job("c")],
        };
        let words = JobPolicy::of_server().check(&plan).unwrap_err();
        assert_eq!(words.lines().count(), 2, "{words}");
        assert!(words.starts_with("job `a` asks for `privileged`"), "{words}");
    }

    #[test]
    fn images_are_compared_by_their_whole_names() {
        for (written, name, full) in [
            ("rust", "docker.io/library/rust", "docker.io/library/rust"),
            ("docker.io/rust:1", "docker.io/library/rust", "docker.io/library/rust:1"),
            ("index.docker.io/a/b:1", "docker.io/a/b", "docker.io/a/b:1"),
            ("localhost:5000/x:1", "localhost:5000/x", "localhost:5000/x:1"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b", "ghcr.io/a/b@sha256:00"),
            ("oci:a/b:c", "oci:a/b:c", "oci:a/b:c"),
        ] {
            assert_eq!(names_of(written), (name.to_owned(), full.to_owned()), "{written}");
        }
    }
}
