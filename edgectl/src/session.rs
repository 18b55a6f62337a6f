use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fleet_api::strict;
use serde::{Deserialize, Serialize};

/// Where the control plane is, and how to prove who asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Address, without a slash at the end.
    pub(crate) url: String,
    /// Access token.
    pub(crate) token: String,
    /// The only CA that is trusted, in PEM.
    pub(crate) ca: String,
}

/// Parts of a session that the environment may give.
#[derive(Debug, Default)]
struct Overrides {
    url: Option<String>,
    token: Option<String>,
    ca: Option<String>,
}

impl Session {
    /// The saved login, with what the environment puts in its place.
    pub(crate) fn load() -> Result<Self> {
        let env = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let ca = env("EDGECTL_CA")
            .map(|file| read(Path::new(&file)))
            .transpose()?;
        let overrides = Overrides {
            url: env("EDGECTL_URL"),
            token: env("EDGECTL_TOKEN"),
            ca,
        };
        Self::from_parts(&config_path()?, overrides)
    }

    fn from_parts(path: &Path, overrides: Overrides) -> Result<Self> {
        if let Overrides {
            url: Some(url),
            token: Some(token),
            ca: Some(ca),
        } = overrides
        {
            return Ok(Self {
                url: trim(&url),
                token,
                ca,
            });
        }
        if !path.exists() {
            bail!(
                "not logged in: run `edgectl login URL --token-file FILE --ca FILE`, or `edgectl login --data-dir DIR` beside a control plane on this machine"
            );
        }
        let saved: Self = strict::from_toml(&read(path)?, &path.display().to_string())
            .context("the saved login cannot be read: log in again")?;
        Ok(Self {
            url: trim(&overrides.url.unwrap_or(saved.url)),
            token: overrides.token.unwrap_or(saved.token),
            ca: overrides.ca.unwrap_or(saved.ca),
        })
    }

    /// Saves the login where only its owner can read it, whole or not at all.
    pub(crate) fn save(&self) -> Result<PathBuf> {
        let path = config_path()?;
        self.save_to(&path)
            .with_context(|| format!("the login cannot be saved to {}", path.display()))?;
        Ok(path)
    }

    fn save_to(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(toml::to_string(self)?.as_bytes())?;
        std::fs::rename(&new, path)?;
        Ok(())
    }
}

/// An address as the client wants it.
pub(crate) fn trim(url: &str) -> String {
    url.trim().trim_end_matches('/').to_owned()
}

/// Reads a text file; the error names it.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn config_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EDGECTL_CONFIG").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))
        .context("neither EDGECTL_CONFIG nor HOME is set: say where the login is kept")?;
    Ok(base.join("edgectl/config.toml"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn session() -> Session {
        Session {
            url: "https://127.0.0.1:1".to_owned(),
            token: "secret".to_owned(),
            ca: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        }
    }

    #[test]
    fn a_saved_login_is_readable_only_by_its_owner() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("deep/config.toml");
        session().save_to(&path).expect("saves");
        session().save_to(&path).expect("saves again");
        let mode = path.metadata().expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let loaded = Session::from_parts(&path, Overrides::default()).expect("loads");
        assert_eq!((loaded.url, loaded.token), (session().url, session().token));
    }

    #[test]
    fn the_environment_takes_the_place_of_single_parts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("config.toml");
        session().save_to(&path).expect("saves");
        let overrides = Overrides {
            token: Some("other".to_owned()),
            ..Overrides::default()
        };
        let loaded = Session::from_parts(&path, overrides).expect("loads");
        assert_eq!(
            (loaded.url, loaded.token),
            (session().url, "other".to_owned())
        );
    }

    #[test]
    fn says_how_to_log_in() {
        let error = Session::from_parts(Path::new("/nowhere/config.toml"), Overrides::default())
            .expect_err("not logged in");
        assert!(error.to_string().contains("edgectl login"), "{error}");
    }
}
