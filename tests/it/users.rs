//! Containers of an ordinary user who has subordinate users: the image's files have their owners, its user is
//! itself, and nothing that others own in there is in anybody's way afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_it::world::{Ran, ran};
use kiln_it::{World, binary, browser, wait};
use kiln_stdx::process;
use rustix::process::{Pid, Signal, kill_process};

use crate::containers::{make_root, pack, scratch};

/// Whom the stories are played as: it has no subordinate users of its own.
const USER: u32 = 65_534;
/// The first of those that it is given.
const FIRST: u32 = 2_000_000;

const MANIFEST: &str = "jobs:
  itself:
    image: docker-archive:node.tar
    network: none
    steps:
      - id -un; cat /home/node/mine; stat -c '%u %g' /home/node/mine /etc/secret; stat -c %a /opt/tool
      - test ! -e /home/node/link/; touch /tmp/more; stat -c %U /tmp/more
  root:
    image: { name: docker-archive:node.tar, user: root }
    network: none
    steps:
      - mkdir -p kept/deep /opt/deep; echo ours > kept/deep/file; chown -R 1000:1000 . /opt/deep; chmod 700 kept /opt/deep
      - stat -c '%u %g' . kept; su node -c 'echo more >> kept/deep/file; chmod 0 kept/deep'
    artifacts: [kept/deep/file]
  after:
    needs: root
    steps: [chmod 700 kept/deep; cat kept/deep/file]
  beside:
    network: none
    services: { db: { image: \"docker-archive:node.tar\", command: [sh, -c, \"echo up > /home/node/up; sleep 1000\"], ready: test -O /home/node/up } }
    steps: [echo with a service]
  cut:
    image: { name: docker-archive:node.tar, user: root }
    network: none
    steps: [mkdir -p a/b /opt/b; chown -R 1000 a /opt/b; chmod 0 a/b /opt/b; echo there > $KILN_OUTPUT; sleep 1000]
";

/// One user with a repository that has an image of several users' files.
struct Somebody {
    world: World,
    kiln: PathBuf,
    work: PathBuf,
}

impl Somebody {
    /// `None`: only root can give somebody subordinate users.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not root, so nobody can be given subordinate users");
            return None;
        }
        browser::needs("newuidmap");
        let world = World::new();
        let work = world.repository_with("work", &[(".kiln.yml", MANIFEST)]).path;
        let scratch = scratch(&world);
        make_root(&scratch.join("root"));
        own(&scratch.join("root"));
        pack(&work.join("node.tar"), &scratch, r#"{"Env":["PATH=/bin"],"User":"node"}"#);
        let kiln = world.at("kiln");
        fs::copy(binary::kiln(), &kiln).unwrap();
        fs::write(world.at("numbers"), format!("{USER}:{FIRST}:65536\n")).unwrap();
        let mut give = process::command("chown");
        give.args(["-R", &format!("{USER}:{USER}")]).arg(world.path());
        process::output(&mut give).unwrap();
        Some(Self { world, kiln, work })
    }

    /// In a view of the machine in which it has its numbers.
    fn command(&self, words: &[&str]) -> Command {
        const AS: &str =
            "mount --bind \"$1\" /etc/subuid; mount --bind \"$1\" /etc/subgid; shift; exec \"$@\"";
        let mut command = self.world.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", AS, "sh"]);
        command.arg(self.world.at("numbers"));
        command.args(["setpriv", "--clear-groups", "--regid", &USER.to_string()]);
        command.args(["--reuid", &USER.to_string()]).arg(&self.kiln).args(words);
        command.current_dir(&self.work);
        command
    }

    fn kiln(&self, words: &[&str]) -> Ran {
        ran(&mut self.command(words))
    }

    /// Files in its data folder that are not its own.
    fn others(&self) -> Vec<PathBuf> {
        let mut rest = vec![self.world.data()];
        let mut found = Vec::new();
        while let Some(path) = rest.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            if meta.uid() != USER {
                found.push(path);
            }
        }
        found
    }
}

/// Files of several owners, as images have them.
fn own(root: &Path) {
    let passwd = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    for folder in ["home/node", "opt", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    for (file, uid, gid, mode) in [
        ("etc/secret", 0, 42, 0o640),
        ("home/node/mine", 1000, 1000, 0o600),
        ("opt/tool", 1000, 42, 0o6755),
    ] {
        let path = root.join(file);
        fs::write(&path, "mine\n").unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    chown(root.join("home/node"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(root.join("home/node"), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn an_ordinary_users_containers_have_all_users_and_leave_nothing_that_is_not_its_own() {
    let Some(somebody) = Somebody::new() else { return };
    let said = somebody.kiln(&["run", "itself", "after", "beside"]).success().said();
    for line in [
        "itself | node",
        "itself | mine",
        "1000 1000",
        "0 42",
        "6755",
        "after | ours",
        "after | more",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("one user"), "{said}");
    let of_images = somebody.world.data().join("local/layers/images");
    let others = somebody.others();
    assert!(
        !others.is_empty() && others.iter().all(|path| path.starts_with(&of_images)),
        "{others:?}"
    );

    let verified = somebody.kiln(&["gc", "--verify", "--keep-runs", "0", "--keep-images", "0"]);
    assert!(verified.success().said().contains("images"));
    let left: Vec<_> =
        fs::read_dir(of_images).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(somebody.others(), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_container_has_left_to_others_is_taken_back_and_removed() {
    let Some(somebody) = Somebody::new() else { return };
    let mut command = somebody.command(&["run", "cut"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = command.spawn().expect("it starts");
    let attempts = somebody.world.data().join("local/layers/attempts");
    let attempt = wait::until("the job has given its files away", || {
        let attempt = fs::read_dir(&attempts).ok()?.next()?.ok()?.path();
        let said = fs::read_to_string(attempt.join("output")).ok()?;
        said.contains("there").then_some(attempt)
    });
    // Without whom nobody brings the files home; and nobody shall hear of its end.
    kill_process(Pid::from_child(&run), Signal::STOP).unwrap();
    kill_process(init_of(&attempt), Signal::KILL).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(somebody.others().iter().any(|path| path.starts_with(&attempt)));

    somebody.kiln(&["gc", "--keep-runs", "0", "--keep-images", "0"]).success();
    assert!(!attempt.exists());
    assert_eq!(somebody.others(), Vec::<PathBuf>::new());
}

/// The process that owns a session.
fn init_of(attempt: &Path) -> Pid {
    let text = fs::read(attempt.join("init.json")).expect("the session is open");
    let said: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    Pid::from_raw(said["pid"].as_i64().unwrap().try_into().unwrap()).expect("a number")
}
