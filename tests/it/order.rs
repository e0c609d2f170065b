//! Jobs find what their needs left, in files and in values.

use kiln_it::Site;
use kiln_it::site::{job, states};

#[test]
fn a_job_sees_the_files_of_its_needs_and_no_others() {
    let site = Site::with(
        "jobs:\n  \
         base: { steps: ['echo base > base', 'rm remove', 'mkdir d', 'echo 1 > d/one'] }\n  \
         left: { needs: base, steps: [cat base, 'echo left > left', 'echo 2 > d/two'] }\n  \
         right: { needs: base, steps: ['test ! -e left', 'echo right > right', 'rm d/one'] }\n  \
         both: { needs: [left, right], steps: [cat base left right, 'ls d', 'test ! -e remove'] }\n  \
         alone: { steps: ['test ! -e base', cat remove] }\n",
    );
    site.tree.write("remove", "still here\n");
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{:?}", states(&run));
    assert_eq!(site.log(1, "both"), "base\nleft\nright\ntwo\n");
    assert_eq!(site.log(1, "alone"), "still here\n");
}

#[test]
fn values_go_to_later_jobs() {
    let site = Site::with(
        "jobs:\n  \
         version: { outputs: [number], steps: ['echo number=1.2.3 >> \"$KILN_OUTPUT\"'] }\n  \
         use: { needs: version, steps: ['echo \"$KILN_NEEDS_VERSION_NUMBER\"'] }\n  \
         never: { needs: version, if: 'needs.version.outputs.number == \"9\"', steps: [echo no] }\n  \
         always: { needs: version, if: 'needs.version.outputs.number == \"1.2.3\"', steps: [echo yes] }\n",
    );
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run:#}");
    assert_eq!(site.log(1, "use"), "1.2.3\n");
    let wanted = ["version=success", "use=success", "never=skipped", "always=success"];
    assert_eq!(states(&run), wanted);
    let why = site.kiln(&["why", "site#1/never"]).success().said();
    assert!(why.contains("1.2.3"), "the value is in the reason: {why}");
}

#[test]
fn a_promised_value_that_is_not_given_fails_the_job() {
    let site = Site::with("jobs: { a: { outputs: [x], steps: ['true'] } }\n");
    let run = site.run(1);
    assert_eq!(run["state"], "failed");
    let reason = job(&run, "a")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("`x`"), "{reason}");
}

#[test]
fn a_matrix_has_each_combination_that_is_wanted() {
    let site = Site::with(
        "jobs:\n  test:\n    matrix:\n      db: ['15', '16']\n      os: [linux, bsd]\n      \
         exclude: [{ db: '15', os: bsd }]\n      include: [{ db: '17', os: linux }]\n    \
         steps: ['echo $KILN_MATRIX_DB on $KILN_MATRIX_OS']\n  all: { needs: test, steps: [echo all] }\n",
    );
    let run = site.run(1);
    assert_eq!(
        states(&run),
        [
            "test:15,linux=success",
            "test:16,linux=success",
            "test:16,bsd=success",
            "test:17,linux=success",
            "all=success"
        ]
    );
    assert_eq!(site.log(1, "test:16,bsd"), "16 on bsd\n");
    assert_eq!(job(&run, "all")["needs"].as_array().map(Vec::len), Some(4));
}

#[test]
fn kept_files_can_be_fetched_as_they_were() {
    let site = Site::with(
        "jobs:\n  build:\n    artifacts: [out/*.bin, report]\n    steps:\n      - mkdir out report\n      \
         - printf 'a\\000b' > out/x.bin\n      - echo text > report/index.html\n      - echo no > out/y.txt\n",
    );
    assert_eq!(site.run(1)["state"], "success");
    let kept = site.server.json("/projects/site/runs/1/artifacts");
    let mut paths: Vec<_> = kept
        .as_array()
        .expect("a list")
        .iter()
        .map(|a| a["path"].as_str().unwrap_or("?"))
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["out/x.bin", "report/index.html"]);
    let file = site.server.get("/api/v1/projects/site/runs/1/artifacts/build/out/x.bin");
    assert_eq!((file.status, file.body.as_slice()), (200, b"a\0b".as_slice()));
    // What a job made is never a page of ours: its scripts would be, too.
    let page = site.server.get("/api/v1/projects/site/runs/1/artifacts/build/report/index.html");
    let safe = page.header("content-disposition").is_some_and(|v| v.starts_with("attachment"))
        || page.header("content-security-policy").is_some_and(|v| v.contains("sandbox"));
    assert!(safe, "{:?}", page.headers);
    for outside in ["../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd"] {
        let answer =
            site.server.get(&format!("/api/v1/projects/site/runs/1/artifacts/build/{outside}"));
        assert_eq!(answer.status, 404, "{outside}");
    }
}

#[test]
fn a_promised_file_that_is_not_there_fails_the_job() {
    let site = Site::with("jobs: { build: { artifacts: [app], steps: ['true'] } }\n");
    let run = site.run(1);
    assert_eq!(run["state"], "failed", "{run:#}");
    let reason = job(&run, "build")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("`app`"), "{reason}");
}

#[test]
fn a_link_out_of_the_workspace_is_not_kept() {
    let site = Site::with(
        "jobs: { build: { artifacts: ['out/**'], steps: [mkdir out, ln -s /etc out/etc, ln -s /etc/passwd out/p, echo ok > out/fine] } }\n",
    );
    site.run(1);
    for path in ["out/p", "out/etc/passwd"] {
        let answer =
            site.server.get(&format!("/api/v1/projects/site/runs/1/artifacts/build/{path}"));
        assert!(!answer.text().contains("root:"), "{path}");
    }
}

#[test]
fn git_works_in_the_workspace() {
    let site = Site::with(
        "on: { push: {} }\njobs: { a: { steps: [git describe --tags, 'git log --format=%s', git status --short] } }\n",
    );
    site.tree.commit("first");
    site.tree.git(["tag", "v1.0"]).success();
    site.tree.push(["v1.0"]);
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{}", site.log(1, "a"));
    let log = site.log(1, "a");
    assert!(log.starts_with("v1.0-1-g"), "{log}");
    assert!(log.ends_with("change\nfirst\n"), "{log}");
}
