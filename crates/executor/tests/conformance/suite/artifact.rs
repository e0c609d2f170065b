//! Files that a job hands in.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kiln_executor::{Session, StepError};
use kiln_model::plan::ArtifactRule;

use crate::bench::{Bench, Case, Subject, sh, step};
use crate::cases;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![
        artifacts_are_collected_by_glob,
        an_artifact_that_is_missing_is_named,
        artifacts_never_come_from_outside,
        odd_artifacts_are_named,
    ]
}

fn rules<const N: usize>(globs: [&str; N]) -> Vec<ArtifactRule> {
    globs.map(|glob| ArtifactRule { glob: glob.to_owned(), optional: false }).to_vec()
}

async fn artifacts_are_collected_by_glob<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let script = "mkdir -p out/deep 'a b' other; echo one > out/one.txt; echo two > out/deep/two.txt; \
                  echo x > out/deep/x.log; cp /bin/true out/tool; echo s > 'a b/s*p'; : > empty; \
                  ln -s out/one.txt link; ln -s out linked; echo no > other/no.txt";
    step(&mut session, sh(script)).await.unwrap();
    let objects = bench.path("objects");
    for (globs, expected) in [
        (vec!["out/*.txt"], vec!["out/one.txt"]),
        (vec!["./out/**/*.txt"], vec!["out/deep/two.txt", "out/one.txt"]),
        (vec!["out/"], vec!["out/deep/two.txt", "out/deep/x.log", "out/one.txt", "out/tool"]),
        (vec!["o*t/de*"], vec!["out/deep/two.txt", "out/deep/x.log"]),
        (vec!["out/tool", "out/t*", "empty"], vec!["empty", "out/tool"]),
        (vec!["out/{one,two}.txt", "[l]ink"], vec!["link", "out/one.txt"]),
        (vec!["linked/*.txt"], vec!["linked/one.txt"]),
        (vec!["a b/s\\*p"], vec!["a b/s*p"]),
    ] {
        let rules = globs
            .iter()
            .map(|glob| ArtifactRule { glob: (*glob).to_owned(), optional: false })
            .collect();
        let found = session.collect(rules, objects.clone()).await.expect("all is there");
        let paths: Vec<&str> = found.iter().map(|artifact| artifact.path.as_str()).collect();
        assert_eq!(paths, expected, "{globs:?}");
        for artifact in found {
            let (folder, file) = artifact.digest.as_str().split_at(2);
            let kept = std::fs::read(objects.join(folder).join(file)).unwrap();
            assert_eq!(kept, std::fs::read(bench.path("work").join(&artifact.path)).unwrap());
            assert_eq!(artifact.n_bytes, kept.len() as u64);
            assert_eq!(artifact.executable, artifact.path == "out/tool");
        }
    }
    let optional = vec![ArtifactRule { glob: "*.none".to_owned(), optional: true }];
    assert_eq!(session.collect(optional, objects.clone()).await, Ok(vec![]));
    session.close().await.unwrap();
    let left_over = std::fs::read_dir(objects).unwrap().flatten();
    assert!(left_over.into_iter().all(|entry| entry.file_name().len() == 2));
}

async fn an_artifact_that_is_missing_is_named<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for glob in ["none.txt", "no/such/*", "**/*.xml"] {
        let expected =
            StepError::Artifact { what: glob.to_owned(), cause: "no file matches it".to_owned() };
        assert_eq!(session.collect(rules([glob]), bench.path("objects")).await, Err(expected));
    }
    for glob in ["", "../x", "/etc/passwd", "a/../../b", "a[", "a/{b"] {
        let refused = session.collect(rules([glob]), bench.path("objects")).await;
        assert!(
            matches!(&refused, Err(StepError::Artifact { what, .. }) if what == glob),
            "{glob}: {refused:?}"
        );
    }
    session.close().await.unwrap();
}

async fn artifacts_never_come_from_outside<E: Subject>(bench: Bench<E>) {
    std::fs::write(bench.path("outside"), "not yours").unwrap();
    let mut session = bench.open().await;
    let script = "ln -s ../outside up; ln -s /etc/passwd absolute; ln -s .. parent; \
                  mkdir d; ln -s ../../outside d/up; ln -s /proc/self/root root";
    step(&mut session, sh(script)).await.unwrap();
    for glob in ["up", "absolute", "parent/outside", "parent/*", "d", "d/*", "root/etc/passwd"] {
        let refused = session.collect(rules([glob]), bench.path("objects")).await;
        assert!(matches!(refused, Err(StepError::Artifact { .. })), "{glob}: {refused:?}");
    }
    // A link that is not asked for does no harm, and a walk does not go through it.
    let found = session.collect(rules(["**/outside"]), bench.path("objects")).await;
    assert!(matches!(&found, Err(StepError::Artifact { what, .. }) if what == "**/outside"));
    session.close().await.unwrap();
    assert!(!bench.path("objects").exists());
}

async fn odd_artifacts_are_named<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    step(&mut session, sh("mkfifo fifo; ln -s gone dangling; mkdir d; ln -s d folder"))
        .await
        .unwrap();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::write(bench.path("work").join(Path::new(name)), "").unwrap();
    for (glob, what, cause) in [
        ("fifo", "fifo", "it is not a regular file"),
        ("dang*", "dangling", "it is a link to `gone`, which does not exist"),
        ("fold*", "folder", "it is a link to a folder"),
        ("caf*", "caf\u{fffd}", "its name is not UTF-8"),
    ] {
        let expected = StepError::Artifact { what: what.to_owned(), cause: cause.to_owned() };
        let refused = session.collect(rules([glob]), bench.path("objects")).await;
        assert_eq!(refused, Err(expected));
    }
    session.close().await.unwrap();
}
