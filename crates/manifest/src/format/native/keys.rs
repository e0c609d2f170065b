//! Every key of the format, its shape and what it does.

use kiln_model::limit::ATTEMPTS_MAX;

use super::shape::{Key, Keys, Shape};

const fn key(name: &'static str, shape: &'static Shape, about: &'static str) -> Key {
    Key { name, shape, required: false, about }
}

const fn required(name: &'static str, shape: &'static Shape, about: &'static str) -> Key {
    Key { name, shape, required: true, about }
}

const fn keys(what: &'static str, keys: &'static [Key]) -> Keys {
    Keys { what, keys, foreign: &[], ignored_prefix: None, others: None }
}

pub static MANIFEST: Shape = Shape::Map(&Keys {
    foreign: &[
        ("stages", "the order of jobs comes from their `needs`"),
        ("variables", "write `env`"),
        ("name", "a pipeline is named after its project"),
        ("steps", "steps belong to a job: `jobs: { build: { steps: […] } }`"),
        ("workflow", "write `on`"),
        ("pipeline", "write `jobs`"),
        ("default", "repeat parts with an anchor and `<<: *name`; `x-…` keys are ignored"),
        ("defaults", "repeat parts with an anchor and `<<: *name`; `x-…` keys are ignored"),
    ],
    ignored_prefix: Some("x-"),
    ..keys(
        "the manifest",
        &[
            key("on", &ON, "What starts a run. Default: every push, tag and pull request."),
            key("env", &ENV, "Environment variables of every step."),
            required("jobs", &JOBS, "The jobs, by name; at least one."),
        ],
    )
});

static JOBS: Shape = Shape::Filled(&Shape::Each("a job's name", &Shape::Map(&JOB)));
static ENV: Shape = Shape::Each("a variable", &Shape::Scalar);
static TEXT: Shape = Shape::Text("a text");
static NAME: Shape = Shape::Text("a name");
static COMMAND: Shape = Shape::Text("a command");
static PATH: Shape = Shape::Text("a path");
static PATTERN: Shape = Shape::Text("a pattern");
static NAMES: Shape = Shape::Many(&NAME);
static PATTERNS: Shape = Shape::Many(&PATTERN);
static SHELL: Shape = Shape::Words("a shell", &["sh", "bash"]);

static ON: Shape = Shape::Either(&[Shape::Map(&TRIGGERS), Shape::Many(&TRIGGER)]);
static TRIGGER: Shape = Shape::Words("a trigger", TRIGGER_WORDS);
pub static TRIGGER_WORDS: &[&str] = &["push", "pull_request", "tag", "manual"];

static TRIGGERS: Keys = Keys {
    foreign: &[
        ("pull-request", "write `pull_request`"),
        ("merge_request", "write `pull_request`"),
        ("workflow_dispatch", "write `manual`"),
        ("cron", "write `schedule: { cron: \"0 4 * * *\" }`"),
        ("branches", "write `push: { branches: […] }`"),
        ("tags", "write `tag: [\"v*\"]`"),
        ("release", "write `tag: [\"v*\"]`"),
    ],
    ..keys(
        "`on`",
        &[
            key("push", &PUSH, "A branch moved or appeared."),
            key("pull_request", &PULL_REQUEST, "A pull request was opened or changed."),
            key("tag", &TAG, "A tag appeared or moved; patterns of its name."),
            key("schedule", &SCHEDULE, "At certain times. Has no effect yet in this version."),
            key("manual", &MANUAL, "A person starts it; always possible."),
        ],
    )
};

