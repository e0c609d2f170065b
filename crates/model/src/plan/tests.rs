use super::*;

fn plan(needs: &[&[u32]]) -> Plan {
    let job = |(at, needs): (usize, &&[u32])| Job {
        needs: needs.iter().copied().map(JobIndex).collect(),
        ..Job::sample(&format!("j{at}"), "true")
    };
    Plan {
        version: PLAN_VERSION,
        manifest: ".kiln.yml".into(),
        inputs: BTreeMap::new(),
        jobs: needs.iter().enumerate().map(job).collect(),
    }
}

#[test]
fn a_cycle_is_named_in_full() {
    let names = |n: &[&str]| n.iter().map(|n| (*n).to_owned()).collect();
    assert_eq!(
        plan(&[&[], &[0, 3], &[1], &[2]]).check(),
        Err(PlanError::Cycle(names(&["j1", "j3", "j2", "j1"])))
    );
    assert_eq!(plan(&[&[0]]).check(), Err(PlanError::Cycle(names(&["j0", "j0"]))));
    assert_eq!(plan(&[&[], &[0], &[0], &[1, 2]]).check(), Ok(()));
}

#[test]
fn a_step_is_named_by_its_number_or_its_name() {
    let mut job = Job::sample("j", "build");
    for name in ["test", "test", "1"] {
        let step = Step { name: name.to_owned(), ..job.steps[0].clone() };
        job.steps.push(step);
    }
    let words = |text| job.find_step(text).map_err(|error| error.to_string());
    assert_eq!((words("1"), words("4"), words("build")), (Ok(0), Ok(3), Ok(0)));
    let steps = "its steps are 1 `build`, 2 `test`, 3 `test`, 4 `1`";
    for text in ["0", "5", "", "-1", "tset", "99999999999999999999"] {
        assert_eq!(words(text), Err(format!("job `j` has no step `{text}`; {steps}")));
    }
    let several = "job `j` has several steps `test`; name one by its number";
    assert_eq!(words("test"), Err(format!("{several}: {steps}")));
}

#[test]
fn a_plan_survives_json() {
    let plan = plan(&[&[], &[0]]);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}
