use kiln_server::hook;

use crate::world::{MANIFEST, World};

#[tokio::test(flavor = "multi_thread")]
async fn each_pushed_head_starts_one_run() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    let root = repository.commit("root commit");
    let said = world.tell("app", &repository.push(&["main"])).await;
    let url = world.server.url();
    assert_eq!(said, format!("kiln: run app#1 queued: {url}/p/app/1\n"));
    let run = world.get("/api/v1/projects/app/runs/1").await.json();
    assert_eq!(run["commit"], root);
    assert_eq!((&run["title"], &run["actor"]), (&"root commit".into(), &"me".into()));
    assert_eq!(run["jobs"].as_array().unwrap().len(), 2);

    // Several refs in one push; notes and other refs are nothing.
    repository.git(&["branch", "dev"]);
    repository.git(&["tag", "--annotate", "--message", "x", "v1"]);
    repository.git(&["update-ref", "refs/notes/x", "HEAD"]);
    let lines = repository.push(&["dev", "v1", "refs/notes/x"]);
    let said = world.tell("app", &lines).await;
    assert_eq!(said.matches("kiln: run app#").count(), 2, "{said}");
    assert!(said.contains("no run for `refs/notes/x`"), "{said}");

    // A force push; then a branch goes.
    repository.git(&["commit", "--quiet", "--amend", "--message", "amended"]);
    world.tell("app", &repository.push(&["--force", "main"])).await;
    let said = world.tell("app", &repository.push(&["--delete", "dev"])).await;
    assert_eq!(said, "");
    let runs = world.runs("app").await;
    assert_eq!(runs, ["1 queued main", "2 queued dev", "3 queued v1", "4 queued main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_push_is_one_and_back_and_forth_are_three() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    let first = repository.commit("a");
    world.tell("app", &repository.push(&["main"])).await;
    let second = repository.commit("b");
    for commit in [&second, &first, &second] {
        let lines = repository.push(&["--force", &format!("{commit}:refs/heads/main")]);
        world.tell("app", &lines).await;
    }
    assert_eq!(world.runs("app").await.len(), 4);
    let third = repository.commit("c");
    repository.push(&["main"]);
    let push = serde_json::json!({
        "project": "app", "actor": null, "nonce": "n",
        "refs": [{ "name": "refs/heads/main", "old": second, "new": third }],
    });
    std::fs::create_dir_all(world.data().join("inbox")).unwrap();
    for name in ["1.json", "2.json"] {
        std::fs::write(world.data().join("inbox").join(name), push.to_string()).unwrap();
    }
    let world = world.restart(|_| {}).await;
    settled(&world).await;
    assert_eq!(world.runs("app").await.len(), 5);
}

/// A push that was noted while the server was away came after a younger one, moved the head back, and
/// the next look at the refs started the younger one's run a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_comes_late_has_its_run_and_moves_no_head_back() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("a");
    world.tell("app", &repository.push(&["main"])).await;
    repository.commit("b");
    let late = repository.push(&["main", "main:refs/heads/short"]);
    repository.commit("c");
    world.tell("app", &repository.push(&["main", ":refs/heads/short"])).await;
    world.tell("app", &late).await;
    let told = world.runs("app").await;
    assert_eq!(told, ["1 queued main", "2 queued main", "3 queued main", "4 queued short"]);
    let world = world.restart(|_| {}).await;
    settled(&world).await;
    assert_eq!(world.runs("app").await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_a_run_gets_none_and_hears_why() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.commit("nothing to run");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert_eq!(said, "kiln: no run for `refs/heads/main`: there is no `.kiln.yml` in it\n");
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("words\n\n[skip ci]");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert!(said.contains("its commit says `[skip ci]`"), "{said}");
    repository
        .write(".kiln.yml", &format!("on: {{ push: {{ branches: [release] }} }}\n{MANIFEST}"));
    repository.commit("filtered");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert!(said.starts_with("kiln: no run for `refs/heads/main`: "), "{said}");
    assert_eq!(world.runs("app").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_manifest_is_a_failed_run_that_says_where() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", "jobs:\n  test:\n    needs: biuld\n    steps: [x]\n");
    repository.commit("wrong");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert!(said.contains("run app#1 failed") && said.contains(".kiln.yml:3"), "{said}");
    assert_eq!(world.runs("app").await, ["1 failed main"]);
    let run = world.get("/api/v1/projects/app/runs/1").await.json();
    assert!(run["reason"].as_str().unwrap().contains("biuld"), "{run}");
    repository.write(".kiln.yml", &"x".repeat(2 << 20));
    repository.commit("huge");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert!(said.contains("run app#2 failed") && said.contains("too large"), "{said}");
    std::fs::write(repository.work.join(".kiln.yml"), b"\0\xff\xfe\x01").unwrap();
    repository.commit("binary");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert!(said.contains("run app#3 failed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_while_no_server_runs_is_kept_and_taken_later() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    let world = world
        .restart(|data| {
            for message in ["two", "three"] {
                repository.commit(message);
                let lines = repository.push(&["main"]);
                let mut said = Vec::new();
                hook::post_receive(data, "app", None, lines.as_bytes(), &mut said);
                let said = String::from_utf8(said).unwrap();
                assert!(said.contains("the server is not running; the push is noted"), "{said}");
            }
        })
        .await;
    settled(&world).await;
    assert_eq!(world.runs("app").await, ["1 queued main", "2 queued main"]);
    assert_eq!(std::fs::read_dir(world.data().join("inbox")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_nobody_told_is_found_when_the_server_starts() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    let world = world
        .restart(|_| {
            repository.commit("untold");
            repository.push(&["main"]);
        })
        .await;
    settled(&world).await;
    assert_eq!(world.runs("app").await, ["1 queued main"]);
    // Told late after all: it was seen.
    let world = world.restart(|_| {}).await;
    settled(&world).await;
    assert_eq!(world.runs("app").await, ["1 queued main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_in_the_inbox_is_set_aside_and_blocks_nobody() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    let world = world
        .restart(|data| {
            let inbox = data.join("inbox");
            std::fs::create_dir_all(&inbox).unwrap();
            std::fs::write(inbox.join("000.json"), "{ not json").unwrap();
            let none = r#"{"project":"none","actor":null,"refs":[]}"#;
            std::fs::write(inbox.join("001.json"), none).unwrap();
            let lines = repository.push(&["main"]);
            hook::post_receive(data, "app", None, lines.as_bytes(), &mut Vec::new());
        })
        .await;
    settled(&world).await;
    assert_eq!(world.runs("app").await, ["1 queued main"]);
    let mut left: Vec<_> = std::fs::read_dir(world.data().join("inbox"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["000.json.bad", "001.json.bad"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_cannot_be_read_blocks_no_other() {
    let world = World::new().await;
    let repository = world.project("app").await;
    let bogus = format!("{} {} refs/heads/main\n", "0".repeat(40), "ab".repeat(20));
    let said = world.tell("app", &bogus).await;
    assert!(said.contains("recorded, and will be tried again"), "{said}");
    // A look at the refs that ends just now takes the word back until the next try.
    let mut problem = serde_json::Value::Null;
    for _ in 0..20_000 {
        problem = world.get("/api/v1/projects/app").await.json()["problem"].clone();
        if problem.as_str().is_some_and(|text| text.contains(&"ab".repeat(20))) {
            break;
        }
    }
    assert!(problem.as_str().is_some_and(|text| text.contains(&"ab".repeat(20))), "{problem}");
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    let said = world.tell("app", &repository.push(&["main"])).await;
    assert!(said.contains("run app#1 queued"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_finds_what_was_pushed_moved_and_deleted() {
    use kiln_server::reconcile::poll::look;
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    repository.git(&["branch", "dev"]);
    repository.push(&["main", "dev"]);
    let app = world.server.app();
    let name = kiln_model::ProjectName::new("app").unwrap();
    let row = app.runs.store().project(&name).await.unwrap();
    assert_eq!(look(app, &row).await.unwrap().runs.len(), 2);
    assert_eq!(look(app, &row).await.unwrap().runs.len(), 0);
    repository.commit("two");
    repository.push(&["main"]);
    repository.push(&["--delete", "dev"]);
    assert_eq!(look(app, &row).await.unwrap().runs.len(), 1);
    assert_eq!(app.runs.store().heads(row.id).await.unwrap().len(), 1);
    // A hook that tells the same afterwards starts nothing.
    let head = repository.git(&["rev-parse", "HEAD"]);
    let said = world.tell("app", &format!("{} {head} refs/heads/main\n", "0".repeat(40))).await;
    assert!(said.contains("already seen"), "{said}");
    std::fs::remove_dir_all(&repository.bare).unwrap();
    assert!(look(app, &row).await.unwrap_err().contains("is not a git repository"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_repository_is_fetched_when_it_is_looked_at() {
    use kiln_server::reconcile::poll::look;
    let world = World::new().await;
    let repository = crate::world::Repository::new(world.place.path(), "far");
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("before");
    repository.push(&["main"]);
    let repo = format!("{}/far.git", crate::world::daemon(world.place.path()));
    let body = serde_json::json!({ "name": "far", "repo": repo });
    let added = world.post("/api/v1/projects", &body).await;
    assert_eq!(added.status, 201, "{}", added.text());
    assert_eq!(added.json()["default_branch"], "main");
    let commit = repository.commit("after");
    repository.push(&["main"]);
    let app = world.server.app();
    let name = kiln_model::ProjectName::new("far").unwrap();
    let row = app.runs.store().project(&name).await.unwrap();
    let runs = look(app, &row).await.unwrap().runs;
    assert_eq!(runs.len(), 1);
    let run = world.get("/api/v1/projects/far/runs/1").await.json();
    assert_eq!(run["commit"], commit);
    // By hand, of the default branch; and a push that is told before it was fetched.
    let asked = world.post("/api/v1/projects/far/runs", &serde_json::json!({})).await;
    assert_eq!(asked.status, 201, "{}", asked.text());
    repository.commit("told");
    let said = world.tell("far", &repository.push(&["main"])).await;
    assert!(said.contains("run far#3 queued"), "{said}");
}

/// Waits until all that the server found when it started is settled: what it does then is done in
/// order, and this push comes after.
async fn settled(world: &World) {
    use kiln_server::reconcile::settled;
    tokio::time::timeout(crate::world::PATIENCE, settled(world.server.app())).await.unwrap();
}