static PUSH: Shape = Shape::Either(&[
    Shape::Nothing,
    Shape::Bool,
    Shape::Map(&Keys {
        foreign: &[
            ("tags", "a tag is a trigger of its own: `on: { tag: [\"v*\"] }`"),
            ("branches-ignore", "write patterns with `!`, as in `branches: [\"!dependabot/**\"]`"),
            ("paths-ignore", "write patterns with `!`, as in `paths: [\"!docs/**\"]`"),
            ("branches_ignore", "write patterns with `!`, as in `branches: [\"!dependabot/**\"]`"),
            ("paths_ignore", "write patterns with `!`, as in `paths: [\"!docs/**\"]`"),
            ("branch", "write `branches`"),
        ],
        ..keys(
            "`push`",
            &[
                key("branches", &PATTERNS, "Patterns of branches; `!` excludes."),
                key("paths", &PATTERNS, "Patterns of changed paths; `!` excludes."),
            ],
        )
    }),
]);

static PULL_REQUEST: Shape = Shape::Either(&[
    Shape::Nothing,
    Shape::Bool,
    Shape::Map(&keys(
        "`pull_request`",
        &[
            key("branches", &PATTERNS, "Patterns of the branch to merge into; `!` excludes."),
            key("paths", &PATTERNS, "Patterns of changed paths; `!` excludes."),
        ],
    )),
]);

static TAG: Shape = Shape::Either(&[
    Shape::Nothing,
    Shape::Bool,
    Shape::Map(&keys(
        "`tag`",
        &[key("names", &PATTERNS, "Patterns of the tag's name; `!` excludes.")],
    )),
    Shape::Many(&PATTERN),
]);

static SCHEDULE: Shape = Shape::Many(&Shape::Map(&keys(
    "`schedule`",
    &[
        required("cron", &Shape::Text("five fields as in crontab"), "As in crontab: `0 4 * * *`."),
        key("timezone", &NAME, "As in `Europe/Oslo`; default UTC."),
    ],
)));

static MANUAL: Shape = Shape::Either(&[
    Shape::Nothing,
    Shape::Bool,
    Shape::Map(&keys(
        "`manual`",
        &[key("inputs", &INPUTS, "Values that a person gives when starting a run.")],
    )),
]);

static INPUTS: Shape = Shape::Each(
    "an input",
    &Shape::Either(&[
        Shape::Nothing,
        Shape::Map(&keys(
            "an input",
            &[
                key(
                    "type",
                    &Shape::Words("a type", &["text", "choice", "boolean", "number"]),
                    "Default: text, or choice when there are options.",
                ),
                key("options", &Shape::List(&Shape::Scalar), "What a choice can be."),
                key("default", &Shape::Scalar, "The value when none is given."),
                key("required", &Shape::Bool, "A run by hand must give it."),
                key("description", &TEXT, "Shown beside the input."),
            ],
        )),
    ]),
);

