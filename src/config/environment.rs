//! Reads the environment variables that gantry looks at, once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::ConfigError;
use crate::policy::Verbosity;

/// The configuration of a machine, below that of its users.
pub(super) const SYSTEM_CONFIG: &str = "/etc/gantry/config.toml";

/// Variables that resolvers and downloads need to reach the network as this machine does.
const NETWORK: [&str; 17] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "PIP_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_EXCLUDE_NEWER",
];

/// What credential helpers look at: where their keyring is, and how a person is asked for its password.
const HELPERS: [&str; 10] = [
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "GNUPGHOME",
    "GPG_TTY",
    "PASSWORD_STORE_DIR",
];

/// Reads the variable that a user named as the source of a secret; none when it is not set.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn secret_variable(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let is_name = !name.is_empty() && !name.contains(['=', '\0']);
    is_name.then(|| std::env::var_os(name))?.map(OsString::into_vec)
}

/// Whether the service manager started this very process, and not one that started it: then its parent is the manager's
/// (`$SYSTEMD_EXEC_PID`, systemd.exec(5)).
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn is_started_by_systemd() -> bool {
    let number = std::env::var("SYSTEMD_EXEC_PID").ok();
    number.is_some_and(|number| number == std::process::id().to_string())
}

/// The proxy that requests to `url` go through, and the variable that names it; without user and password.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn proxy_of(url: &str) -> Option<(String, String)> {
    proxy_among(url, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn proxy_among(url: &str, get: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host)
        .to_ascii_lowercase();
    let exempt = ["NO_PROXY", "no_proxy"].into_iter().find_map(get).unwrap_or_default();
    let exempt = exempt.to_ascii_lowercase();
    let is_exempt = |entry: &str| {
        let entry = entry.trim().trim_start_matches("*.").trim_start_matches('.');
        entry == "*" || (!entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}"))))
    };
    if exempt.split(',').any(is_exempt) {
        return None;
    }
    let names = match scheme {
        "https" => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let (name, value) = names.into_iter().find_map(|name| Some((name, get(name)?)))?;
    let place = value.split_once("://").map_or(value.as_str(), |(_, rest)| rest);
    let place = place.split('/').next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    Some((name.to_owned(), place.to_owned()))
}

/// The environment variables that gantry looks at; an empty variable counts as one that is not set.
///
/// Not `Debug`: variables may hold credentials.
#[derive(Clone, Default)]
pub struct Environment {
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$GANTRY_ROOT`.
    pub gantry_root: Option<PathBuf>,
    /// `$GANTRY_CONFIG`.
    pub gantry_config: Option<PathBuf>,
    /// `$GANTRY_LOG`.
    log: Option<String>,
    /// `$XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `$PATH`.
    pub path: Option<OsString>,
    /// `$UV_CONFIG_FILE`.
    pub uv_config: Option<PathBuf>,
    /// `$PIP_CONFIG_FILE`.
    pub pip_config: Option<PathBuf>,
    /// `$XDG_CONFIG_DIRS`.
    pub config_directories: Option<OsString>,
    /// `$VIRTUAL_ENV`.
    pub virtual_environment: Option<PathBuf>,
    /// `$REGISTRY_AUTH_FILE`, podman's.
    registry_auth_file: Option<PathBuf>,
    /// `$DOCKER_CONFIG`, a directory.
    docker_config: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    runtime_directory: Option<PathBuf>,
    /// Variables that credential helpers need to find what they keep.
    helpers: Vec<(String, OsString)>,
    /// `$SOURCE_DATE_EPOCH` (reproducible-builds.org), as text.
    source_date_epoch: Option<String>,
    /// Variables that are passed on to programs that use the network; may hold credentials.
    pub network: Vec<(String, OsString)>,
}

impl Environment {
    /// Reads the environment of this process.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn read() -> Self {
        // An empty variable means the same as none (XDG base directory specification).
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        // Relative paths are to be ignored there, too.
        let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
        Self {
            home: path("HOME"),
            gantry_root: path("GANTRY_ROOT"),
            gantry_config: path("GANTRY_CONFIG"),
            log: get("GANTRY_LOG").map(|value| value.to_string_lossy().into_owned()),
            data_home: absolute("XDG_DATA_HOME"),
            config_home: absolute("XDG_CONFIG_HOME"),
            path: get("PATH"),
            uv_config: path("UV_CONFIG_FILE"),
            pip_config: path("PIP_CONFIG_FILE"),
            config_directories: get("XDG_CONFIG_DIRS"),
            virtual_environment: path("VIRTUAL_ENV"),
            registry_auth_file: path("REGISTRY_AUTH_FILE"),
            docker_config: path("DOCKER_CONFIG"),
            runtime_directory: absolute("XDG_RUNTIME_DIR"),
            helpers: HELPERS
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), get(name)?)))
                .collect(),
            source_date_epoch: get("SOURCE_DATE_EPOCH").map(|value| value.to_string_lossy().into_owned()),
            network: NETWORK
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), get(name)?)))
                .collect(),
        }
    }

    /// The time that images are to carry: `$SOURCE_DATE_EPOCH`, seconds since 1970 before the year 10000.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a value that is no such number.
    pub fn source_date_epoch(&self) -> Result<Option<SystemTime>, ConfigError> {
        let Some(text) = &self.source_date_epoch else {
            return Ok(None);
        };
        let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds < 253_402_300_800);
        match seconds {
            Some(seconds) => Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))),
            None => Err(ConfigError::SourceDateEpoch { text: text.clone() }),
        }
    }

    /// Where the store is: `$GANTRY_ROOT`, else `$XDG_DATA_HOME/gantry`, else `~/.local/share/gantry`.
    pub fn store_root(&self) -> Option<PathBuf> {
        let data = || {
            self.data_home
                .clone()
                .or_else(|| Some(self.home.clone()?.join(".local/share")))
        };
        self.gantry_root.clone().or_else(|| Some(data()?.join("gantry")))
    }

    /// Where the user's configuration is: what an option says, else `$GANTRY_CONFIG`, else the default place.
    pub fn user_config(&self, explicit: Option<&Path>) -> Option<PathBuf> {
        let named = self.named_config(explicit);
        named.or_else(|| Some(self.user_folder()?.join("gantry/config.toml")))
    }

    /// The configuration that somebody named: it has to be there.
    pub(super) fn named_config(&self, explicit: Option<&Path>) -> Option<PathBuf> {
        explicit.map(Path::to_owned).or_else(|| self.gantry_config.clone())
    }

    /// The configuration files that are there, the machine's below the user's.
    pub fn configurations(&self, explicit: Option<&Path>) -> Vec<PathBuf> {
        let user = self.user_config(explicit);
        let files = [Some(PathBuf::from(SYSTEM_CONFIG)), user].into_iter().flatten();
        files.filter(|path| path.exists()).collect()
    }

    /// How much is to be said: `$GANTRY_LOG`.
    pub fn verbosity(&self) -> Result<Verbosity, ConfigError> {
        let Some(text) = &self.log else {
            return Ok(Verbosity::default());
        };
        text.parse().map_err(|reason| ConfigError::Log {
            text: text.clone(),
            reason,
        })
    }

    /// Where uv reads its configuration: the file of the variable alone, else the user's and the system's.
    pub fn uv_configurations(&self) -> Vec<PathBuf> {
        let users = || self.user_folder().map(|folder| folder.join("uv/uv.toml"));
        let systems = || ["/etc/xdg/uv/uv.toml", "/etc/uv/uv.toml"].map(PathBuf::from);
        match &self.uv_config {
            Some(file) => vec![file.clone()],
            None => users().into_iter().chain(systems()).collect(),
        }
    }

    /// Where pip may read its configuration, besides the prefix of its Python (`pip config debug`).
    pub fn pip_configurations(&self) -> Vec<PathBuf> {
        let systems = match &self.config_directories {
            Some(directories) => std::env::split_paths(directories).collect(),
            None => vec![PathBuf::from("/etc/xdg")],
        };
        let folders = systems.into_iter().chain(self.user_folder());
        let files = folders.map(|folder| folder.join("pip/pip.conf"));
        let others = [
            Some(PathBuf::from("/etc/pip.conf")),
            self.home.as_ref().map(|home| home.join(".pip/pip.conf")),
            self.virtual_environment.as_ref().map(|prefix| prefix.join("pip.conf")),
            self.pip_config.clone(),
        ];
        files.chain(others.into_iter().flatten()).collect()
    }

    /// Where credentials for registries are, in the order in which they count: `$REGISTRY_AUTH_FILE` alone, else docker's file
    /// and those of podman.
    pub fn login_files(&self) -> Vec<PathBuf> {
        if let Some(file) = &self.registry_auth_file {
            return vec![file.clone()];
        }
        let docker = || Some(self.home.as_ref()?.join(".docker"));
        let files = [
            self.docker_config
                .clone()
                .or_else(docker)
                .map(|folder| folder.join("config.json")),
            self.runtime_directory
                .as_ref()
                .map(|folder| folder.join("containers/auth.json")),
            self.user_folder().map(|folder| folder.join("containers/auth.json")),
        ];
        files.into_iter().flatten().collect()
    }

    /// What credential helpers get of the environment.
    pub fn of_helpers(&self) -> Vec<(String, OsString)> {
        self.helpers.iter().chain(&self.network).cloned().collect()
    }

    fn user_folder(&self) -> Option<PathBuf> {
        let folder = self.config_home.clone();
        folder.or_else(|| Some(self.home.clone()?.join(".config")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_of_an_address_is_named_without_its_password() {
        let set = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://me:hunter2@proxy.example:3128/".to_owned()),
            "all_proxy" => Some("other.example:1".to_owned()),
            "no_proxy" => Some("localhost, .intern.example,*.lab.example".to_owned()),
            _ => None,
        };
        let named = |url: &str| proxy_among(url, &set).map(|(name, place)| format!("{name} {place}"));
        assert_eq!(
            named("https://a.example/x").as_deref(),
            Some("HTTPS_PROXY proxy.example:3128")
        );
        assert_eq!(
            named("http://a.example/x").as_deref(),
            Some("all_proxy other.example:1")
        );
        for url in [
            "https://localhost:8080/x",
            "https://a.intern.example",
            "http://lab.example/",
            "nothing",
        ] {
            assert_eq!(named(url), None, "{url}");
        }
        assert_eq!(proxy_among("https://a.example", &|_| None), None);
    }
}
