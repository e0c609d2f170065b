//! Another machine, as far as ssh can tell: an sshd of the story's own, on this one.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use kiln_stdx::process;

use crate::world::World;

/// Ends with the story.
pub struct Sshd {
    daemon: Child,
    folder: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Sshd {
    /// `ssh -F CONFIG far` leads to it.
    pub fn start(world: &World) -> Self {
        let programs = ["/usr/sbin/sshd", "/usr/bin/sshd"].map(Path::new);
        let program = programs.into_iter().find(|path| path.exists());
        let program = program.expect("this story needs `sshd`; `cargo xtask test` installs it");
        let folder = world.at("far");
        std::fs::create_dir_all(folder.join("home")).expect("a folder");
        let shown = |name: &str| folder.join(name).display().to_string();
        for key in ["host", "user"] {
            let mut keygen = process::command("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &shown(key)]);
            process::output(&mut keygen).expect("a key");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv HOME={}\n",
            shown("host"),
            shown("user.pub"),
            shown("home"),
        );
        std::fs::write(folder.join("sshd_config"), config).expect("a file");
        let key = std::fs::read_to_string(folder.join("host.pub")).expect("a key");
        std::fs::write(folder.join("known"), format!("[127.0.0.1]:{port} {key}")).expect("a file");
        let config = format!(
            "Host far\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\n",
            shown("user"),
            shown("known"),
        );
        std::fs::write(folder.join("config"), config).expect("a file");
        if rustix::process::getuid().is_root() {
            // Where it leaves its privileges.
            let _ = std::fs::create_dir_all("/run/sshd");
        }
        let mut sshd = process::command(program);
        sshd.args(["-D", "-E", &shown("log"), "-f", &shown("sshd_config")]);
        let daemon = sshd.stdin(Stdio::null()).spawn().expect("sshd starts");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Self { daemon, folder }
    }

    /// What `KILN_SSH_CONFIG` is to name.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    /// The folders of jobs there.
    pub fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("home/.cache/kiln"));
        entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Processes of this machine that hold a connection to it.
    pub fn connections(&self) -> Vec<String> {
        let config = self.config().display().to_string();
        let entries = std::fs::read_dir("/proc").expect("there is one").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"ssh\0") && String::from_utf8_lossy(&line).contains(&config)
        })
        .collect()
    }
}