static JOB: Keys = Keys {
    foreign: &[
        ("script", "write `steps`"),
        ("run", "write `steps`"),
        ("commands", "write `steps`"),
        ("command", "write `steps`"),
        ("before_script", "write it as the first of the `steps`"),
        ("after_script", "write it as the last of the `steps`, with `always: true`"),
        ("stage", "the order of jobs comes from their `needs`"),
        ("depends_on", "write `needs`"),
        ("dependencies", "write `needs`"),
        ("requires", "write `needs`"),
        ("runs-on", "write `labels`"),
        ("runs_on", "write `labels`"),
        ("tags", "write `labels`"),
        ("when", "write `if`"),
        ("only", "write `if`, as in `if: branch == \"main\"`"),
        ("except", "write `if`, as in `if: branch != \"main\"`"),
        ("rules", "write `if`"),
        ("condition", "write `if`"),
        ("container", "write `image`"),
        ("memory", "write `limits: { memory: 2GB }`"),
        ("mem_limit", "write `limits: { memory: 2GB }`"),
        ("cpus", "write `limits: { cpu: 2 }`"),
        ("resources", "write `limits: { cpu: 2, memory: 2GB }`"),
        ("network_mode", "write `network`"),
        ("pull", "write `image: { name: …, pull: always }`"),
        ("pull_policy", "write `image: { name: …, pull: always }`"),
        ("user", "write `image: { name: …, user: … }`"),
        ("mounts", "write `volumes: [\"/data:/in:ro\"]`"),
        ("backend", "write `executor`"),
        ("runner", "write `executor`, or `labels` for a certain machine"),
        ("environment", "write `env`"),
        ("variables", "write `env`"),
        ("strategy", "write `matrix`"),
        ("timeout-minutes", "write `timeout: 10m`"),
        ("continue-on-error", "write `allow_failure`"),
        ("allow-failure", "write `allow_failure`"),
        ("concurrency", "write `lock`"),
        ("working-directory", "write `directory`"),
        ("name", "a job's name is its key"),
        ("caches", "write `cache`"),
        ("cache-key", "write `cache_key`"),
        ("checkout", "write `workspace: none` for a job without files"),
    ],
    ..keys(
        "a job",
        &[
            key("needs", &NAMES, "Jobs that must have succeeded before; their files are seen."),
            key("if", &CONDITION, "Runs only when this holds, as in `branch == \"main\"`."),
            key("matrix", &MATRIX, "Runs once for each combination of values."),
            key("image", &IMAGE, "The container image of the steps; none: on the host."),
            key("executor", &EXECUTOR, "How the steps are run; default auto: as suits the job."),
            key("network", &NETWORK, "What the steps reach; default is the server's to say."),
            key("limits", &LIMITS, "How much of the machine all its processes may use."),
            key("sandbox", &Shape::Bool, "On the host: uses its tools and cannot change it."),
            key("privileged", &Shape::Bool, "Its container may do what the machine's root may."),
            key("volumes", &VOLUMES, "What its container sees of the machine: `/data:/in:ro`."),
            key("services", &SERVICES, "Containers beside the job."),
            key("ssh", &NAME, "Runs the steps on this host: `user@host`."),
            key("labels", &NAMES, "Labels that an agent must have."),
            key("env", &ENV, "Environment variables of every step."),
            key("shell", &SHELL, "The shell of steps that name none; default `sh`."),
            key("directory", &PATH, "Where steps run, relative to the repository's root."),
            required("steps", &STEPS, "Commands, run in order until one fails."),
            key("timeout", &Shape::Duration, "Of all steps together; default 6h."),
            key("retry", &RETRY, "How many attempts in all, and after what."),
            key("always", &Shape::Bool, "Runs also when needs have failed."),
            key("allow_failure", &Shape::Bool, "Its failure makes the run a warning."),
            key("artifacts", &ARTIFACTS, "Files to keep: patterns of paths."),
            key("secrets", &NAMES, "Secrets given as variables of the same name, and masked."),
            key("outputs", &NAMES, "Values that steps write to `$KILN_OUTPUT` for later jobs."),
            key("lock", &LOCK, "Not at the same time as other holders of the lock."),
            key("approve", &APPROVE, "Waits until one of these people approves."),
            key("priority", &Shape::Int { min: -100, max: 100 }, "Higher goes first."),
            key("inputs", &PATTERNS, "What it reads; it is skipped when none of that has changed."),
            key("cache_key", &TEXT, "Part of what its result depends on, besides its inputs."),
            key("cache", &CACHES, "Files and folders to find again, as an earlier job left them."),
            key("workspace", &WORKSPACE, "Which files it sees; default those of its needs."),
            key("snapshots", &SNAPSHOTS, "Whether its files are kept as each step found them."),
        ],
    )
};

