//! Secrets at rest: sealed with a key that is a file beside the database, not in it.
//!
//! A value is sealed with XChaCha20-Poly1305 under a random nonce; the project and the name are
//! authenticated with it, so that a row cannot be moved to another name. Whoever steals the database
//! alone has nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use kiln_model::ProjectId;
use kiln_stdx::Secret;
use kiln_stdx::fs::create_private_dir;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secret key `{}` cannot be used: {cause}", .path.display())]
    Key { path: PathBuf, cause: String },
    #[error("the stored value of `{0}` cannot be opened with this data folder's key")]
    Damaged(String),
}

/// Seals and opens. The key is made when the first secret is sealed.
#[derive(Debug)]
pub struct SecretBox {
    path: PathBuf,
    key: OnceLock<Secret<Vec<u8>>>,
}

impl SecretBox {
    pub fn at(keys: &Path) -> Self {
        Self { path: keys.join("secret.key"), key: OnceLock::new() }
    }

    /// `scope` is the project, or `None` for every project.
    pub fn seal(
        &self,
        scope: Option<ProjectId>,
        name: &str,
        value: &Secret<String>,
    ) -> Result<Vec<u8>, SecretError> {
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce).map_err(|cause| self.key_error(&cause))?;
        let aad = bound_to(scope, name);
        let payload = Payload { msg: value.expose().as_bytes(), aad: aad.as_bytes() };
        let sealed = self
            .cipher(true)?
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SecretError::Damaged(name.to_owned()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub fn open(
        &self,
        scope: Option<ProjectId>,
        name: &str,
        sealed: &[u8],
    ) -> Result<Secret<String>, SecretError> {
        let damaged = || SecretError::Damaged(name.to_owned());
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| damaged())?;
        let aad = bound_to(scope, name);
        let payload = Payload { msg: sealed, aad: aad.as_bytes() };
        let opened =
            self.cipher(false)?.decrypt(&XNonce::from(nonce), payload).map_err(|_| damaged())?;
        String::from_utf8(opened).map(Secret::new).map_err(|_| damaged())
    }

    /// Under which values of a project are marked, so that two can be found to be the same by who must
    /// not know them. Says nothing about the key that seals.
    pub fn mark_key(&self, project: ProjectId) -> Result<Secret<Vec<u8>>, SecretError> {
        let key = self.key(true)?;
        let context = format!("kiln 2026-11 marks of project {project}");
        Ok(Secret::new(blake3::derive_key(&context, key.expose()).to_vec()))
    }

    fn cipher(&self, make: bool) -> Result<XChaCha20Poly1305, SecretError> {
        let key = self.key(make)?.expose();
        let key: [u8; KEY_BYTES] = key.as_slice().try_into().map_err(|_| {
            let cause = format!("it has {} bytes instead of {KEY_BYTES}", key.len());
            SecretError::Key { path: self.path.clone(), cause }
        })?;
        Ok(XChaCha20Poly1305::new(&Key::from(key)))
    }

    fn key(&self, make: bool) -> Result<&Secret<Vec<u8>>, SecretError> {
        if self.key.get().is_none() {
            let key = self.read_key(make).map_err(|cause| self.key_error(&cause))?;
            // A race reads the same file twice; the first one stays.
            let _ = self.key.set(Secret::new(key));
        }
        Ok(self.key.get().expect("set above"))
    }

    fn read_key(&self, make: bool) -> io::Result<Vec<u8>> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;

        match fs::read(&self.path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound && make => {}
            answer => return answer,
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        create_private_dir(folder).map_err(io::Error::other)?;
        let mut key = vec![0; KEY_BYTES];
        random(&mut key)?;
        // Written whole under another name, then linked: two makers agree on the first one.
        let temporary = folder.join(format!(".secret.key.{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&key)?;
        file.sync_all()?;
        match fs::hard_link(&temporary, &self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::remove_file(&temporary)?;
        fs::File::open(folder)?.sync_all()?;
        fs::read(&self.path)
    }

    fn key_error(&self, cause: &io::Error) -> SecretError {
        SecretError::Key { path: self.path.clone(), cause: cause.to_string() }
    }
}

fn bound_to(scope: Option<ProjectId>, name: &str) -> String {
    match scope {
        Some(project) => format!("kiln secret v1/project {project}/{name}"),
        None => format!("kiln secret v1/all/{name}"),
    }
}

fn random(into: &mut [u8]) -> io::Result<()> {
    use std::io::Read;
    fs::File::open("/dev/urandom")?.read_exact(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_under_its_own_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let value = Secret::new("hunter2".to_owned());
        let sealed =
            SecretBox::at(folder.path()).seal(Some(ProjectId(1)), "TOKEN", &value).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));

        let again = SecretBox::at(folder.path());
        assert_eq!(again.open(Some(ProjectId(1)), "TOKEN", &sealed).unwrap(), value);
        assert!(again.open(Some(ProjectId(2)), "TOKEN", &sealed).is_err());
        assert!(again.open(Some(ProjectId(1)), "OTHER", &sealed).is_err());
        assert!(again.open(None, "TOKEN", &sealed[..20]).is_err());
    }
}
