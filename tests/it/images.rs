//! Images of registries, from a real one on this machine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use kiln_it::{World, browser, wait};
use kiln_stdx::process;

use crate::containers::{save_image, scratch};

/// `user` with the password `pass`.
const USERS: &str = "user:$2b$12$k1gXF6Dk2r8rF0LBMNfHKeNMdxl0/cIdMaSzLICmYQPawk6Myy5yK\n";
/// `user:pass` in base 64.
const LOGIN: &str = "dXNlcjpwYXNz";

/// A registry that knows one user and has one image, `team/tiny:1`.
struct Registry {
    host: String,
    program: Child,
}

impl Registry {
    fn new(world: &World) -> Self {
        browser::needs("docker-registry");
        browser::needs("skopeo");
        let folder = world.path().join("registry");
        fs::create_dir_all(folder.join("data")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let shown = folder.display();
        fs::write(folder.join("users"), USERS).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: \"{shown}/data\" }} }}\n\
             http: {{ addr: \"{host}\" }}\nauth: {{ htpasswd: {{ realm: test, path: \"{shown}/users\" }} }}\n"
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let mut command = process::command("docker-registry");
        command.arg("serve").arg(folder.join("config.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.spawn().expect("it is installed");
        let registry = Self { host, program };
        wait::until("the registry listens", || TcpStream::connect(&registry.host).ok());
        let archive = world.path().join("tiny.tar");
        save_image(&archive, &scratch(world));
        registry.push(&archive, "team/tiny:1");
        registry
    }

    fn push(&self, archive: &Path, name: &str) {
        let mut command = process::command("skopeo");
        command.args(["copy", "--dest-tls-verify=false", "--dest-creds=user:pass"]);
        command.arg(format!("docker-archive:{}", archive.display()));
        command.arg(format!("docker://{}/{name}", self.host));
        process::output(&mut command).expect("the image is pushed");
    }

    fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn an_image_of_a_private_registry_comes_with_dockers_login_and_then_needs_no_network() {
    let world = World::new();
    let registry = Registry::new(&world);
    let name = format!("{}/team/tiny:1", registry.host);
    let manifest = |pull: &str| {
        format!(
            "jobs:\n  a:\n    image: {{ name: \"{name}\", pull: {pull} }}\n    steps: [\"echo with $OF_IMAGE\"]\n"
        )
    };
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest("missing"))]);
    let docker = world.path().join("docker");
    fs::create_dir_all(&docker).unwrap();
    let run = |words: &[&str]| {
        let mut command = world.kiln_command(words);
        command.current_dir(&tree.path).env("DOCKER_CONFIG", &docker);
        kiln_it::world::ran(&mut command)
    };

    let refused = run(&["run"]).exits(1).said();
    let way = format!("docker login {}", registry.host);
    assert!(refused.contains(&way) && refused.contains("team/tiny"), "{refused}");

    let config = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{LOGIN}\"}}}}}}", registry.host);
    fs::write(docker.join("config.json"), config).unwrap();
    let said = run(&["run"]).success().said();
    assert!(said.contains("with yes") && said.contains(&format!("pulled `{name}`")), "{said}");
    assert!(!said.contains("pass") && !said.contains(LOGIN), "{said}");
    let listed = run(&["image", "ls"]).success().said();
    assert!(listed.contains(&name), "{listed}");

    tree.write(".kiln.yml", manifest("always"));
    let again = run(&["run"]).success().said();
    assert!(again.contains("with yes") && !again.contains("pulled"), "{again}");
    let unknown = run(&["image", "pull", &format!("{}/team/none", registry.host)]);
    let unknown = unknown.exits(3).said();
    assert!(unknown.contains("there is no image"), "{unknown}");

    let host = registry.host.clone();
    registry.end();
    let away = run(&["run"]).exits(1).said();
    assert!(away.contains(&format!("`{host}` cannot be reached for `{name}`")), "{away}");
    tree.write(".kiln.yml", manifest("missing"));
    let offline = run(&["run"]).success().said();
    assert!(offline.contains("with yes"), "{offline}");
    run(&["image", "rm", &name]).success();
    tree.write(".kiln.yml", manifest("never"));
    let absent = run(&["run"]).exits(1).said();
    assert!(absent.contains("is not on this machine, and the pull policy is `never`"), "{absent}");
}

#[test]
fn two_runs_that_want_the_same_image_at_once_both_get_it() {
    let world = World::new();
    let registry = Registry::new(&world);
    let manifest = format!(
        "jobs:\n  a: {{ image: \"{0}/team/tiny:1\", steps: [\"echo one\"] }}\n  b: {{ image: \"{0}/team/tiny:1\", steps: [\"echo two\"] }}\n",
        registry.host
    );
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest)]);
    let docker = world.path().join("docker");
    fs::create_dir_all(&docker).unwrap();
    let config = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{LOGIN}\"}}}}}}", registry.host);
    fs::write(docker.join("config.json"), config).unwrap();
    let start = || {
        let mut command = world.kiln_command(["run"]);
        command.current_dir(&tree.path).env("DOCKER_CONFIG", &docker);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("kiln starts")
    };
    let both = [start(), start()];
    for run in both {
        let done = run.wait_with_output().expect("it ends");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