static IMAGE: Shape = Shape::Either(&[Shape::Text("a name"), Shape::Map(&IMAGE_KEYS)]);
static IMAGE_KEYS: Keys = Keys {
    foreign: &[
        ("image", "write `name`"),
        ("credentials", "log in on the agent's machine: `docker login` is what kiln reads"),
        ("entrypoint", "steps run without the image's entry point; call it in a step"),
        ("options", "write `limits`, `network`, `volumes` or `privileged` at the job"),
        ("env", "write `env` at the job"),
        ("volumes", "write `volumes` at the job"),
        ("pull_policy", "write `pull`"),
        ("platform", "remove it: an image of several platforms gives this machine's"),
    ],
    ..keys(
        "`image`",
        &[
            required("name", &NAME, "As in `rust:1.90` or `oci:ci/image:v1`."),
            key("pull", &PULL, "When it is asked for at its registry; default missing."),
            key("user", &Shape::Scalar, "Of the steps: a name, a number, or `user:group`."),
        ],
    )
};
static PULL: Shape = Shape::Words("a pull policy", &["missing", "always", "never"]);
static EXECUTOR: Shape = Shape::Words("an executor", &["auto", "host", "oci", "docker"]);
static NETWORK: Shape = Shape::Words("a network", &["none", "internet", "host"]);
static VOLUMES: Shape = Shape::Many(&Shape::Text("a volume"));
static LIMITS: Shape = Shape::Map(&Keys {
    foreign: &[
        ("cpus", "write `cpu`"),
        ("mem", "write `memory`"),
        ("processes", "write `pids`"),
        ("time", "write `timeout` at the job"),
        ("timeout", "write `timeout` at the job"),
    ],
    ..keys(
        "`limits`",
        &[
            key("cpu", &Shape::Processors, "How many processors, as in `2` or `0.5`."),
            key("memory", &Shape::Size, "As in `2GB`; with swap."),
            key("pids", &Shape::Int { min: 1, max: 4_194_304 }, "Processes and threads."),
        ],
    )
});

static CONDITION: Shape = Shape::Either(&[Shape::Bool, Shape::Text("a condition")]);
static STEPS: Shape = Shape::Filled(&Shape::Many(&STEP));
static STEP: Shape = Shape::Either(&[COMMAND_SHAPE, Shape::Map(&STEP_KEYS)]);
const COMMAND_SHAPE: Shape = Shape::Text("a command");

static STEP_KEYS: Keys = Keys {
    foreign: &[
        ("if", "conditions belong to jobs: move the step to a job of its own"),
        ("when", "conditions belong to jobs: move the step to a job of its own"),
        ("uses", "steps are commands; there are no actions"),
        ("with", "give values as `env`"),
        ("script", "write `run`"),
        ("command", "write `run`"),
        ("commands", "write `run`"),
        ("working-directory", "write `directory`"),
        ("timeout-minutes", "write `timeout: 10m`"),
        ("continue-on-error", "end the command with `|| true`"),
        ("allow_failure", "end the command with `|| true`"),
        ("environment", "write `env`"),
        ("image", "an image belongs to a job"),
    ],
    ..keys(
        "a step",
        &[
            key("name", &NAME, "Shown for the step; default its first line."),
            required("run", &RUN, "A script for the shell, or a program and its arguments."),
            key("env", &ENV, "Environment variables of this step."),
            key("directory", &PATH, "Where it runs, relative to the repository's root."),
            key("shell", &SHELL, "The shell that runs it; default `sh`."),
            key("timeout", &Shape::Duration, "How long it may run."),
            key("always", &Shape::Bool, "Runs also when an earlier step has failed."),
        ],
    )
};

static RUN: Shape = Shape::Either(&[COMMAND_SHAPE, Shape::Filled(&Shape::List(&Shape::Scalar))]);

static MATRIX: Shape = Shape::Filled(&Shape::Map(&Keys {
    others: Some(("an axis", &Shape::Filled(&Shape::Many(&Shape::Scalar)))),
    ..keys(
        "`matrix`",
        &[
            key("include", &COMBINATIONS, "Combinations to add or to extend."),
            key("exclude", &COMBINATIONS, "Combinations to leave out."),
        ],
    )
}));
static COMBINATIONS: Shape = Shape::Many(&Shape::Each("an axis", &Shape::Scalar));

static SERVICES: Shape =
    Shape::Each("a service", &Shape::Either(&[Shape::Text("an image"), Shape::Map(&SERVICE)]));
