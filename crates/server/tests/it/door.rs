use std::os::unix::fs::PermissionsExt;

use kiln_server::{ServeOptions, Server};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn machines_get_json_and_people_get_pages() {
    let world = World::new().await;
    let list = world.get("/api/v1/projects").await;
    assert_eq!((list.status, list.text().as_str()), (200, "[]"));
    for path in ["/api/v1/nothing", "/api", "/api/v1/projects/none", "/api/v1/projects/%2e%2e/runs"]
    {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(answer.json()["message"].is_string(), "{path}");
    }
    let bad = world.get("/api/v1/projects/%ff").await;
    assert!(bad.json()["code"].is_string());
    let page = world.get("/nothing").await;
    assert_eq!(page.status, 404);
    assert!(page.header("content-type").unwrap().starts_with("text/html"), "{}", page.head);
    let wrong = world.ask("PUT", "/api/v1/projects", &[], b"").await;
    assert_eq!(wrong.error(), (405, "method_not_allowed".to_owned()));
    // Hooks speak to the socket in the data folder; nobody else does.
    let internal = world.post("/internal/push", &serde_json::json!({})).await;
    assert_eq!(internal.status, 404);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_what_keeps_browsers_in_line() {
    let world = World::new().await;
    for path in ["/", "/api/v1/projects", "/nothing", "/api/v1/nothing"] {
        let answer = world.get(path).await;
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_and_other_sites_are_refused() {
    let world = World::new().await;
    let port = world.server.address().port().to_string();
    let ours = format!("127.0.0.1:{port}");
    let ask = async |method: &str, headers: &[(&str, &str)]| {
        world.ask(method, "/api/v1/projects", headers, b"{}").await.status
    };
    assert_eq!(ask("GET", &[("Host", &ours)]).await, 200);
    assert_eq!(ask("GET", &[("Host", "evil.example")]).await, 421);
    assert_eq!(ask("POST", &[("Host", &ours), ("Origin", "http://evil.example")]).await, 403);
    assert_eq!(ask("POST", &[("Host", &ours), ("Sec-Fetch-Site", "cross-site")]).await, 403);
    // Past the guard; the body is what is wrong now.
    let origin = format!("http://{ours}");
    assert_eq!(ask("POST", &[("Host", &ours), ("Origin", &origin)]).await, 400);
    assert_eq!(ask("POST", &[("Host", &ours)]).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let start = async |data: &str, listen: &str| {
        let options = ServeOptions::new(place.path().join(data), listen);
        Server::start(options).await.err().expect("it does not start").to_string()
    };
    let taken = world.server.address().to_string();
    let message = start("a", &taken).await;
    let port = world.server.address().port().to_string();
    assert!(message.contains(&port) && message.contains("already taken"), "{message}");
    let message = start("a", "0.0.0.0:0").await;
    assert!(message.contains("--allow-remote"), "{message}");
    let message = start("a", "nonsense").await;
    assert!(message.contains("`nonsense`"), "{message}");
    assert!(!place.path().join("a").exists());
    // The data folder is somebody's already.
    let options = ServeOptions::new(world.data(), "127.0.0.1:0");
    let message = Server::start(options).await.err().expect("it does not start").to_string();
    assert!(message.contains(&std::process::id().to_string()), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_private_and_a_left_over_one_is_replaced() {
    let world = World::new().await;
    let socket = world.data().join("kiln.sock");
    let mode = socket.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let world = world
        .restart(|data| {
            assert!(!data.join("kiln.sock").exists());
            drop(std::os::unix::net::UnixListener::bind(data.join("kiln.sock")).unwrap());
        })
        .await;
    let lines = format!("{} {} refs/heads/x\n", "0".repeat(40), "1".repeat(40));
    assert_eq!(world.tell("none", &lines).await, "kiln: there is no project `none`\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_data_folder_has_a_socket_too() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("d".repeat(150));
    let server = Server::start(ServeOptions::new(&data, "127.0.0.1:0")).await.unwrap();
    let lines = format!("{} {} refs/heads/x\n", "0".repeat(40), "1".repeat(40));
    let said = crate::world::tell(data, "none".to_owned(), lines).await;
    assert_eq!(said, "kiln: there is no project `none`\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_is_refused() {
    let world = World::new().await;
    let huge = vec![b' '; (16 << 20) + 1];
    let answer = world.ask("POST", "/api/v1/projects", &[], &huge).await;
    assert_eq!(answer.error(), (413, "too_large".to_owned()));
}
