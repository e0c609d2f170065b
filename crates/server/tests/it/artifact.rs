use kiln_api::agent::{JobResult, JobSource};
use kiln_model::Outcome;
use kiln_model::artifact::Artifact;
use kiln_model::layer::Digest;

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
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let digest = answer.header("repr-digest").unwrap();
    assert_eq!(digest, "sha-256=:XBQNNdy0amIuLO3171zDY4zf/RwRjJMx+MhGafC3R4M=:");
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

/// A page that a job made is shown without its scripts, and at an address where its parts find one
/// another.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_job_is_shown_and_runs_nothing() {
    let (world, _) = with_artifacts(&[("doc/index.html", b"<script>alert(1)</script>")]).await;
    let shown = world.get("/p/app/1/build/files/1/doc/index.html").await;
    assert_eq!(shown.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(shown.header("content-disposition"), Some("inline"));
    let policy = shown.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("; sandbox"), "{policy}");
    assert!(!policy.contains("script") && !policy.contains("allow-forms"), "{policy}");
    for missing in ["1/doc/none.html", "2/doc/index.html", "x/doc/index.html"] {
        let answer = world.get(&format!("/p/app/1/build/files/{missing}")).await;
        assert_eq!(answer.status, 404, "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_packed_while_they_are_sent() {
    let large = vec![7; 3 << 20];
    let files: &[(&str, &[u8])] =
        &[("out/a", b"a"), ("out/b/\u{f8}", b"b"), ("outer", b"c"), ("out/large", &large)];
    let (world, digests) = with_artifacts(files).await;
    let get = async |query: &str| world.get(&format!("{ARTIFACTS}{query}")).await;
    let tar = get(".tar?path=out").await;
    assert_eq!(tar.header("content-length"), Some(tar.body.len().to_string().as_str()));
    assert_eq!(tar.header("content-type"), Some("application/x-tar"));
    let name = tar.header("content-disposition").unwrap();
    assert!(name.starts_with("attachment; filename=\"app-1-out.tar\""), "{name}");
    let listed = listed(&tar.body, "-tf");
    assert_eq!(listed, "out/a\nout/b/\u{f8}\nout/large\n");
    let packed = get(".tar.zst").await;
    assert!(packed.body.len() < 10_000 && packed.body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let zip = get(".zip?path=outer&job=build&attempt=1").await;
    assert_eq!(zip.header("content-length"), Some(zip.body.len().to_string().as_str()));
    assert!(zip.body.starts_with(b"PK\x03\x04") && !zip.body.windows(5).any(|w| w == b"out/a"));
    for missing in [".zip?path=ou", ".tar?job=none", ".zip?attempt=2", ".tar?path=../etc"] {
        assert_eq!(get(missing).await.error(), (404, "artifact_not_found".to_owned()), "{missing}");
    }
    // One of them is gone: said at once, and not in the middle of an archive.
    world.server.runs().objects().remove(&digests[1]).unwrap();
    assert_eq!(get(".zip").await.error(), (410, "artifact_gone".to_owned()));
    assert_eq!(get("/build/out/b/%C3%B8").await.error(), (410, "artifact_gone".to_owned()));
    assert_eq!(get("/build/out/a").await.status, 200);
}

/// A run of `app` whose job `build` gave these.
async fn with_artifacts(files: &[(&str, &[u8])]) -> (World, Vec<Digest>) {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    world.tell("app", &repository.push(&["main"])).await;
    let job = world.take().await;
    let mut result = JobResult::bare(Outcome::Success, 0);
    for (path, bytes) in files {
        let (digest, n_bytes) = world.server.runs().objects().put(*bytes).unwrap();
        let path = (*path).to_owned();
        result.artifacts.push(Artifact { path, n_bytes, digest, executable: false });
    }
    let digests = result.artifacts.iter().map(|artifact| artifact.digest.clone()).collect();
    world.server.runs().finish(job.lease, result).await.unwrap();
    (world, digests)
}

fn listed(archive: &[u8], how: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let mut tar = kiln_stdx::process::command("tar");
    tar.env("LC_ALL", "C.UTF-8").arg("--quoting-style=literal").arg(how).arg(file.path());
    String::from_utf8(kiln_stdx::process::output(&mut tar).unwrap()).unwrap()
}
