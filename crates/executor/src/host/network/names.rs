//! Names in a session: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
//!
//! Never the image's, which were written for another machine, and never the machine's where the session
//! is in another network: a resolver at `127.0.0.53` is not there.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::{folder, is_daemons, stack};
use crate::Reach;
use crate::host::wire::Opening;

/// Name of the file in the folder, and where the session sees it.
const FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")];

/// A container's own, as Debian has it: not 127.0.0.1, which is `localhost`.
const OWN: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// The files of one session.
#[derive(Debug)]
pub(in crate::host) struct Names(PathBuf);

impl Names {
    /// Writes them, where the session needs its own.
    pub fn write(spec: &Opening) -> io::Result<Option<Self>> {
        if is_daemons(spec) {
            // The daemon writes them.
            return Ok(None);
        }
        let own_name = spec.container.as_ref().map(|container| container.hostname.as_str());
        let reach = &spec.network.reach;
        if own_name.is_none() && *reach == Reach::Host && spec.network.names.is_empty() {
            return Ok(None);
        }
        let at = folder(&spec.attempt_dir);
        kiln_stdx::fs::create_private_dir(&at).map_err(io::Error::other)?;
        // What programs of every user read.
        fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let machine = |name: &str| fs::read_to_string(name).unwrap_or_default();
        // The other session's names and resolver hold in its network.
        let of_other = match reach {
            Reach::Of(other) => Some(folder(other)),
            _ => None,
        };
        let hosts = match (&of_other, reach) {
            (Some(other), _) => fs::read_to_string(other.join("hosts"))?,
            (None, Reach::Host) => machine("/etc/hosts"),
            (None, _) => LOCAL.to_owned(),
        };
        let resolver = match &of_other {
            Some(other) => fs::read_to_string(other.join("resolv.conf"))?,
            None => resolver(reach, &machine("/etc/resolv.conf")),
        };
        fs::write(at.join("hosts"), with_names(&hosts, own_name, &spec.network.names))?;
        fs::write(at.join("resolv.conf"), resolver)?;
        fs::write(
            at.join("hostname"),
            own_name.map(|name| format!("{name}\n")).unwrap_or_default(),
        )?;
        Ok(Some(Self(at)))
    }

    /// Each file, and where it belongs.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, &'static Path)> {
        FILES.iter().map(|(name, to)| (self.0.join(name), Path::new(to)))
    }

    /// Shows them in the place of the machine's own, in a session without a container but with a mount
    /// namespace. Its host name is the machine's.
    pub fn show_on_host(&self) -> io::Result<()> {
        for (from, to) in self.files().filter(|(_, to)| !to.ends_with("hostname")) {
            // A link leads to what programs will read.
            if to.exists() {
                rustix::mount::mount_bind(&from, to)?;
            }
        }
        Ok(())
    }
}

const LOCAL: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// Ours first, as the first line of a name counts.
fn with_names(hosts: &str, own: Option<&str>, names: &[(String, Ipv4Addr)]) -> String {
    let mut text = String::new();
    for (name, address) in names {
        let _ = writeln!(text, "{address} {name}");
    }
    text.push_str(hosts);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if let Some(own) = own {
        let mut words = text.lines().flat_map(|line| line.split_ascii_whitespace().skip(1));
        if words.all(|word| word != own) {
            let _ = writeln!(text, "{OWN} {own}");
        }
    }
    text
}

/// Who answers in a network of this reach, with the machine's way of asking.
fn resolver(reach: &Reach, machine: &str) -> String {
    let server = match reach {
        Reach::Internet { through } => stack::resolver(through),
        Reach::Host => return machine.to_owned(),
        Reach::None | Reach::Bridge | Reach::Of(_) => {
            return "# this job has no network\n".to_owned();
        }
    };
    let kept = ["search ", "domain ", "options "];
    let lines = machine.lines().filter(|line| kept.iter().any(|word| line.starts_with(word)));
    let mut text = format!("nameserver {server}\n");
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_of_the_machines_loopback_is_replaced_and_its_search_list_kept() {
        let machine =
            "# systemd\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n";
        let through = |name: &str| Reach::Internet { through: format!("/usr/bin/{name}").into() };
        assert_eq!(
            resolver(&through("pasta"), machine),
            "nameserver 169.254.1.1\noptions edns0 trust-ad\nsearch corp.example\n"
        );
        assert!(resolver(&through("slirp4netns"), machine).starts_with("nameserver 10.0.2.3\n"));
        assert_eq!(resolver(&Reach::Host, machine), machine);
        assert!(!resolver(&Reach::None, machine).contains("nameserver"));
    }

    #[test]
    fn names_of_services_come_before_those_of_the_machine() {
        let names = [("db".to_owned(), Ipv4Addr::new(127, 0, 2, 1))];
        let of_job = with_names("10.0.0.1 web db", Some("kiln"), &names);
        assert_eq!(of_job, "127.0.2.1 db\n10.0.0.1 web db\n127.0.1.1 kiln\n");
        assert_eq!(with_names(&of_job, Some("db"), &[]), of_job, "a service among them");
    }
}
