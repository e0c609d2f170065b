//! What a manifest says, in any format, before anything is made of it.
//!
//! Every text keeps its place. Nothing here is checked against anything else: a need is a word, a
//! condition is a text, a matrix is its axes.

use std::ops::Range;
use std::time::Duration;

use kiln_model::plan::{ExecutorKind, Limits, Network, Pull, RetryOn, Snapshots};

use crate::node::{Spanned, Text};

#[derive(Debug, Default)]
pub struct Written {
    /// Absent: the default triggers.
    pub on: Option<On>,
    /// What a person can give when starting a run by hand.
    pub inputs: Vec<Input>,
    pub env: Vec<(Text, Text)>,
    pub jobs: Vec<Job>,
}

/// Which triggers are wanted.
#[derive(Debug, Default)]
pub struct On {
    pub push: Option<Filter>,
    pub pull_request: Option<Filter>,
    pub tag: Option<Filter>,
    /// As in crontab.
    pub schedule: Vec<Text>,
}

/// Patterns of names (branches, base branches or tags) and of changed paths; none: all.
#[derive(Debug, Default)]
pub struct Filter {
    pub names: Vec<Text>,
    pub paths: Vec<Text>,
}

#[derive(Debug)]
pub struct Input {
    pub name: Text,
    pub kind: InputKind,
    pub options: Vec<Text>,
    pub default: Option<Text>,
    pub required: bool,
    pub description: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    Text,
    Choice,
    Boolean,
    Number,
}

#[derive(Debug)]
pub struct Job {
    pub name: Text,
    pub needs: Vec<Text>,
    pub condition: Option<Text>,
    pub matrix: Option<Matrix>,
    pub always: bool,
    pub allow_failure: bool,
    pub surroundings: Surroundings,
    pub ssh: Option<Text>,
    pub labels: Vec<Text>,
    pub env: Vec<(Text, Text)>,
    pub steps: Vec<Step>,
    /// Of a step that says nothing else.
    pub shell: Option<String>,
    pub directory: Option<Text>,
    pub timeout: Option<Duration>,
    pub retry: Option<(u32, Vec<RetryOn>)>,
    /// With whether it is optional.
    pub artifacts: Vec<(Text, bool)>,
    pub secrets: Vec<Text>,
    pub lock: Option<Lock>,
    pub outputs: Vec<Text>,
    pub inputs: Vec<Text>,
    pub cache: Vec<Cache>,
    pub cache_key: Option<Text>,
    pub workspace: Option<Workspace>,
    pub snapshots: Option<Snapshots>,
    pub services: Vec<Service>,
    pub approve: Option<Vec<Text>>,
    pub priority: i32,
}

/// What the steps of a job run in.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Something is written for an image, be it right or wrong.
    pub in_image: bool,
    pub image: Option<Text>,
    pub pull: Option<Pull>,
    pub user: Option<Text>,
    pub executor: Option<Spanned<ExecutorKind>>,
    pub network: Option<Spanned<Network>>,
    pub limits: Option<Spanned<Limits>>,
    pub sandbox: Option<Spanned<bool>>,
    pub privileged: Option<Spanned<bool>>,
    pub volumes: Vec<Text>,
}

#[derive(Debug)]
pub struct Matrix {
    pub span: Range<usize>,
    pub axes: Vec<(Text, Vec<Text>)>,
    pub include: Vec<Combination>,
    pub exclude: Vec<Combination>,
}

/// Some axes, each with one value.
pub type Combination = Spanned<Vec<(Text, Text)>>;

#[derive(Debug)]
pub struct Step {
    pub span: Range<usize>,
    pub name: Option<Text>,
    pub run: Run,
    pub env: Vec<(Text, Text)>,
    pub shell: Option<String>,
    pub directory: Option<Text>,
    pub timeout: Option<Duration>,
    pub always: bool,
}

#[derive(Debug)]
pub enum Run {
    Script(Text),
    Argv(Vec<Text>),
}

#[derive(Debug)]
pub struct Lock {
    pub span: Range<usize>,
    pub any: Vec<Text>,
    pub limit: u32,
}

#[derive(Debug)]
pub struct Cache {
    pub path: Text,
    pub key: Option<Text>,
}

/// Which files a job wants; nothing written: all that its needs saw and left.
#[derive(Debug)]
pub enum Workspace {
    Nothing,
    Fresh,
    /// What these of its needs saw and left.
    From(Vec<Text>),
}

#[derive(Debug)]
pub struct Service {
    pub name: Text,
    pub image: Text,
    pub env: Vec<(Text, Text)>,
    pub ready: Option<Text>,
    pub ready_timeout: Option<Duration>,
    pub command: Option<Vec<Text>>,
    pub limits: Limits,
}
