//! Where this process is in the machine's trees of control groups.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::{Folder, Kind, Version};

/// This process's own group, where there is one that bounds something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Version 1: one tree for each kind, or for a few.
    pub one: BTreeMap<Kind, PathBuf>,
    /// Version 2: one tree for all. Its root and the group.
    pub two: Option<(PathBuf, PathBuf)>,
}

impl Own {
    /// Source: `/proc/self/cgroup` and `/proc/self/mountinfo`.
    pub fn find() -> io::Result<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::read(&groups, &mounts))
    }

    pub fn read(groups: &str, mounts: &str) -> Self {
        let mut own = Self::default();
        for mount in mounts.lines().filter_map(Mounted::read) {
            for group in groups.lines() {
                let mut fields = group.splitn(3, ':');
                let (Some(number), Some(names), Some(path)) =
                    (fields.next(), fields.next(), fields.next())
                else {
                    continue;
                };
                let Some(folder) = mount.folder(path) else { continue };
                if mount.is_two {
                    if number == "0" && names.is_empty() && own.two.is_none() {
                        own.two = Some((mount.at.clone(), folder));
                    }
                    continue;
                }
                let here = |kind: &Kind| {
                    let name = kind.as_str();
                    names.split(',').any(|n| n == name) && mount.options.iter().any(|o| o == name)
                };
                for kind in Kind::ALL.into_iter().filter(here) {
                    own.one.entry(kind).or_insert_with(|| folder.clone());
                }
            }
        }
        own
    }
}

/// The groups of a process in every tree that is mounted, whatever it bounds.
pub(super) fn all_of(pid: Pid) -> io::Result<Vec<Folder>> {
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = read_all(&groups, &mounts);
    for folder in found.iter_mut().filter(|folder| folder.version == Version::Two) {
        // Beside trees of version 1 it may bound nothing.
        let there = std::fs::read_to_string(folder.path.join("cgroup.controllers"));
        let there = there.unwrap_or_default();
        folder.kinds.retain(|kind| there.split_ascii_whitespace().any(|n| n == kind.as_str()));
    }
    Ok(found)
}

fn read_all(groups: &str, mounts: &str) -> Vec<Folder> {
    let mounts: Vec<Mounted> = mounts.lines().filter_map(Mounted::read).collect();
    let folder = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_two = number == "0" && names.is_empty();
        let here = |mount: &&Mounted| match is_two {
            true => mount.is_two,
            false => {
                !mount.is_two && names.split(',').all(|n| mount.options.iter().any(|o| o == n))
            }
        };
        let path = mounts.iter().filter(here).find_map(|mount| mount.folder(path))?;
        let has = |kind: &Kind| is_two || names.split(',').any(|name| name == kind.as_str());
        let version = if is_two { Version::Two } else { Version::One };
        Some(Folder { path, version, kinds: Kind::ALL.into_iter().filter(has).collect() })
    };
    groups.lines().filter_map(folder).collect()
}

/// A tree of control groups that is mounted.
struct Mounted {
    /// What is shown of the tree.
    root: PathBuf,
    at: PathBuf,
    is_two: bool,
    options: Vec<String>,
}

impl Mounted {
    /// A line of `mountinfo`; `None` when something else is mounted.
    fn read(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let is_two = match kind.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let options = kind.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
        let mut place = place.split(' ').skip(3);
        let (root, at) = (unescaped(place.next()?), unescaped(place.next()?));
        Some(Self { root, at, is_two, options })
    }

    /// Where the group is seen; `None` when it lies outside of what is shown.
    fn folder(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        Some(match below.as_os_str().is_empty() {
            true => self.at.clone(),
            false => self.at.join(below),
        })
    }
}

/// Spaces and the like are written as `\040`.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let octal = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found_where_its_tree_is_mounted() {
        let groups = "4:memory:/daemon/a\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/user.slice\n";
        let mounts = "\
            30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            31 25 0:27 / /sys/fs/cgroup/cpu\\040x rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            34 25 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let found = Own::read(groups, mounts);
        let at = |path: &str| PathBuf::from(path);
        assert_eq!(found.one[&Kind::Memory], at("/sys/fs/cgroup/memory/daemon/a"));
        assert_eq!(found.one[&Kind::Cpu], at("/sys/fs/cgroup/cpu x"));
        assert!(!found.one.contains_key(&Kind::Pids));
        let root = at("/sys/fs/cgroup/unified");
        assert_eq!(found.two, Some((root.clone(), root.join("user.slice"))));
    }

    #[test]
    fn the_groups_of_a_container_are_found_in_every_tree() {
        let groups = "9:memory:/docker/7\n8:devices:/docker/7\n2:cpu,cpuacct:/docker/7\n\
                      1:name=systemd:/docker/7\n0::/system.slice/docker-7.scope\n7:net_cls:/x\n";
        let mounts = "\
            30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            33 25 0:29 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = read_all(groups, mounts);
        let place = |folder: &Folder| folder.path.to_string_lossy().replace("/sys/fs/cgroup/", "");
        let expected = [
            "memory/docker/7",
            "devices/docker/7",
            "cpu/docker/7",
            "systemd/docker/7",
            "unified/system.slice/docker-7.scope",
        ];
        assert_eq!(found.iter().map(place).collect::<Vec<_>>(), expected);
        assert_eq!(found[0].kinds, [Kind::Memory]);
        assert_eq!(found[1].kinds, []);
        assert_eq!(found[2].kinds, [Kind::Cpu]);
    }

    #[test]
    fn a_container_sees_a_part_of_the_tree() {
        let mounts = "30 25 0:26 /docker/7 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let seen = |group: &str| Own::read(&format!("4:memory:{group}\n"), mounts).one;
        assert_eq!(seen("/docker/7/x")[&Kind::Memory], Path::new("/sys/fs/cgroup/memory/x"));
        assert_eq!(seen("/docker/7")[&Kind::Memory], Path::new("/sys/fs/cgroup/memory"));
        assert!(seen("/docker/8").is_empty());
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(Own::read("", ""), Own::default());
        assert_eq!(Own::read("a\n::\n9", "1 2 - cgroup\n - cgroup2 x y\nx"), Own::default());
    }
}
