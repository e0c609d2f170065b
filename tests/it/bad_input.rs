//! What nobody should hand to a program, and somebody will.

use std::net::TcpListener;
use std::path::Path;

use kiln_it::site::job;
use kiln_it::world::ran;
use kiln_it::{Ran, Site, WorkTree, World};

/// A clear error: the right code, these parts, and nothing that looks like a crash.
#[track_caller]
fn refused(done: Ran, code: i32, parts: &[&str]) {
    let said = done.exits(code).says(parts).said();
    for crash in ["panicked", "RUST_BACKTRACE", "stack overflow"] {
        assert!(!said.contains(crash), "{said}");
    }
}

fn with_manifest(manifest: &[u8]) -> WorkTree {
    let world = World::new();
    let tree = world.repository("work");
    tree.write(".kiln.yml", manifest);
    tree.commit("first");
    tree
}

#[test]
fn outside_a_repository() {
    let world = World::new();
    refused(world.kiln(world.path(), ["run"]), 2, &["error:", "git init"]);
    refused(world.kiln(world.path(), Vec::<&str>::new()), 2, &["error:", "git init"]);
}

#[test]
fn without_a_manifest() {
    let world = World::new();
    let tree = world.repository_with("work", &[("README", "x")]);
    for args in [&["run"][..], &["check"], &["plan"]] {
        refused(tree.kiln(args), 2, &[".kiln.yml", "help:"]);
    }
    refused(tree.kiln(["run", "-f", "nowhere.yml"]), 2, &["nowhere.yml"]);
    std::fs::create_dir(tree.path.join("folder.yml")).expect("a folder");
    refused(tree.kiln(["check", "folder.yml"]), 2, &["folder.yml"]);
}

#[test]
fn an_empty_a_binary_and_a_huge_manifest() {
    refused(with_manifest(b"").kiln(["run"]), 2, &[".kiln.yml"]);
    refused(with_manifest(b"# nothing\n").kiln(["run"]), 2, &[".kiln.yml"]);
    refused(with_manifest(b"\x7fELF\x02\x01\x01\x00\xff\xfe\x80").kiln(["run"]), 2, &[".kiln.yml"]);
    let huge = "# x\n".repeat(50 << 18);
    refused(with_manifest(huge.as_bytes()).kiln(["run"]), 2, &[".kiln.yml", "MB"]);
    let deep = format!("jobs: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    refused(with_manifest(deep.as_bytes()).kiln(["run"]), 2, &[".kiln.yml"]);
}

#[test]
fn aliases_that_explode() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let line = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb += &format!("a{n}: &a{n} [{line}]\n");
    }
    bomb += "jobs: { a: { steps: *a11 } }\n";
    refused(with_manifest(bomb.as_bytes()).kiln(["check"]), 2, &[".kiln.yml"]);
}

