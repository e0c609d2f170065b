//! An image's name as a person writes it.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use kiln_model::layer::Digest;

use crate::ImageError;

const HUB: &str = "docker.io";
/// Names of two hundred characters are refused by registries.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `rust:1.90`, `ghcr.io/team/app@sha256:…`
    Registry(Named),
    /// `oci:PATH[:TAG]`: a folder in OCI's image layout, relative to the repository.
    Layout { path: PathBuf, tag: Option<String> },
    /// `docker-archive:PATH[:NAME]`: what `docker save` writes, relative to the repository.
    Archive { path: PathBuf, name: Option<String> },
    /// `docker-daemon:NAME[:TAG]`: what a Docker daemon of this machine has.
    Daemon(Named),
}

/// A name in a registry, with everything that is usually left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// `docker.io`, `localhost:5000`
    pub registry: String,
    /// `library/rust`
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = on_disk(text, rest)?;
            return Ok(Self::Layout { path, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, name) = on_disk(text, rest)?;
            return Ok(Self::Archive { path, name });
        }
        if let Some(rest) = text.strip_prefix("docker-daemon:") {
            return named(rest).map(Self::Daemon);
        }
        named(text).map(Self::Registry)
    }
}

/// `PATH[:TAG]`. A tag has no `/`, so that a colon in a folder's name does no harm.
fn on_disk(text: &str, rest: &str) -> Result<(PathBuf, Option<String>), ImageError> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag.to_owned()).filter(|tag| !tag.is_empty())),
        None => (rest, None),
    };
    let path = Path::new(path);
    let inside =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if path.as_os_str().is_empty() || !inside {
        let why = "its path must be inside the repository, without `..`";
        return Err(ImageError::name(text, why));
    }
    Ok((path.to_owned(), tag))
}

fn named(text: &str) -> Result<Named, ImageError> {
    let wrong = |why: &str| ImageError::name(text, why);
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let hex = digest.strip_prefix("sha256:");
            let hex = hex.ok_or_else(|| wrong("its digest does not begin with `sha256:`"))?;
            let digest =
                Digest::new(hex).map_err(|_| wrong("its digest is not 64 hexadecimal digits"))?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash begins the tag; one before belongs to a port.
    let name_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_at..].split_once(':') {
        Some((last, tag)) => (&rest[..name_at + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(wrong("its tag may have letters, digits, `_`, `.` and `-` only"));
    }
    let (registry, path) = match name.split_once('/') {
        // As Docker tells hosts from users: by a dot, a port, or the one name without either.
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (HUB, name),
    };
    let registry = match registry {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    };
    if !is_host(registry) {
        return Err(wrong("its registry is not a host with an optional port"));
    }
    if path.len() > NAME_BYTES_MAX || !path.split('/').all(is_part) {
        return Err(wrong(
            "its parts may have lower-case letters, digits, and `.`, `_`, `-` between them",
        ));
    }
    let repository = match registry == HUB && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    let tag = tag.map(str::to_owned);
    let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
    Ok(Named { registry: registry.to_owned(), repository, tag, digest })
}

fn is_tag(tag: &str) -> bool {
    let lawful = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !tag.is_empty()
        && tag.len() <= TAG_BYTES_MAX
        && tag.chars().all(lawful)
        && !tag.starts_with(['.', '-'])
}

fn is_part(part: &str) -> bool {
    let lawful = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    !part.is_empty()
        && part.chars().all(lawful)
        && !part.starts_with(['.', '_', '-'])
        && !part.ends_with(['.', '_', '-'])
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // `[::1]:5000`
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let lawful = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let named = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.chars().all(lawful) && !name.starts_with(['.', '-']),
    };
    named && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

impl fmt::Display for Named {
    /// In full: `docker.io/library/rust:1.90`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(named) => return named.fmt(f),
            Self::Daemon(named) => return write!(f, "docker-daemon:{named}"),
            Self::Layout { path, tag } => ("oci", path, tag),
            Self::Archive { path, name } => ("docker-archive", path, name),
        };
        write!(f, "{kind}:{}", path.display())?;
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = "a".repeat(64);
        let cases = [
            ("rust", "docker.io/library/rust:latest".to_owned()),
            ("rust:1.90", "docker.io/library/rust:1.90".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("index.docker.io/library/rust", "docker.io/library/rust:latest".to_owned()),
            ("ghcr.io/team/app:v1", "ghcr.io/team/app:v1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
        ];
        for (written, full) in cases {
            assert_eq!(written.parse::<Reference>().unwrap().to_string(), full, "{written}");
        }
        let pinned = format!("rust:1.90@sha256:{digest}");
        assert_eq!(
            pinned.parse::<Reference>().unwrap().to_string(),
            format!("docker.io/library/{pinned}")
        );
    }

    #[test]
    fn images_on_disk_are_inside_the_repository() {
        let read = |text: &str| text.parse::<Reference>();
        assert_eq!(
            read("oci:images/base:v1").unwrap(),
            Reference::Layout { path: "images/base".into(), tag: Some("v1".into()) }
        );
        assert_eq!(
            read("docker-archive:base.tar").unwrap(),
            Reference::Archive { path: "base.tar".into(), name: None }
        );
        for outside in ["oci:/etc", "oci:../x", "oci:a/../../x", "docker-archive:", "oci::tag"] {
            assert!(read(outside).is_err(), "{outside}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_reason() {
        for (text, why) in [
            ("Rust", "lower-case"),
            ("", "lower-case"),
            ("rust:", "tag"),
            ("rust:a b", "tag"),
            ("a//b", "lower-case"),
            ("-x.example/app", "registry"),
            ("example.org:99999/app", "registry"),
            ("rust@md5:abc", "sha256"),
            ("rust@sha256:abc", "64"),
            ("../../etc", "registry"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
