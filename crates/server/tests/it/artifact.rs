use kiln_api::agent::{JobResult, JobSource};
use kiln_model::Outcome;
use kiln_model::artifact::Artifact;

use crate::world::{MANIFEST, World};

const ARTIFACTS: &str = "/api/v1/projects/app/runs/1/artifacts";

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_sent_as_it_is_and_never_as_a_page() {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    world.tell("app", &repository.push(&["main"])).await;
    let job = world.take().await;
    let keep = |path: &str, bytes: &[u8]| {
        let (digest, n_bytes) = world.server.runs().objects().put(bytes).unwrap();
        Artifact { path: path.to_owned(), n_bytes, digest, executable: false }
    };
    let page = b"<script>alert(1)</script>";
    let artifacts = vec![
        keep("doc/index.html", page),
        keep("a b/\u{f8}\".bin", b"\0\x01\x02\x03"),
        keep("empty", b""),
    ];
    let result = JobResult {
        outcome: Outcome::Success,
        outputs: Default::default(),
        layer: None,
        artifacts,
        log_bytes: 0,
        notes: Default::default(),
    };
    world.server.runs().finish(job.lease, result).await.unwrap();
    let list = world.get(ARTIFACTS).await.json();
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!(list[0]["job"], "build");

    let address = format!("{ARTIFACTS}/build/doc/index.html");
    let answer = world.get(&address).await;
    assert_eq!(answer.body, page);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(answer.header("content-disposition").unwrap().starts_with("attachment"));
    assert!(answer.header("content-security-policy").unwrap().contains("sandbox"));
    let etag = answer.header("etag").unwrap().to_owned();
    let known = world.ask("GET", &address, &[("If-None-Match", &etag)], b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let part = world.ask("GET", &address, &[("Range", "bytes=1-6")], b"").await;
    assert_eq!((part.status, part.text().as_str()), (206, "script"));

    let odd = world.get(&format!("{ARTIFACTS}/build/a%20b/%C3%B8%22.bin")).await;
    assert_eq!((odd.status, odd.body.as_slice()), (200, &b"\0\x01\x02\x03"[..]));
    assert_eq!(odd.header("content-type"), Some("application/octet-stream"));
    let disposition = odd.header("content-disposition").unwrap();
    assert_eq!(disposition, "attachment; filename=\"__.bin\"; filename*=UTF-8''%C3%B8%22.bin");
    assert_eq!(world.get(&format!("{ARTIFACTS}/build/empty")).await.status, 200);
    for missing in ["build/none", "test/empty", "build/../../../etc/passwd", "build/%2e%2e/kiln.db"]
    {
        let answer = world.get(&format!("{ARTIFACTS}/{missing}")).await;
        assert_eq!(answer.status, 404, "{missing}: {}", answer.text());
    }
}
