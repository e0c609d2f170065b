//! Who may talk to the server, and how it answers to nonsense.

use std::io::{Read, Write};
use std::net::TcpStream;

use kiln_it::{Site, World, http};

const HELLO: &str = "jobs: { hello: { steps: [echo hello] } }\n";

#[test]
fn another_host_and_another_origin_are_refused() {
    let site = Site::with(HELLO);
    let address = site.server.address;
    let foreign = [("Host", "evil.example.org")];
    let answer = http::request(address, "GET", "/", &foreign, b"").expect("an answer");
    assert!((400..500).contains(&answer.status), "a foreign host got {}", answer.status);
    site.run(1);
    for path in ["cancel", "rerun"] {
        let path = format!("/api/v1/projects/site/runs/1/{path}");
        for header in [("Origin", "https://evil.example.org"), ("Sec-Fetch-Site", "cross-site")] {
            let headers = [header, ("Content-Type", "text/plain")];
            let answer = http::request(address, "POST", &path, &headers, b"{}").expect("an answer");
            assert!((400..500).contains(&answer.status), "{header:?} got {}", answer.status);
        }
    }
    assert_eq!(site.now(1)["jobs"][0]["attempt"], 1, "nothing was run again");
}

#[test]
fn only_the_loopback_is_listened_on() {
    let world = World::new();
    let Err(said) = world.try_serve(&["--listen", "0.0.0.0:0"]) else { panic!("it listens") };
    assert!(said.contains("0.0.0.0") && said.contains("127.0.0.1"), "{said}");
}

#[test]
fn pages_have_a_strict_policy_and_no_inline_script() {
    let site = Site::with(HELLO);
    site.run(1);
    for path in ["/", "/p/site", "/p/site/1", "/p/site/1/hello"] {
        let page = site.server.get(path);
        assert_eq!(page.status, 200, "{path}");
        let policy = page.header("content-security-policy").unwrap_or_default();
        assert!(
            policy.contains("default-src 'none'") || policy.contains("default-src 'self'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{path}");
        let text = page.text();
        assert!(!text.contains("<script>") && !text.contains(" onclick="), "{path}");
    }
}

#[test]
fn what_is_not_there_is_said_in_its_own_language() {
    let site = Site::with(HELLO);
    site.run(1);
    for path in ["/p/nosuch", "/p/site/99", "/p/site/1/nosuch", "/p/site/x", "/nosuch"] {
        let page = site.server.get(path);
        assert_eq!(page.status, 404, "{path}");
    }
    for path in [
        "/projects/nosuch",
        "/projects/site/runs/99",
        "/projects/site/runs/1/jobs/nosuch",
        "/projects/site/runs/1/jobs/hello/log?attempt=9",
    ] {
        let answer = site.server.get(&format!("/api/v1{path}"));
        assert_eq!(answer.status, 404, "{path}");
        let error = answer.json();
        assert!(error["code"].is_string() && error["message"].is_string(), "{path}: {error}");
    }
}

#[test]
fn nonsense_does_not_stop_the_server() {
    let site = Site::with(HELLO);
    let requests: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET /p/%ff%00/..%2f..%2fetc HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 7\r\nConnection: close\r\n\r\n{\"a\": [",
        b"\n\n\n\n",
    ];
    for request in requests {
        let mut stream = TcpStream::connect(site.server.address).expect("it listens");
        stream.write_all(request).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(site.run(1)["state"], "success");
}

#[test]
fn a_server_asked_to_end_ends_cleanly() {
    let site = Site::with("jobs: { a: { steps: [echo hi] } }\n");
    site.run(1);
    let Site { server, world, .. } = site;
    assert_eq!(server.stop(), Some(0));
    assert!(!world.data().join("kiln.sock").exists() || world.serve().stop() == Some(0));
}

#[test]
fn a_query_that_makes_no_sense_is_answered_in_kind() {
    let site = Site::with(HELLO);
    site.run(1);
    for query in ["attempt=-1", "attempt=x", "attempt=99999999999", "attempt=1&attempt=2"] {
        let page = site.server.get(&format!("/p/site/1/hello?{query}"));
        assert_eq!(page.status, 400, "{query}");
        assert!(page.text().contains("<html"), "{query}: {}", page.text());
        assert!(page.text().contains("attempt"), "the page names the field: {query}");
        let twin = site.server.get(&format!("/api/v1/projects/site/runs/1/jobs/hello/log?{query}"));
        assert_eq!((twin.status, &twin.json()["code"]), (400, &"bad_request".into()), "{query}");
    }
    assert_eq!(site.server.get("/p/%ff").status, 404);
}

#[test]
fn a_body_with_a_slip_in_it_does_nothing() {
    let site = Site::with(HELLO);
    site.run(1);
    for (path, body) in [
        ("/projects/site/runs", serde_json::json!({ "brunch": "main" })),
        ("/projects/site/runs", serde_json::json!([])),
        ("/projects/site/runs/1/rerun", serde_json::json!({ "faled": true })),
    ] {
        let answer = site.server.post(path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
    }
    assert_eq!(site.server.runs("site").len(), 1);
    assert_eq!(site.now(1)["jobs"][0]["attempt"], 1);
}
