//! A small image in the forms that the figures need: a folder, an archive, a bundle for `crun`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kiln_it::World;
use kiln_it::world::ran;
use serde_json::{Value, json};

/// All of them one program.
const COMMANDS: &[&str] = &["cat", "echo", "seq", "sh", "sleep", "true"];

/// The folder of the image's files: one static program under several names.
pub fn root(world: &World) -> Result<PathBuf> {
    let root = world.at("bundle/rootfs");
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    if root.join("bin/busybox").exists() {
        return Ok(root);
    }
    std::fs::copy(busybox()?, root.join("bin/busybox"))?;
    for name in COMMANDS {
        symlink("busybox", root.join("bin").join(name))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    Ok(root)
}

pub fn busybox() -> Result<PathBuf> {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = places.into_iter().find(|path| path.exists());
    found.context("`busybox` is missing: `apt-get install busybox-static`")
}

/// Writes what `docker save` would give of that image, named `tiny:1`.
pub fn archive(world: &World, to: &Path) -> Result<()> {
    root(world)?;
    let scratch = world.at("archive");
    std::fs::create_dir_all(&scratch)?;
    let tar = |args: &[&str]| ran(world.command("tar").args(args).current_dir(&scratch)).success();
    tar(&["-cf", "layer.tar", "-C", "../bundle/rootfs", "."]);
    let layer = sha256(world, &scratch, "layer.tar")?;
    describe(&scratch, "tiny:1", &["layer.tar".to_owned()], &[format!("sha256:{layer}")])?;
    let to = to.to_str().context("a plain path")?;
    tar(&["-cf", to, "manifest.json", "config.json", "layer.tar"]);
    Ok(())
}

/// Writes the two files that `docker save` puts beside the layers.
pub fn describe(folder: &Path, name: &str, layers: &[String], ids: &[String]) -> Result<()> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "os": "linux",
        "architecture": architecture,
        "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]);
    std::fs::write(folder.join("manifest.json"), manifest.to_string())?;
    Ok(())
}

pub fn sha256(world: &World, folder: &Path, file: &str) -> Result<String> {
    let said = ran(world.command("sha256sum").arg(file).current_dir(folder)).success().stdout;
    Ok(said.split_whitespace().next().context("`sha256sum` says nothing")?.to_owned())
}

/// A bundle for `crun` around [`root`] that is kept apart as a job of kiln's is. `user`: in a user namespace
/// that knows this one user.
pub fn for_crun(world: &World, user: Option<u32>) -> Result<PathBuf> {
    let bundle = world.at("bundle");
    ran(world.command("crun").args(["spec", "--file=template.json"]).current_dir(&bundle))
        .success();
    let text = std::fs::read_to_string(bundle.join("template.json"))?;
    let mut spec: Value = serde_json::from_str(&text)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["root"]["readonly"] = false.into();
    let namespaces = spec["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    namespaces.push(json!({ "type": "cgroup" }));
    if let Some(user) = user {
        namespaces.push(json!({ "type": "user" }));
        let one = json!([{ "containerID": 0, "hostID": user, "size": 1 }]);
        spec["linux"]["uidMappings"] = one.clone();
        spec["linux"]["gidMappings"] = one;
        spec["linux"]["resources"] = json!({});
    } else {
        spec["linux"]["resources"] =
            json!({ "memory": { "limit": 1 << 30 }, "pids": { "limit": 512 } });
    }
    // kiln shows no control groups; and one user has no group 5.
    let mounts = spec["mounts"].as_array_mut().context("mounts")?;
    mounts.retain(|mount| mount["type"] != "cgroup");
    for options in mounts.iter_mut().filter_map(|mount| mount["options"].as_array_mut()) {
        options.retain(|option| option != "gid=5");
    }
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": REFUSED, "action": "SCMP_ACT_ERRNO" }],
    });
    let namespaces = spec["linux"]["namespaces"].as_array().context("namespaces")?;
    ensure!(namespaces.iter().any(|of| of["type"] == "network"), "crun's own template has changed");
    std::fs::write(bundle.join("config.json"), spec.to_string())?;
    Ok(bundle)
}

/// About what kiln's own filter refuses.
const REFUSED: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_settime",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "io_uring_setup",
    "kexec_load",
    "keyctl",
    "mount",
    "move_mount",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "quotactl",
    "reboot",
    "request_key",
    "setns",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];
