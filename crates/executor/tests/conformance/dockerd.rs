//! A Docker daemon of the tests' own: another socket, other images, a network and process ids of its own.
//!
//! Whatever ends these tests, by whatever signal, ends the daemon with all its containers: `unshare` dies
//! with us, and takes along the pid namespace in which the daemon is process 1.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_stdx::process;

/// The image that every test may use.
pub const IMAGE: &str = "kiln-test:1";

/// What brings up a loopback before the daemon takes the shell's place; the arguments are the daemon's.
const BEGIN: &str = "ip link set lo up && exec dockerd \"$@\"";

pub struct Dockerd {
    folder: tempfile::TempDir,
    child: Child,
}

impl Dockerd {
    /// Whether this machine can have one.
    pub fn is_possible() -> bool {
        let is_there = |path: &&str| Path::new(path).exists();
        let is_root = rustix::process::geteuid().is_root();
        is_root && ["/usr/sbin/dockerd", "/usr/bin/dockerd"].iter().any(is_there)
    }

    /// Starts one, and waits until it answers. It ends with the thread that calls this. [`IMAGE`] is there, of
    /// what `make_image` puts into a folder. Only where [`Dockerd::is_possible`].
    pub fn start(make_image: impl Fn(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let child = Self::spawn(folder.path());
        let mut daemon = Self { folder, child };
        daemon.heed();
        let rootfs = daemon.folder.path().join("image");
        make_image(&rootfs);
        daemon.import(IMAGE, &rootfs);
        daemon
    }

    fn spawn(folder: &Path) -> Child {
        let mut command = process::command("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount", "--fork"]);
        command.args(["--kill-child", "--mount-proc", "--propagation", "slave"]);
        command.args(["sh", "-c", BEGIN, "sh", "--storage-driver", "overlay2"]);
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(flag).arg(folder.join(name));
        }
        command.arg("--host").arg(format!("unix://{}", folder.join("docker.sock").display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("setpriv and unshare are part of util-linux")
    }

    /// Until it says that it listens; the rest of its words goes to a file.
    fn heed(&mut self) {
        let mut said = BufReader::new(self.child.stderr.take().expect("it is a pipe"));
        let mut log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        loop {
            let mut line = String::new();
            let n_bytes = said.read_line(&mut line).unwrap();
            log.write_all(line.as_bytes()).unwrap();
            if n_bytes == 0 {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
                panic!("dockerd did not start: {log}");
            }
            if line.contains("API listen on") {
                break;
            }
        }
        std::thread::spawn(move || std::io::copy(&mut said, &mut log));
        UnixStream::connect(self.socket()).expect("it listens");
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// The number of the process whose end is the daemon's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Docker's own command line, which asks this daemon.
    pub fn docker(&self) -> Command {
        let mut command = process::command("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.folder.path());
        command
    }

    /// Runs it to its end, and gives what it printed without the last line's end.
    pub fn ask(&self, args: &[&str]) -> String {
        let out = process::output(self.docker().args(args)).unwrap();
        String::from_utf8_lossy(&out).trim_end().to_owned()
    }

    /// Makes an image of a folder, without a configuration.
    pub fn import(&self, name: &str, rootfs: &Path) {
        let mut tar = process::command("tar");
        tar.arg("-C").arg(rootfs).args(["-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().unwrap();
        let mut import = self.docker();
        import.args(["import", "-", name]).stdin(tar.stdout.take().unwrap()).stdout(Stdio::null());
        assert!(import.status().unwrap().success(), "docker import {name}");
        assert!(tar.wait().unwrap().success());
    }

    /// Makes another image of [`IMAGE`], with instructions as a Dockerfile has them (`ENV A=b`).
    pub fn change(&self, name: &str, changes: &[&str]) {
        let container = self.ask(&["create", IMAGE, "/bin/true"]);
        let mut args = vec!["commit"];
        args.extend(changes.iter().flat_map(|change| ["--change", change]));
        args.extend([container.as_str(), name]);
        self.ask(&args);
        self.ask(&["rm", &container]);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.end();
    }
}
