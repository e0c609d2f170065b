//! The environment of a job's steps: exact, nothing inherited.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_api::agent::Assignment;

use crate::named;

/// Variables of the machine that a job gets when they are set there: where programs are, who the
/// user is, how to reach the network, where tool chains live. Everything else is the manifest's
/// business, so that a job runs the same on a laptop and on a server.
pub const MACHINE: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOPATH",
    "GOROOT",
    "JAVA_HOME",
    "NVM_DIR",
    "PYENV_ROOT",
];

/// Without a `PATH` nothing is found; this one is what `getconf PATH` and a login as root give.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a job gets from its machine.
pub(crate) fn of_machine(machine: &[(String, String)]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    env.extend(machine.iter().cloned());
    env
}

/// Variables that the job of this machine was given besides [`MACHINE`]: by `kiln run --env`.
pub(crate) fn besides(machine: &[(String, String)]) -> impl Iterator<Item = (String, String)> {
    machine.iter().filter(|(name, _)| !MACHINE.contains(&name.as_str())).cloned()
}

pub(crate) fn of(
    assignment: &Assignment,
    machine: &[(String, String)],
    workspace: &Path,
    output: &Path,
) -> BTreeMap<String, String> {
    let mut env = of_machine(machine);
    let given = assignment.env.iter().filter(|(name, _)| named::is_given(&assignment.job, name));
    env.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    for (name, value) in &assignment.secrets {
        env.insert(name.clone(), value.expose().clone());
    }
    let own = [
        ("KILN_ATTEMPT", assignment.lease.attempt.to_string()),
        ("KILN_WORKSPACE", workspace.to_string_lossy().into_owned()),
        ("KILN_OUTPUT", output.to_string_lossy().into_owned()),
        ("PWD", workspace.to_string_lossy().into_owned()),
    ];
    env.extend(own.map(|(key, value)| (key.to_owned(), value)));
    env
}
