//! Every bound in one place. A bound that users can meet is named in the error they then get.

use std::time::Duration;

/// Largest manifest file. Ten times what the largest known pipelines weigh.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// Most jobs in one plan, after matrices are multiplied out.
pub const PLAN_JOBS_MAX: usize = 10_000;
/// Most text in one plan: a matrix repeats the scripts of its job.
pub const PLAN_BYTES_MAX: usize = 64 << 20;
/// Most steps in one job.
pub const JOB_STEPS_MAX: usize = 1_000;
/// Longest command of one step. Linux passes at most 128 KiB in one argument.
pub const COMMAND_BYTES_MAX: usize = 100 << 10;
/// Most paths that one job may keep in `cache`: each outside the workspace is a mount.
pub const JOB_CACHES_MAX: usize = 50;
/// Most paths of the machine that one job may see in its container.
pub const JOB_VOLUMES_MAX: usize = 50;
/// As long as a path can be for the kernel.
pub const VOLUME_PATH_BYTES_MAX: usize = 4 << 10;
/// Longest path of a cache: the kernel's own bound is 4096 with the folder it lies in.
pub const CACHE_PATH_BYTES_MAX: usize = 1 << 10;
/// Most values that one attempt may give as outputs, and their size together.
pub const OUTPUTS_MAX: usize = 256;
pub const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Files that match the `inputs` of one job. More, and its result has no key.
pub const INPUT_FILES_MAX: usize = 200_000;
/// Most attempts that `retry` may ask for.
pub const ATTEMPTS_MAX: u32 = 10;

/// How long a job may run when nothing says otherwise.
pub const JOB_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// How long a service may take until it is ready when nothing says otherwise. Databases that make
/// their files anew take ten seconds or more on a small machine.
pub const SERVICE_READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between TERM and KILL.
pub const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long an agent may be silent before its lease lapses. Renewals come every 15 s: two may be
/// lost, the third must arrive.
pub const LEASE_FOR: Duration = Duration::from_secs(60);
pub const RENEW_EVERY: Duration = Duration::from_secs(15);
/// How long a started attempt may stay without its agent before it is lost. Longer than a restart
/// of either side, shorter than the patience of the person who waits.
pub const DISCONNECT_GRACE: Duration = Duration::from_secs(300);
