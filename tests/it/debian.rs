//! A program that nobody here wrote: GNU hello, from Debian's sources, built by a push.

use std::path::{Path, PathBuf};

use kiln_it::site::states;
use kiln_it::world::ran;
use kiln_it::{Site, World, binary};

/// The first step makes all files equally old, because git keeps no times and make compares them.
const MANIFEST: &str = "\
jobs:
  configure:
    steps:
      - find . -type f -exec touch -r configure.ac {} +
      - ./configure --disable-dependency-tracking
  build:
    needs: configure
    steps: [make]
    artifacts: [hello]
  check:
    needs: build
    steps: [make check]
  doc:
    needs: build
    steps: [make html]
    artifacts: [hello.1, doc/hello.html]
";

#[test]
fn gnu_hello_is_built_checked_and_documented() {
    let site = Site::with("");
    let source = fetch(&site.world);
    let mut copy = site.world.command("cp");
    ran(copy.args(["-a", "--"]).arg(source.join(".")).arg(&site.tree.path)).success();
    site.tree.write(".kiln.yml", MANIFEST);
    let run = site.run(1);
    let logs = || ["configure", "build", "check", "doc"].map(|job| tail(&site, job)).join("\n");
    let wanted = ["configure=success", "build=success", "check=success", "doc=success"];
    assert_eq!(states(&run), wanted, "{}", logs());
    assert!(site.log(1, "check").contains("PASS: tests/hello-1"), "{}", tail(&site, "check"));
    let program = site.server.get("/api/v1/projects/site/runs/1/artifacts/build/hello");
    let at = site.world.at("hello");
    std::fs::write(&at, &program.body).expect("the program");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&at, mode).expect("executable");
    assert_eq!(ran(&mut site.world.command(&at)).success().stdout, "Hello, world!\n");
    let page =
        site.server.get("/api/v1/projects/site/runs/1/artifacts/doc/doc/hello.html/index.html");
    assert!(page.text().contains("GNU Hello"), "the manual");
}

/// The end of a job's log, for a failing story.
fn tail(site: &Site, job: &str) -> String {
    let answer = site.server.get(&format!("/api/v1/projects/site/runs/1/jobs/{job}/log"));
    let text = answer.text();
    let n_lines = text.lines().count();
    let lines: Vec<_> = text.lines().skip(n_lines.saturating_sub(20)).collect();
    format!("--- {job}\n{}", lines.join("\n"))
}

/// The unpacked source. Fetched once and kept with what is built.
fn fetch(world: &World) -> PathBuf {
    let kept = binary::target().join("debian");
    if find(&kept, ".dsc").is_none() {
        let folder = world.at("fetched");
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        download(world, &folder);
        std::fs::create_dir_all(&kept).expect("a folder");
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_file() && entry.file_name().to_string_lossy().starts_with("hello_") {
                std::fs::copy(&path, kept.join(entry.file_name())).expect("kept");
            }
        }
    }
    let description = find(&kept, ".dsc").expect("apt-get fetched a source package");
    let unpacked = world.at("unpacked");
    let mut unpack = world.command("dpkg-source");
    ran(unpack.args(["--no-check", "-x"]).arg(description).arg(&unpacked)).success();
    unpacked
}

fn find(folder: &Path, end: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| path.to_string_lossy().ends_with(end))
}

/// With lists of its own, so that the machine's are not touched and root is not needed.
fn download(world: &World, folder: &Path) {
    let targets =
        ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"];
    let known = ran(world.command("apt-get").args(targets)).success().stdout;
    let sources: String =
        known.lines().filter(|l| l.ends_with(" main")).map(|l| format!("deb-src {l}\n")).collect();
    let list = folder.join("sources.list");
    std::fs::write(&list, sources).expect("the list");
    let apt = |args: &[&str]| {
        let mut command = world.command("apt-get");
        command.args(["-q", "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        for (option, path) in [
            ("Dir::Etc::sourcelist", list.clone()),
            ("Dir::State::lists", folder.join("lists")),
            ("Dir::Cache", folder.join("cache")),
        ] {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        // The machine may reach Debian through a proxy only.
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        ran(command.args(args).current_dir(folder)).success();
    };
    apt(&["update"]);
    apt(&["source", "--download-only", "hello"]);
}
