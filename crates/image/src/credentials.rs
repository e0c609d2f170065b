//! Who we are to a registry: Docker's own `config.json` and its credential helpers.
//!
//! Source: docs.docker.com/reference/cli/docker/login (credential stores, helper protocol).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_stdx::{Secret, base64, process};
use serde::Deserialize;

/// Where the Hub's credentials are kept, for historical reasons.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Helpers talk to key rings, which may ask a person who is not there.
const HELPER_FOR: Duration = Duration::from_secs(10);

/// A user and a password or token.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: Secret<String>,
}

/// The credentials of one user of this machine.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    config: Config,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: HashMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// `user:password` in base 64.
    #[serde(deserialize_with = "secret")]
    auth: Option<Secret<String>>,
    /// What a login in a browser has left instead of a password.
    #[serde(deserialize_with = "secret")]
    identitytoken: Option<Secret<String>>,
}

/// The user of an answer whose secret is an identity token.
const TOKEN: &str = "<token>";

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Secret<String>>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}

impl Credentials {
    /// Reads `config.json` of `folder` (`$DOCKER_CONFIG` or `~/.docker`). No file: no credentials.
    ///
    /// # Errors
    ///
    /// In words, when there is a file and it cannot be used.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path: PathBuf = folder.join("config.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(cause) => return Err(format!("cannot read `{}`: {cause}", path.display())),
        };
        let config = serde_json::from_slice(&text)
            // The cause may quote the file, and the file has passwords.
            .map_err(|cause| {
                format!("`{}` is not as Docker writes it (line {})", path.display(), cause.line())
            })?;
        Ok(Self { config })
    }

    /// The login for a registry. Blocking: it may ask a helper.
    pub fn of(&self, registry: &str) -> Result<Option<Login>, String> {
        let keys = keys(registry);
        let helper = keys.iter().find_map(|key| self.config.cred_helpers.get(key));
        if let Some(helper) = helper.or(self.config.creds_store.as_ref()) {
            for key in &keys {
                match ask(helper, key)? {
                    Some(login) if login.user == TOKEN => return Err(identity_token(registry)),
                    Some(login) => return Ok(Some(login)),
                    None => {}
                }
            }
        }
        let known = keys.iter().filter_map(|key| self.config.auths.get(key));
        let with_token = known.clone().any(|auth| {
            auth.identitytoken.as_ref().is_some_and(|token| !token.expose().is_empty())
        });
        if with_token {
            return Err(identity_token(registry));
        }
        let auth = known.filter_map(|auth| auth.auth.as_ref()).next();
        Ok(auth.and_then(|auth| decoded(auth.expose())))
    }
}

fn identity_token(registry: &str) -> String {
    format!(
        "Docker's login for `{registry}` is an identity token, which kiln cannot use; log in with a password or \
         an access token: `docker login --username NAME --password-stdin {registry}`"
    )
}

/// Under which names the credentials of a registry may be.
fn keys(registry: &str) -> Vec<String> {
    let mut keys =
        vec![registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/v2/")];
    if registry == "docker.io" {
        keys.insert(0, HUB_KEY.to_owned());
        keys.push("index.docker.io".to_owned());
    }
    keys
}

fn decoded(auth: &str) -> Option<Login> {
    let text = String::from_utf8(base64::decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login {
        user: user.to_owned(),
        password: Secret::new(password.trim_end_matches('\0').to_owned()),
    })
}

/// `docker-credential-NAME get`, the registry on its standard input.
fn ask(helper: &str, key: &str) -> Result<Option<Login>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if helper.is_empty() || !helper.chars().all(plain) {
        return Err("the credential helper in Docker's config.json has no plain name".to_owned());
    }
    let program = format!("docker-credential-{helper}");
    let mut command = process::command(&program);
    command.arg("get");
    let answer = match process::output_fed(&mut command, key.as_bytes(), HELPER_FOR) {
        Ok(answer) => answer,
        // It knows nothing of this registry, which is no trouble.
        Err(process::ProcessError::Failed { .. }) => return Ok(None),
        Err(error) => return Err(format!("cannot ask for the login of `{key}`: {error}")),
    };
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| format!("`{program}` did not answer with a user name and a secret"))?;
    Ok(Some(Login { user: answer.username, password: Secret::new(answer.secret) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Credentials {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Credentials::read(folder.path()).unwrap()
    }

    #[test]
    fn logins_are_found_under_the_names_that_docker_uses() {
        // user:pass:word
        let found = read(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNzOndvcmQ="},
                "localhost:5000": {"auth": "YTpi"}, "empty.example": {}}, "other": 1}"#,
        );
        let login = |registry: &str| {
            let login = found.of(registry).unwrap()?;
            Some(format!("{}:{}", login.user, login.password.expose()))
        };
        assert_eq!(login("docker.io").as_deref(), Some("user:pass:word"));
        assert_eq!(login("localhost:5000").as_deref(), Some("a:b"));
        assert_eq!(login("empty.example"), None);
        assert_eq!(login("example.org"), None);
    }

    #[test]
    fn a_login_by_identity_token_says_what_to_do() {
        let found =
            read(r#"{"auths": {"a.example": {"auth": "YTpi", "identitytoken": "sesame"}}}"#);
        let error = found.of("a.example").unwrap_err();
        assert!(error.contains("`a.example`") && error.contains("--password-stdin"), "{error}");
        assert!(!error.contains("sesame"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{\"auths\": {\"x\": \"sesame\"}}")
            .unwrap();
        let error = Credentials::read(folder.path()).unwrap_err();
        assert!(error.contains("config.json") && !error.contains("sesame"), "{error}");
        assert!(Credentials::read(&folder.path().join("none")).is_ok());
    }
}