static SERVICE: Keys = Keys {
    foreign: &[
        ("environment", "write `env`"),
        ("healthcheck", "write `ready: pg_isready`"),
        ("memory", "write `limits: { memory: 2GB }`"),
        ("mem_limit", "write `limits: { memory: 2GB }`"),
        ("cpus", "write `limits: { cpu: 2 }`"),
        ("ports", "remove it: a service is reached by its name, on every port"),
    ],
    ..keys(
        "a service",
        &[
            required("image", &NAME, "The container image."),
            key("env", &ENV, "Its environment variables."),
            key("ready", &COMMAND, "A command that succeeds when the service can be used."),
            key("ready_timeout", &Shape::Duration, "How long it may take until then; default 1m."),
            key("command", &Shape::List(&Shape::Scalar), "A program and its arguments."),
            key("limits", &LIMITS, "How much of the machine its own processes may use."),
        ],
    )
};

static RETRY: Shape = Shape::Either(&[
    ATTEMPTS,
    Shape::Map(&keys(
        "`retry`",
        &[
            required("attempts", &ATTEMPTS, "How many attempts in all."),
            key("on", &RETRY_ON, "After what; default anything that went wrong."),
        ],
    )),
]);
const ATTEMPTS: Shape = Shape::Int { min: 1, max: ATTEMPTS_MAX as i64 };
static RETRY_ON: Shape =
    Shape::Many(&Shape::Words("a kind of trouble", &["failed", "timeout", "lost", "error"]));

static ARTIFACTS: Shape = Shape::Many(&Shape::Either(&[
    Shape::Text("a path"),
    Shape::Map(&keys(
        "an artifact",
        &[
            required("path", &PATH, "A pattern, relative to the repository's root."),
            key("optional", &Shape::Bool, "Matching nothing is not a failure."),
        ],
    )),
]));

static CACHES: Shape = Shape::Many(&Shape::Either(&[Shape::Text("a path"), Shape::Map(&CACHE)]));
static CACHE: Keys = Keys {
    foreign: &[
        ("paths", "write one item with `path` for each: `cache: [{ path: target, key: … }, …]`"),
        ("restore-keys", "remove it: a branch without a cache finds the default branch's"),
        ("restore_keys", "remove it: a branch without a cache finds the default branch's"),
        ("fallback_keys", "remove it: a branch without a cache finds the default branch's"),
        ("policy", "remove it: a cache is kept after a success, when something changed"),
        ("when", "remove it: a cache is kept after a success, when something changed"),
        ("untracked", "name the folders"),
        ("name", "write `key`"),
        (
            "directories",
            "write one item with `path` for each: `cache: [{ path: target, key: … }, …]`",
        ),
    ],
    ..keys(
        "an item of `cache`",
        &[
            required("path", &PATH, "In the workspace, absolute, or below the home (`~/…`)."),
            key("key", &Shape::Scalar, "Caches of one path with different keys are apart."),
        ],
    )
};

static WORKSPACE: Shape = Shape::Either(&[
    Shape::Words("a kind of workspace", &["none", "fresh"]),
    Shape::Map(&Keys {
        foreign: &[("needs", "write `from`"), ("jobs", "write `from`")],
        ..keys(
            "`workspace`",
            &[required("from", &Shape::Filled(&NAMES), "Those of its needs whose files it sees.")],
        )
    }),
]);
static SNAPSHOTS: Shape = Shape::Words("a kind of snapshots", &["steps", "off"]);

static LOCK: Shape = Shape::Either(&[
    Shape::Text("a name"),
    Shape::Map(&keys(
        "`lock`",
        &[
            key("name", &NAME, "The lock."),
            key("any", &NAMES, "Several locks, of which one is held."),
            key(
                "limit",
                &Shape::Int { min: 1, max: 1_000_000 },
                "How many may hold one lock at once; default 1.",
            ),
        ],
    )),
]);

static APPROVE: Shape = Shape::Either(&[
    Shape::Bool,
    Shape::Map(&keys("`approve`", &[required("by", &NAMES, "People or teams.")])),
    Shape::Many(&NAME),
]);
