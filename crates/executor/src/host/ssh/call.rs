//! How `ssh` is called: its options, and the folder of the socket that its channels share.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_stdx::process;

use crate::Remote;

/// In the attempt's folder: where the connection's own folder is.
pub(super) const FOLDER: &str = "ssh";
const FOLDER_PREFIX: &str = "kiln-ssh-";

/// The user's own ssh, asking nobody anything.
pub(super) fn ssh(remote: &Remote, folder: &Path, is_master: &str) -> Command {
    let mut command = process::command("ssh");
    if let Some(config) = &remote.config {
        command.arg("-F").arg(config);
    }
    command.arg("-T");
    let path = folder.join("c");
    for option in [
        "BatchMode=yes",
        "ConnectTimeout=30",
        // A network that is gone is noticed within a minute.
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        "LogLevel=ERROR",
        "RequestTTY=no",
        "RemoteCommand=none",
        "EscapeChar=none",
        "ClearAllForwardings=yes",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "ControlPersist=no",
        &format!("ControlMaster={is_master}"),
    ] {
        command.arg("-o").arg(option);
    }
    let mut control = std::ffi::OsString::from("ControlPath=");
    control.push(path);
    command.arg("-o").arg(control).arg("--").arg(&remote.host);
    command
}

/// Only for us: who reaches the control socket in it reaches the host.
pub(super) fn make_folder(attempt_dir: &Path) -> io::Result<PathBuf> {
    // Short, as names of sockets must be.
    let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", &random()?[..16]));
    let mut noted = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(attempt_dir.join(FOLDER))?;
    noted.write_all(folder.as_os_str().as_encoded_bytes())?;
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Removes what a killed relay has left on this machine.
pub(in crate::host) fn remove_traces(attempt_dir: &Path) {
    let noted = attempt_dir.join(FOLDER);
    let Ok(folder) = std::fs::read_to_string(&noted) else { return };
    let folder = Path::new(&folder);
    let ours = folder
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(FOLDER_PREFIX.as_bytes()));
    if ours {
        let _ = std::fs::remove_dir_all(folder);
    }
    let _ = std::fs::remove_file(noted);
}

/// 32 hexadecimal digits.
pub(super) fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