#[test]
fn a_pushed_manifest_may_be_a_symlink_inside_the_repository() {
    let site = Site::with("");
    std::fs::remove_file(site.tree.path.join(".kiln.yml")).expect("it was there");
    site.tree.write("ci/kiln.yml", "jobs: { a: { steps: [echo ok] } }\n");
    let link = |target: &str| {
        let at = site.tree.path.join(".kiln.yml");
        let _ = std::fs::remove_file(&at);
        std::os::unix::fs::symlink(target, at).expect("a link");
    };
    link("ci/kiln.yml");
    assert_eq!(site.run(1)["state"], "success");
    for (number, target) in [(2, "/etc/passwd"), (3, ".kiln.yml"), (4, "nowhere"), (5, "ci")] {
        link(target);
        let run = site.run(number);
        assert_eq!(run["state"], "failed", "{target}: {run:#}");
        let reason = run["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("`.kiln.yml` is a") && reason.contains("not a file"), "{reason}");
    }
}

#[test]
fn a_pushed_bad_manifest_is_a_failed_run_that_says_where() {
    let site = Site::with("jobs:\n  a: { stpes: [x] }\n");
    let run = site.run(1);
    assert_eq!(run["state"], "failed", "{run:#}");
    let reason = run["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(".kiln.yml:2"), "{reason}");
    // The next push is right, and runs.
    site.tree.write(".kiln.yml", "jobs: { a: { steps: [echo ok] } }\n");
    assert_eq!(site.run(2)["state"], "success");
    for manifest in [&b""[..], b"\x00\xff", "# x\n".repeat(50 << 18).as_bytes()] {
        site.tree.write(".kiln.yml", manifest);
        site.push();
    }
    for number in 3..=5 {
        let run = site.server.over("site", number);
        assert_eq!(run["state"], "failed", "{run:#}");
        assert!(run["reason"].as_str().is_some_and(|r| r.contains(".kiln.yml")), "{run:#}");
    }
}

#[test]
fn one_line_of_a_gigabyte() {
    let site = Site::with(
        "jobs: { a: { steps: ['head -c 1000000000 /dev/zero | tr \"\\000\" x'] }, b: { steps: [echo b] } }\n",
    );
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run:#}");
    assert_eq!(job(&run, "a")["log_bytes"], 1_000_000_000);
    let lines = "/api/v1/projects/site/runs/1/jobs/a/log/lines?from=0&n=200";
    let window = site.server.get(lines);
    assert_eq!(window.status, 200);
    assert!(window.body.len() < 10_000_000, "a window is a window: {} bytes", window.body.len());
    assert!(window.json()["lines"][0]["cut_from"].is_u64(), "the cut is told");
    let range = [("Range", "bytes=999999990-")];
    let path = "/api/v1/projects/site/runs/1/jobs/a/log";
    let end =
        kiln_it::http::request(site.server.address, "GET", path, &range, b"").expect("an answer");
    assert_eq!(end.text(), "x".repeat(10));
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", site.server.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 200_000, "the server held the log in memory: {peak} kB");
}

#[test]
fn a_full_disk_ends_the_job_and_not_the_server() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can mount a small disk: not tried");
        return;
    }
    let world = World::new();
    let disk = world.at("data");
    std::fs::create_dir(&disk).expect("a folder");
    let mut mount = world.command("mount");
    ran(mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&disk)).success();
    let _unmount = Unmount(&disk);
    let bare = world.bare("site.git");
    let tree = world.clone_of(&bare, "site");
    tree.write(".kiln.yml", "jobs: { big: { steps: [seq 100000000] } }\n");
    tree.commit("big");
    let server = world.serve();
    world.watch("site", &bare);
    tree.push(["HEAD:refs/heads/main"]);
    let run = server.over("site", 1);
    assert_eq!(run["state"], "failed", "{run:#}");
    let reason = job(&run, "big")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("space") || reason.contains("full"), "{reason}");
    // What was printed until then is a whole prefix.
    let log = server.log("site", 1, "big");
    let whole: Vec<u8> = (1..)
        .map(|n| format!("{n}\n").into_bytes())
        .take(log.len() / 2)
        .flatten()
        .take(log.len())
        .collect();
    assert!(log == whole, "the log is not a prefix of what was printed");
    // With room again, the server goes on.
    std::fs::remove_dir_all(disk.join("logs/1")).expect("the logs lie there");
    tree.write(".kiln.yml", "jobs: { small: { steps: [echo small] } }\n");
    tree.commit("small");
    tree.push(["HEAD:refs/heads/main"]);
    assert_eq!(server.over("site", 2)["state"], "success");
    drop(server);
}

