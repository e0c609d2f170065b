//! One line of the table.

use std::time::Duration;

use anyhow::Result;
use kiln_stdx::clock::Stopwatch;
use serde_json::{Value, json};

/// Samples of one quantity, sorted.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

/// A measured quantity with its limit and what it is to reach.
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub samples: Samples,
    /// What the machine does without kiln, and its name; or why there is none.
    pub limit: Limit,
    /// What issue or plan asks for.
    pub goal: Goal,
}

pub enum Limit {
    Measured { what: &'static str, samples: Samples },
    Absent { why: &'static str },
}

pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// At most so many times the limit.
    AtMostTimes(f64),
    /// At most so much more than the limit.
    AtMostAbove(f64),
    /// Shown for its own sake.
    None,
}

impl Samples {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn one(value: f64) -> Self {
        Self(vec![value])
    }

    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => self.0[middle],
            _ => f64::midpoint(self.0[middle - 1], self.0[middle]),
        }
    }

    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self::new(self.0.iter().map(|value| change(*value)).collect())
    }

    fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

/// Milliseconds of `n` calls, after `n_warm` that do not count.
pub fn time(n_warm: usize, n: usize, mut act: impl FnMut() -> Result<()>) -> Result<Samples> {
    let mut values = Vec::with_capacity(n);
    for round in 0..n_warm + n {
        let since = Stopwatch::start();
        act()?;
        let took = since.elapsed();
        if round >= n_warm {
            values.push(ms(took));
        }
    }
    Ok(Samples::new(values))
}

pub fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// Milliseconds of one call.
pub fn took(act: impl FnOnce() -> Result<()>) -> Result<f64> {
    let since = Stopwatch::start();
    act()?;
    Ok(ms(since.elapsed()))
}

/// `n` samples of each of two, after `n_warm` that do not count. Taken in turns, so that what else the
/// machine does at the time meets both.
pub fn in_turns(
    n_warm: usize,
    n: usize,
    mut ours: impl FnMut() -> Result<f64>,
    mut limit: impl FnMut() -> Result<f64>,
) -> Result<(Samples, Samples)> {
    let (mut first, mut second) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for round in 0..n_warm + n {
        let both = (ours()?, limit()?);
        if round >= n_warm {
            first.push(both.0);
            second.push(both.1);
        }
    }
    Ok((Samples::new(first), Samples::new(second)))
}

impl Figure {
    pub const HEADING: &'static str = "figure              median         (min–max)            limit                          ratio   goal\n\
         ------------------  -------------  -------------------  -----------------------------  ------  ----------------";

    fn ratio(&self) -> Option<f64> {
        match &self.limit {
            Limit::Measured { samples, .. } => Some(self.samples.median() / samples.median()),
            Limit::Absent { .. } => None,
        }
    }

    /// Whether the goal is reached; `None`: there is none, or no limit to compare with.
    fn reached(&self) -> Option<bool> {
        let median = self.samples.median();
        match self.goal {
            Goal::AtMost(most) => Some(median <= most),
            Goal::AtLeast(least) => Some(median >= least),
            Goal::AtMostTimes(times) => self.ratio().map(|ratio| ratio <= times),
            Goal::AtMostAbove(more) => match &self.limit {
                Limit::Measured { samples, .. } => Some(median - samples.median() <= more),
                Limit::Absent { .. } => None,
            },
            Goal::None => None,
        }
    }

    pub fn line(&self) -> String {
        let unit = self.unit;
        let samples = &self.samples;
        let median = format!("{} {unit}", short(samples.median()));
        let span = format!("({}–{})", short(samples.min()), short(samples.max()));
        let limit = match &self.limit {
            Limit::Measured { what, samples } => {
                format!("{} {unit} {what}", short(samples.median()))
            }
            Limit::Absent { why } => (*why).to_owned(),
        };
        let ratio = self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let goal = match self.goal {
            Goal::AtMost(most) => format!("≤ {} {unit}", short(most)),
            Goal::AtLeast(least) => format!("≥ {} {unit}", short(least)),
            Goal::AtMostTimes(times) => format!("≤ {} × limit", short(times)),
            Goal::AtMostAbove(more) => format!("≤ limit + {} {unit}", short(more)),
            Goal::None => String::new(),
        };
        let mark = match self.reached() {
            Some(true) => " reached",
            Some(false) => " MISSED",
            None => "",
        };
        format!(
            "{:<18}  {median:<13}  {span:<19}  {limit:<29}  {ratio:<6}  {goal}{mark}",
            self.name
        )
    }

    pub fn json(&self) -> Value {
        let (limit, limit_is) = match &self.limit {
            Limit::Measured { what, samples } => (Some(samples.median()), *what),
            Limit::Absent { why } => (None, *why),
        };
        json!({
            "figure": self.name,
            "unit": self.unit,
            "median": self.samples.median(),
            "min": self.samples.min(),
            "max": self.samples.max(),
            "n": self.samples.0.len(),
            "limit": limit,
            "limit_is": limit_is,
            "ratio": self.ratio(),
            "reached": self.reached(),
        })
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(Samples::new(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples::new(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
    }

    #[test]
    fn a_goal_is_compared_with_the_median() {
        let figure = |goal| Figure {
            name: "x",
            unit: "ms",
            samples: Samples::new(vec![1.0, 3.0, 9.0]),
            limit: Limit::Measured { what: "y", samples: Samples::one(2.0) },
            goal,
        };
        assert_eq!(figure(Goal::AtMost(3.0)).reached(), Some(true));
        assert_eq!(figure(Goal::AtLeast(4.0)).reached(), Some(false));
        assert_eq!(figure(Goal::AtMostTimes(1.4)).reached(), Some(false));
        assert_eq!(figure(Goal::AtMostAbove(1.0)).reached(), Some(true));
        assert_eq!(figure(Goal::AtMostAbove(0.9)).reached(), Some(false));
        assert_eq!(figure(Goal::None).reached(), None);
    }
}
