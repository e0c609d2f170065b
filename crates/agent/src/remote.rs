//! A job whose steps run on another machine, over ssh.
//!
//! Its workspace is made here like any other; the session takes it there and brings back what was
//! changed. What describes this machine has no business there: the steps get the far machine's own.

use kiln_api::agent::Assignment;
use kiln_executor::{Remote, SessionNetwork, SessionSpec};
use kiln_model::plan::Limits;

use crate::agent::AgentOptions;
use crate::environment::{self, MACHINE};
use crate::job::OUTPUT_FILE;

/// Sends the steps of a session to the job's host, if it names one.
pub(crate) fn send(assignment: &Assignment, options: &AgentOptions, spec: &mut SessionSpec) {
    let job = &assignment.job;
    let Some(host) = &job.ssh else { return };
    let besides: Vec<_> = environment::besides(&options.machine_env).collect();
    let has_path =
        assignment.env.contains_key("PATH") || besides.iter().any(|(name, _)| name == "PATH");
    let mut env = environment::of(assignment, &besides, &spec.directory, &spec.attempt_dir);
    let places = ["KILN_WORKSPACE", "PWD"].map(str::to_owned);
    let outputs = ["KILN_OUTPUT".to_owned()];
    for name in places.iter().chain(&outputs) {
        env.remove(name);
    }
    if !has_path {
        env.remove("PATH");
    }
    spec.env = env;
    spec.preface.push(format!("the steps run on `{host}`"));
    if !job.limits.is_none() {
        spec.preface.push(format!("the limits of the job do not reach to `{host}`"));
    }
    if !job.cache.is_empty() {
        spec.preface.push(format!("caches outside the workspace are not taken to `{host}`"));
    }
    spec.limits = Limits::default();
    spec.network = SessionNetwork::default();
    spec.sandbox = None;
    spec.remote = Some(Remote {
        host: host.clone(),
        config: options.ssh_config.clone(),
        machine_env: MACHINE.iter().map(|name| (*name).to_owned()).collect(),
        workspace_env: places.to_vec(),
        output_env: outputs.to_vec(),
        output_file: OUTPUT_FILE.to_owned(),
    });
}
