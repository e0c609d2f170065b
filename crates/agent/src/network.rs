//! Which network a job has: what it asks for, as far as this machine can give it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use kiln_executor::{Reach, SessionNetwork};
use kiln_model::plan::{ExecutorKind, Job, Network};

/// Programs that give a network of its own a way out, the better one first.
pub const STACKS: [&str; 2] = ["pasta", "slirp4netns"];

/// How to get one.
pub const INSTALL: &str = "install `pasta` (package passt) or `slirp4netns`";

/// The network of a job, and what the log should say of it.
///
/// # Errors
///
/// When the job asks for one that this machine does not have. Never less apart than was asked for.
pub(crate) fn of(
    job: &Job,
    machine_env: &[(String, String)],
) -> Result<(SessionNetwork, Option<String>), String> {
    let names = names(job).collect();
    let network = |reach| SessionNetwork { reach, names };
    if job.executor == ExecutorKind::Docker {
        // The daemon gives it, and needs no program of ours.
        return Ok(match job.network {
            Some(Network::None) => (network(Reach::None), None),
            Some(Network::Host) => (network(Reach::Host), None),
            Some(Network::Internet) | None => (network(Reach::Bridge), None),
        });
    }
    match (job.network, stack(machine_env)) {
        (Some(Network::None), _) => Ok((network(Reach::None), None)),
        (Some(Network::Host), _) => Ok((network(Reach::Host), None)),
        (None, _) if is_machines(job) => Ok((network(Reach::Host), None)),
        (Some(Network::Internet) | None, Some(through)) => {
            Ok((network(Reach::Internet { through }), None))
        }
        (Some(Network::Internet), None) => Err(format!(
            "the job asks for `network: internet`, and this machine has no program for that: {INSTALL}"
        )),
        (None, None) if !job.services.is_empty() => Err(format!(
            "the job's services need a network of its own, and this machine has no program that gives it a \
             way out: {INSTALL}, or give the job `network: none` or `network: host`"
        )),
        (None, None) => {
            let remark =
                format!("the job shares the machine's own network; for one of its own, {INSTALL}");
            Ok((network(Reach::Host), Some(remark)))
        }
    }
}

/// The network that [`of`] gives, in a word. `None`: that of the far machine.
pub(crate) fn reached(job: &Job, machine_env: &[(String, String)]) -> Option<Network> {
    match job.network {
        _ if job.ssh.is_some() => None,
        Some(network) => Some(network),
        None if job.executor == ExecutorKind::Docker => Some(Network::Internet),
        None if is_machines(job) || stack(machine_env).is_none() => Some(Network::Host),
        None => Some(Network::Internet),
    }
}

/// Whether a job is to be in the machine's network, and has no names of its own in it.
pub(crate) fn is_machines(job: &Job) -> bool {
    let is_apart = job.image.is_some() || job.sandbox == Some(true);
    job.services.is_empty()
        && match job.network {
            Some(network) => network == Network::Host && job.image.is_none(),
            None => !is_apart,
        }
}

/// The program for `network: internet`, if there is one.
pub fn stack(machine_env: &[(String, String)]) -> Option<PathBuf> {
    let (_, path) = machine_env.iter().find(|(name, _)| name == "PATH")?;
    let folders: Vec<PathBuf> =
        std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect();
    let find = |name: &str| folders.iter().map(|at| at.join(name)).find(|file| file.is_file());
    STACKS.into_iter().find_map(find)
}

/// The services' names. Each has a loopback address of its own, which the machine's name (127.0.1.1)
/// and `localhost` are not, so that services that are told where to listen may have the same port.
fn names(job: &Job) -> impl Iterator<Item = (String, Ipv4Addr)> {
    const FIRST: u32 = u32::from_be_bytes([127, 0, 2, 1]);
    job.services.keys().cloned().zip((FIRST..).map(Ipv4Addr::from))
}

#[cfg(test)]
mod tests {
    use kiln_model::plan::Service;

    use super::*;

    fn job(image: bool, services: &[&str], network: Option<Network>) -> Job {
        let mut job = Job::sample("j", "true");
        job.image = image.then(|| "debian:13".to_owned());
        let services = services.iter().map(|name| ((*name).to_owned(), Service::of("postgres:17")));
        job.services = services.collect();
        job.network = network;
        job
    }

    fn machine(with: bool) -> (tempfile::TempDir, Vec<(String, String)>) {
        let folder = tempfile::tempdir().unwrap();
        if with {
            std::fs::write(folder.path().join("pasta"), "").unwrap();
        }
        let path = folder.path().to_string_lossy().into_owned();
        (folder, vec![("PATH".to_owned(), path)])
    }

    #[test]
    fn a_job_is_apart_when_it_has_an_image_or_services_and_otherwise_when_it_asks() {
        let (_folder, machine) = machine(true);
        let apart = |image, services: &[&str], network| {
            let (network, remark) = of(&job(image, services, network), &machine).unwrap();
            assert_eq!(remark, None);
            network.reach
        };
        let out = |reach: Reach| matches!(reach, Reach::Internet { through } if through.ends_with("pasta"));
        assert_eq!(apart(false, &[], None), Reach::Host);
        assert!(out(apart(true, &[], None)));
        assert!(out(apart(false, &["db"], None)));
        assert!(out(apart(false, &[], Some(Network::Internet))));
        assert_eq!(apart(true, &["db"], Some(Network::None)), Reach::None);
        assert_eq!(apart(true, &["db"], Some(Network::Host)), Reach::Host);
    }

    #[test]
    fn a_daemon_gives_its_containers_a_network_without_a_program_of_ours() {
        let (_folder, machine) = machine(false);
        let reach = |network| {
            let mut job = job(true, &["db"], network);
            job.executor = ExecutorKind::Docker;
            let (network, remark) = of(&job, &machine).unwrap();
            assert_eq!((remark, network.names.len()), (None, 1));
            network.reach
        };
        assert_eq!(reach(None), Reach::Bridge);
        assert_eq!(reach(Some(Network::Internet)), Reach::Bridge);
        assert_eq!(reach(Some(Network::None)), Reach::None);
        assert_eq!(reach(Some(Network::Host)), Reach::Host);
    }

    #[test]
    fn each_service_has_an_address() {
        let (_folder, machine) = machine(true);
        let (network, _) = of(&job(false, &["db", "cache"], None), &machine).unwrap();
        let address = |last| Ipv4Addr::new(127, 0, 2, last);
        assert_eq!(network.names, [("cache".into(), address(1)), ("db".into(), address(2))]);
    }
}
