use serde_json::json;

use crate::world::{MANIFEST, Repository, World, git};

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_added_shown_and_removed() {
    let world = World::new().await;
    let repository = Repository::new(world.place.path(), "app");
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    repository.push(&["main"]);
    let body = json!({ "name": "app", "repo": repository.bare, "poll_every_s": 60 });
    let added = world.post("/api/v1/projects", &body).await;
    assert_eq!(added.status, 201, "{}", added.text());
    let shown = world.get("/api/v1/projects/app").await.json();
    assert_eq!(shown["project"], "app");
    assert_eq!(shown["default_branch"], "main");
    assert_eq!(shown["poll_every_s"], 60);
    // What was there before starts nothing.
    assert_eq!(shown["runs"], json!([]));
    let again = world.post("/api/v1/projects", &body).await;
    assert_eq!(again.error(), (409, "project_exists".to_owned()));
    assert_eq!(world.ask("DELETE", "/api/v1/projects/app", &[], b"").await.status, 204);
    assert_eq!(
        world.get("/api/v1/projects/app").await.error(),
        (404, "project_not_found".to_owned())
    );
    assert!(repository.bare.join("HEAD").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_project_is_refused_with_the_reason() {
    let world = World::new().await;
    let place = world.place.path().to_str().unwrap().to_owned();
    let add = async |name: &str, repo: &str, every: Option<u32>| {
        let body = json!({ "name": name, "repo": repo, "poll_every_s": every });
        world.post("/api/v1/projects", &body).await.error()
    };
    let refused = |code: &str| (422, code.to_owned());
    assert_eq!(add("a/b", "/x", None).await, refused("bad_name"));
    assert_eq!(add("--x", "/x", None).await, refused("bad_name"));
    assert_eq!(add("a", &place, None).await, refused("bad_repository"));
    assert_eq!(add("a", "/does/not/exist", None).await, refused("bad_repository"));
    assert_eq!(add("a", "relative", None).await, refused("bad_repository"));
    assert_eq!(add("a", "ext::sh -c x", None).await, refused("bad_repository"));
    assert_eq!(add("a", "--upload-pack=x", None).await, refused("bad_repository"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(add("a", &format!("git://{closed}/x"), None).await, refused("bad_repository"));
    let repository = Repository::new(world.place.path(), "r");
    let repo = repository.bare.to_str().unwrap();
    assert_eq!(add("a", repo, Some(1)).await, refused("bad_interval"));
    assert_eq!(world.post("/api/v1/projects", &json!({ "name": 1 })).await.status, 400);
    assert_eq!(world.get("/api/v1/projects").await.text(), "[]");
    let left: Vec<_> = std::fs::read_dir(world.data())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("probe"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_asked_for_by_branch_tag_and_commit() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    let commit = repository.commit("one");
    repository.git(&["tag", "--annotate", "--message", "x", "v1"]);
    repository.git(&["checkout", "--quiet", "-b", "dev"]);
    repository.write(".kiln.yml", "jobs: { a: { needs: b, steps: [x] } }\n");
    repository.commit("wrong");
    repository.push(&["main", "dev", "v1"]);
    let ask = async |body: serde_json::Value| world.post("/api/v1/projects/app/runs", &body).await;
    for body in [
        json!({}),
        json!({ "branch": "main" }),
        json!({ "tag": "v1" }),
        json!({ "commit": commit }),
    ] {
        let answer = ask(body.clone()).await;
        assert_eq!(answer.status, 201, "{body}: {}", answer.text());
        let run = answer.json();
        assert_eq!((&run["commit"], &run["event"]), (&json!(commit), &json!("manual")), "{body}");
        assert_eq!(run["title"], "one");
    }
    assert_eq!(
        world.runs("app").await,
        ["1 queued main", "2 queued main", "3 queued v1", "4 queued -"]
    );
    let wrong = ask(json!({ "branch": "dev" })).await;
    assert_eq!(wrong.error(), (422, "bad_manifest".to_owned()));
    assert!(wrong.text().contains(".kiln.yml:1"), "{}", wrong.text());
    for (body, code) in [
        (json!({ "branch": "none" }), (404, "commit_not_found")),
        (json!({ "commit": "ab".repeat(20) }), (404, "commit_not_found")),
        (json!({ "commit": "HEAD" }), (422, "bad_commit")),
        (json!({ "branch": "--upload-pack=touch x" }), (422, "bad_repository")),
    ] {
        let (status, code) = code;
        assert_eq!(ask(body.clone()).await.error(), (status, code.to_owned()), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_went_away_is_told_with_its_project() {
    let world = World::new().await;
    let repository = world.project("app").await;
    std::fs::rename(&repository.bare, repository.bare.with_extension("gone")).unwrap();
    let asked = world.post("/api/v1/projects/app/runs", &json!({})).await;
    assert_eq!(asked.error(), (422, "bad_repository".to_owned()));
    assert!(asked.text().contains("app.git"), "{}", asked.text());
    git(world.place.path(), &["--version"]);
}
