//! Jobs with an `image` run in a container of it, which kiln makes itself.

use std::os::unix::fs::symlink;
use std::path::Path;

use kiln_it::site::{Site, job};
use kiln_it::{World, browser};
use kiln_stdx::process;

/// Commands of the small image: all of them one program.
const COMMANDS: &[&str] = &[
    "sh", "cat", "chmod", "chown", "echo", "env", "grep", "hostname", "id", "ls", "mkdir", "ps",
    "sleep", "stat", "su", "test", "touch", "wc",
];

/// Runs a program of the machine and gives the first word that it prints.
fn first_word(program: &str, args: &[&str], at: &Path) -> String {
    let mut command = process::command(program);
    let done = process::any_output(command.args(args).current_dir(at)).expect("it is installed");
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Writes what `docker save` would give of an image with one static program.
pub fn save_image(at: &Path, scratch: &Path) {
    make_root(&scratch.join("root"));
    pack(at, scratch, r#"{"Env":["PATH=/bin","OF_IMAGE=yes"]}"#);
}

/// The files of that image.
pub fn make_root(root: &Path) {
    browser::needs("busybox");
    for folder in ["bin", "etc", "root"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let program =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    std::fs::copy(program.expect("it is installed"), root.join("bin/busybox")).expect("a copy");
    for name in COMMANDS {
        symlink("busybox", root.join("bin").join(name)).expect("a link");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("a file");
}

/// Makes an archive of `root` in `scratch`, an image with this configuration.
pub fn pack(at: &Path, scratch: &Path, config: &str) {
    first_word("tar", &["-cf", "layer.tar", "-C", "root", "."], scratch);
    let layer = first_word("sha256sum", &["layer.tar"], scratch);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"os":"linux","architecture":"{architecture}","config":{config},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{layer}"]}}}}"#
    );
    std::fs::write(scratch.join("config.json"), config).expect("a file");
    let manifest = r#"[{"Config":"config.json","RepoTags":["tiny:1"],"Layers":["layer.tar"]}]"#;
    std::fs::write(scratch.join("manifest.json"), manifest).expect("a file");
    let archive = at.to_str().expect("plain text");
    first_word("tar", &["-cf", archive, "manifest.json", "config.json", "layer.tar"], scratch);
}

pub fn scratch(world: &World) -> std::path::PathBuf {
    let scratch = world.path().join("image");
    std::fs::create_dir_all(&scratch).expect("a folder");
    scratch
}

const MANIFEST: &str = "jobs:
  build:
    image: docker-archive:tiny.tar
    outputs: [version]
    artifacts: [made]
    steps:
      - echo \"in $PWD with $OF_IMAGE as $(id -u), home $HOME\"; ls /
      - echo made here > made; echo version=7 >> $KILN_OUTPUT
      - test ! -e /usr/bin/git; ps | wc -l
  inside:
    needs: build
    image: docker-archive:tiny.tar:tiny:1
    steps: [cat made; echo \"version $KILN_NEEDS_BUILD_VERSION\"; echo more >> made]
  outside:
    needs: inside
    steps: [cat made]
";

#[test]
fn a_job_runs_in_the_image_that_it_names() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", MANIFEST)]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    let said = tree.kiln(["run"]).success().said();
    assert!(said.contains("in /workspace with yes as 0, home /root"), "{said}");
    assert!(!said.contains("| usr\n") && said.contains("| workspace\n"), "{said}");
    assert!(said.contains("inside | made here") && said.contains("version 7"), "{said}");
    assert!(said.contains("outside | made here") && said.contains("outside | more"), "{said}");
    assert!(!tree.path.join("made").exists());
    let kept = tree.kiln(["artifacts", "#1"]).success().said();
    assert!(kept.contains("made"), "{kept}");
}

/// Whether they get one container after the other or one for several of them.
#[test]
fn jobs_in_one_image_find_nothing_of_one_another() {
    let world = World::new();
    let job = |n: usize, step: &str| {
        format!(
            "  j{n:02}: {{ image: 'docker-archive:tiny.tar', network: none, steps: ['{step}'] }}\n"
        )
    };
    let leaves = "test ! -e /tmp/mark && touch /tmp/mark /dev/shm/mark && echo is job $KILN_JOB";
    let looks = "test ! -e /tmp/mark && test ! -e /dev/shm/mark && echo is job $KILN_JOB";
    let jobs: String = (0..12).map(|n| job(n, if n % 4 == 2 { leaves } else { looks })).collect();
    let tree = world.repository_with("work", &[(".kiln.yml", &format!("jobs:\n{jobs}"))]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    let said = tree.kiln(["run", "--jobs", "1"]).success().said();
    for n in 0..12 {
        assert!(said.contains(&format!("j{n:02} | is job j{n:02}\n")), "{said}");
    }
}

#[test]
fn a_pushed_job_finds_its_image_in_its_commit() {
    let site = Site::with(MANIFEST);
    save_image(&site.tree.path.join("tiny.tar"), &scratch(&site.world));
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run}");
    assert_eq!(job(&run, "inside")["state"], "success");
    assert!(site.log(1, "build").contains("with yes"));
    assert!(site.log(1, "outside").contains("more"));
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let world = World::new();
    let manifest = "jobs:\n  a:\n    image: docker-archive:none.tar\n    steps: [\"true\"]\n";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    let said = tree.kiln(["run"]);
    assert_eq!(said.code, Some(1));
    let said = said.said();
    assert!(
        said.contains("`none.tar`") && said.contains("no such file in the repository"),
        "{said}"
    );
}
