use serde_json::Value;

use crate::world::World;

const ASKS: &str = "\
on:
  push: {}
  manual:
    inputs:
      level: { type: number, required: true }
      where: { type: choice, options: [here, there], default: there }
jobs:
  a: { steps: [\"true\"] }
";

/// A browser without scripts sends forms, and is shown pages.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_script_a_run_is_started_by_forms() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", ASKS);
    repository.commit("one");
    world.tell("app", &repository.push(&["main"])).await;
    let form = world.get("/p/app/run?branch=main&input.level=4").await;
    assert_eq!(form.status, 200, "{}", form.text());
    assert!(form.text().contains("name=\"input.level\" value=\"4\""), "{}", form.text());
    assert!(form.text().contains("<option value=\"there\" selected>"), "{}", form.text());

    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let post = async |body: &str| world.ask("POST", "/p/app/run", &headers, body.as_bytes()).await;
    let refused = post("branch=main&input.level=many&input.where=here").await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("`many` is not a value of the input"), "{}", refused.text());
    assert!(refused.text().contains("<option value=\"here\" selected>"), "{}", refused.text());
    let lost = post("branch=gone").await;
    assert!(lost.status == 400 && lost.text().contains("no branch `gone`"), "{}", lost.text());
    let taken = post("branch=main&input.level=4").await;
    assert_eq!((taken.status, taken.header("location")), (303, Some("/p/app/2")));
}

/// A commit is run again with its own manifest, though its branch has moved on or is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_inputs_of_a_commit_are_those_of_its_own_manifest() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", ASKS);
    let old = repository.commit("one");
    world.tell("app", &repository.push(&["main"])).await;
    repository.write(".kiln.yml", "jobs: { a: { steps: [\"true\"] } }\n");
    repository.commit("two");
    world.tell("app", &repository.push(&["main"])).await;
    let names = async |query: &str| {
        let inputs = world.get(&format!("/api/v1/projects/app/inputs{query}")).await.json();
        let name = |input: &Value| input["name"].as_str().unwrap_or_default().to_owned();
        inputs.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names("").await, [""; 0]);
    assert_eq!(names(&format!("?commit={old}")).await, ["level", "where"]);
    let odd = world.get("/api/v1/projects/app/inputs?commit=main").await;
    assert_eq!(odd.error(), (422, "bad_commit".to_owned()));
}