/// The hook can neither reach the store nor leave a note: the disk is the same. What was pushed is in
/// the repository, and the server looks there again by itself.
#[test]
fn a_push_onto_a_full_disk_runs_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can mount a small disk: not tried");
        return;
    }
    let world = World::new();
    let disk = world.at("data");
    std::fs::create_dir(&disk).expect("a folder");
    let mut mount = world.command("mount");
    ran(mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&disk)).success();
    let _unmount = Unmount(&disk);
    let bare = world.bare("site.git");
    let tree = world.clone_of(&bare, "site");
    tree.write(".kiln.yml", "jobs: { a: { steps: [echo a] } }\n");
    let server = world.serve();
    world.watch("site", &bare);
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).expect("there is room yet");
    while std::io::Write::write_all(&mut file, &[1; 512]).is_ok() {}
    drop(file);
    let commit = tree.commit("onto a full disk");
    let said = tree.push(["HEAD:refs/heads/main"]).said();
    assert!(said.contains("disk is full") && said.contains("free some space"), "{said}");
    let answer = server.post("/projects/site/runs", &serde_json::json!({ "commit": commit }));
    assert_eq!(answer.status, 503, "{}", answer.text());
    std::fs::remove_file(&filler).expect("it is there");
    let run = server.over("site", 1);
    assert_eq!(run["commit"], commit.as_str());
    assert_eq!(run["state"], "success", "{run:#}");
    drop(server);
}

struct Unmount<'p>(&'p Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let mut unmount = kiln_stdx::process::command("umount");
        // Lazily: a failing test may still have a server on it, which ends right after.
        let _ = kiln_stdx::process::output(unmount.arg("--lazy").arg(self.0));
    }
}

#[test]
fn a_taken_port_and_a_taken_data_folder() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let Err(said) = world.try_serve(&["--listen", &address]) else { panic!("two on one port") };
    let port = taken.local_addr().expect("its address").port().to_string();
    assert!(said.contains(&port) && said.contains("taken"), "{said}");
    let server = world.serve();
    let Err(said) = world.try_serve(&["--listen", "127.0.0.1:0"]) else {
        panic!("two on one folder")
    };
    assert!(said.contains(&server.pid().to_string()), "the other's process id: {said}");
    assert!(said.contains("data"), "the folder: {said}");
    assert_eq!(server.get("/").status, 200, "the first one goes on");
}

#[test]
fn a_data_folder_of_a_newer_version() {
    let world = World::new();
    world.serve().stop();
    let database = world.data().join("kiln.db");
    assert!(database.is_file(), "the database lies where it is said to");
    // What a version from the future leaves: a migration that this one does not know.
    let newer = "INSERT INTO schema_version SELECT version + 1000, 'from_the_future', checksum, '99.0.0', applied_at \
                 FROM schema_version ORDER BY version DESC LIMIT 1; PRAGMA wal_checkpoint(TRUNCATE)";
    ran(world.command("sqlite3").arg(&database).arg(newer)).success();
    let before = std::fs::read(&database).expect("the database");
    let Err(said) = world.try_serve(&["--listen", "127.0.0.1:0"]) else { panic!("it was served") };
    assert!(said.contains("99.0.0") && said.contains("kiln.db"), "{said}");
    assert_eq!(std::fs::read(&database).expect("the database"), before, "it was touched");
}

#[test]
fn projects_that_cannot_be() {
    let world = World::new();
    let _server = world.serve();
    let add =
        |name: &str, repo: &str| world.kiln(world.path(), ["project", "add", name, "--repo", repo]);
    refused(add("site", "/nowhere/at/all"), 2, &["/nowhere/at/all"]);
    refused(add("../x", "/tmp"), 2, &["../x"]);
    refused(add("site", "--upload-pack=touch owned"), 2, &["--upload-pack"]);
    refused(add("site", "ext::sh -c 'touch owned'"), 2, &["ext::"]);
    let endless = "x".repeat(100_000);
    let said = add("site", &endless).exits(2).said();
    assert!(said.len() < 500, "the whole of it is repeated: {} bytes", said.len());
    assert!(!world.at("owned").exists());
    let bare = world.bare("site.git");
    add("site", &bare.path.to_string_lossy()).success();
    refused(add("site", &bare.path.to_string_lossy()), 2, &["site"]);
    refused(world.kiln(world.path(), ["show", "site#1"]), 2, &["run"]);
    refused(world.kiln(world.path(), ["logs", "nosuch#1/a"]), 2, &["project"]);
}
