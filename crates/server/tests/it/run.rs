use kiln_model::{Exit, Outcome};
use serde_json::json;

use crate::world::{MANIFEST, World};

async fn pushed() -> World {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    world.tell("app", &repository.push(&["main"])).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_once_and_over_then() {
    let world = pushed().await;
    let run = "/api/v1/projects/app/runs/1";
    let headers = [("Kiln-User", "ann")];
    let cancelled = world.ask("POST", &format!("{run}/cancel"), &headers, b"").await;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text());
    assert_eq!(cancelled.json()["state"], "cancelled");
    let why = world.get(&format!("{run}/why")).await;
    assert!(why.text().contains("ann"), "{}", why.text());
    let again = world.post(&format!("{run}/cancel"), &json!({})).await;
    assert_eq!(again.error(), (409, "run_over".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_jobs_run_again_and_others_do_not() {
    let world = pushed().await;
    let run = "/api/v1/projects/app/runs/1";
    let none = world.post(&format!("{run}/rerun"), &json!({ "failed": true })).await;
    assert_eq!(none.error(), (409, "nothing_failed".to_owned()));
    let build = world.take().await;
    world.finish(build.lease, Outcome::Success, 0).await;
    let test = world.take().await;
    let failed = Outcome::StepFailed { step: 0, exit: Exit::Code { code: 2 } };
    world.finish(test.lease, failed, 0).await;
    assert_eq!(world.runs("app").await, ["1 failed main"]);
    let again = world.post(&format!("{run}/rerun"), &json!({ "failed": true })).await;
    assert_eq!(again.status, 202, "{}", again.text());
    let again = world.take().await;
    assert_eq!((again.job.name.as_str(), again.lease.attempt.attempt), ("test", 2));
    world.finish(again.lease, Outcome::Success, 0).await;
    assert_eq!(world.runs("app").await, ["1 success main"]);
    let unknown = world.post(&format!("{run}/rerun"), &json!({ "job": "tset" })).await;
    assert_eq!(unknown.error(), (404, "job_not_found".to_owned()));
    assert!(unknown.text().contains("did you mean `test`?"), "{}", unknown.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_of_a_run_is_there() {
    let world = pushed().await;
    let run = "/api/v1/projects/app/runs/1";
    for below in ["", "/plan", "/events", "/why", "/artifacts", "/jobs/build", "/jobs/build/why"] {
        let answer = world.get(&format!("{run}{below}")).await;
        assert_eq!(answer.status, 200, "{below}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{below}");
    }
    assert_eq!(world.get("/api/v1/runs?limit=5").await.json().as_array().unwrap().len(), 1);
    assert_eq!(world.get("/api/v1/runs?before_run=app/1").await.text(), "[]");
    assert_eq!(world.get("/api/v1/projects/app/runs?state=failed").await.text(), "[]");
    assert_eq!(world.get("/api/v1/projects/app/runs?branch=dev").await.text(), "[]");
    assert_eq!(world.get("/api/v1/projects/app/runs?state=odd").await.status, 400);
    assert_eq!(world.get("/api/v1/projects/app/runs?limit=x").await.status, 400);
    assert_eq!(world.get("/api/v1/projects/app/inputs").await.text(), "[]");
    for missing in ["/api/v1/projects/app/runs/2", "/api/v1/projects/app/runs/x"] {
        assert_eq!(world.get(missing).await.error(), (404, "run_not_found".to_owned()));
    }
    let missing = world.get(&format!("{run}/jobs/none")).await;
    assert_eq!(missing.error(), (404, "job_not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_reader_hears_of_each_change() {
    let world = pushed().await;
    let events = world.stream("/api/v1/projects/app/runs/1/live", &[]).await;
    assert!(events.head.contains("text/event-stream"), "{}", events.head);
    let (events, first) = events.next().await;
    let (name, _, data) = first.unwrap();
    assert_eq!((name.as_str(), data.as_str()), ("changed", r#"{"seq":1}"#));
    let lists = world.stream("/api/v1/live", &[]).await;
    world.post("/api/v1/projects/app/runs/1/cancel", &json!({})).await;
    let (_, second) = events.next().await;
    let seq: serde_json::Value = serde_json::from_str(&second.unwrap().2).unwrap();
    assert!(seq["seq"].as_u64().unwrap() > 1, "{seq}");
    let (lists, heard) = lists.next().await;
    assert_eq!(heard.unwrap().2, r#"{"number":1,"project":"app"}"#);
    // A stopping server ends its streams.
    world.server.stop().await;
    assert_eq!(lists.next().await.1, None);
}
