//! A far machine of the tests' own: an `sshd` on this one, with another home folder, and the shell that
//! is asked for.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};

use kiln_stdx::process;

/// Which programs the far machine has, and who receives us there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tools {
    Machines,
    /// `sh` is bash.
    Bash,
    /// Everything is busybox's, which has no `find -cnewer`.
    Busybox,
    /// The login shell greets, on both streams, whoever comes in by whatever channel.
    Greeting,
}

pub struct Sshd {
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const SSHD: &[&str] = &["/usr/sbin/sshd", "/usr/bin/sshd"];
const BASH: &[&str] = &["/bin/bash", "/usr/bin/bash"];
const BUSYBOX: &[&str] = &["/bin/busybox", "/usr/bin/busybox"];

const GREET: &str = "#!/bin/sh\necho Welcome to the far machine\necho 'It is patched on Tuesdays.' >&2\n\
                     exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n";

impl Tools {
    /// Whether this machine can be such a far one.
    pub fn are_here(self) -> bool {
        let shell = match self {
            Self::Machines | Self::Greeting => true,
            Self::Bash => which(BASH).is_some(),
            Self::Busybox => which(BUSYBOX).is_some(),
        };
        which(SSHD).is_some() && shell
    }
}

impl Sshd {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Only where [`Tools::are_here`].
    pub fn start(tools: Tools) -> Self {
        let folder = tempfile::Builder::new().prefix("kiln-sshd-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["home", "bin"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        match tools {
            Tools::Machines | Tools::Greeting => {}
            Tools::Bash => symlink(which(BASH).expect("it is here"), at("bin/sh")).unwrap(),
            Tools::Busybox => {
                let busybox = which(BUSYBOX).expect("it is here");
                for name in
                    ["sh", "tar", "find", "ls", "grep", "sed", "setsid", "sleep", "wc", "cat"]
                {
                    symlink(busybox, at("bin").join(name)).unwrap();
                }
            }
        }
        for name in ["host", "user"] {
            let mut keygen = process::command("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name));
            process::output(&mut keygen).unwrap();
        }
        std::fs::copy(at("user.pub"), at("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = |name: &str| at(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nPidFile none\nPasswordAuthentication no\nMaxStartups 100\n\
             KbdInteractiveAuthentication no\nSetEnv HOME={} PATH={}:/usr/bin:/bin KEPT=far\n",
            shown("host"),
            shown("authorized"),
            shown("home"),
            shown("bin"),
        );
        let greeting = match tools {
            Tools::Greeting => format!("ForceCommand exec {}\n", shown("greet")),
            _ => String::new(),
        };
        std::fs::write(at("greet"), GREET).unwrap();
        std::fs::set_permissions(at("greet"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(at("sshd_config"), config + &greeting).unwrap();
        let key = std::fs::read_to_string(at("host.pub")).unwrap();
        std::fs::write(at("known"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let config = format!(
            "Host far\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
            shown("user"),
            shown("known"),
        );
        std::fs::write(at("config"), config).unwrap();
        if crate::is_root() {
            // Where it leaves its privileges.
            let _ = std::fs::create_dir_all("/run/sshd");
        }
        // Whatever ends these tests ends it too.
        let mut sshd = process::command("setpriv");
        sshd.args(["--pdeathsig", "KILL", which(SSHD).expect("it is here")]);
        sshd.arg("-D").arg("-E").arg(at("sshd.log")).arg("-f").arg(at("sshd_config"));
        let daemon = sshd.stdin(Stdio::null()).spawn().unwrap();
        let sshd = Self { folder, daemon };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        sshd
    }
}

fn which(paths: &'static [&'static str]) -> Option<&'static str> {
    paths.iter().copied().find(|path| Path::new(path).exists())
}
