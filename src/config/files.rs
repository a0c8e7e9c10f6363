//! The files that a configuration consists of: the machine's, and above it the user's. Each is checked by itself, so that
//! an error names the file and the line; then keys of the upper one replace those of the lower.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::environment::SYSTEM_CONFIG;
use super::explained::explained;
use super::{ConfigError, Environment};

/// A configuration file has a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;

/// One file that is there.
#[derive(Debug)]
pub(super) struct Layer {
    /// Where.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl Layer {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Self { path, text })
    }

    /// Reads the file at `path` if there is one.
    fn find(path: &Path) -> Result<Option<Self>, ConfigError> {
        match Self::read(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// The error of this file.
    pub(super) fn refused(&self, reason: String) -> ConfigError {
        ConfigError::Parse {
            path: self.path.clone(),
            reason,
        }
    }

    /// What the file says by itself: a configuration, or a table of its keys as they are written.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| self.refused(explained(&error, &self.text)))
    }
}

/// The section of bounds, which the lowest file has the last word on.
const LIMITS: &str = "limits";

/// The files that are in use, the lowest first.
pub(super) fn layers(explicit: Option<&Path>, environment: &Environment) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::from_iter(Layer::find(Path::new(SYSTEM_CONFIG))?);
    match (environment.named_config(explicit), environment.user_config(explicit)) {
        // Whoever names a file means it.
        (Some(path), _) => layers.push(Layer::read(&path)?),
        (None, Some(path)) => layers.extend(Layer::find(&path)?),
        (None, None) => {}
    }
    Ok(layers)
}

/// The keys of all layers.
pub(super) fn merged(layers: &[Layer]) -> Result<Table, ConfigError> {
    let mut merged = Table::new();
    for layer in layers {
        for (section, value) in layer.parse::<Table>()? {
            let below = merged
                .entry(section.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            match (below, value) {
                // A bound of the machine is not for its users to lift; they may add others.
                (Value::Table(below), Value::Table(above)) if section == LIMITS => {
                    for (key, value) in above {
                        below.entry(key).or_insert(value);
                    }
                }
                (Value::Table(below), Value::Table(above)) => {
                    // Who names an index names who we are there: a password goes to no other server.
                    if above.contains_key("url") {
                        below.retain(|key, _| !["user", "password_env"].contains(&key));
                    }
                    below.extend(above);
                }
                (below, value) => *below = value,
            }
        }
    }
    Ok(merged)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, text: &str) -> Layer {
        let (path, text) = (name.into(), text.to_owned());
        Layer { path, text }
    }

    #[test]
    fn keys_of_the_upper_file_count_and_each_file_answers_for_itself() {
        let below = layer(
            "machine",
            "[run]\nmemory = \"1G\"\npids = 8\n[index]\nmax_age = \"1h\"\n",
        );
        let above = layer("user", "[run]\nmemory = \"2G\"\n");
        let merged = merged(&[below, above]).unwrap();
        let run = merged.get("run").unwrap();
        assert_eq!(run.get("memory"), Some(&Value::String("2G".to_owned())));
        assert_eq!(run.get("pids"), Some(&Value::Integer(8)));
        assert!(merged.contains_key("index"));
        let wrong = layer("machine", "[run]\n\nmemory 1\n");
        let error = super::merged(&[wrong, layer("user", "")]).unwrap_err().to_string();
        assert!(error.contains("machine") && error.contains("line 3"), "{error}");
    }

    #[test]
    fn a_users_file_neither_lifts_a_bound_of_the_machine_nor_takes_its_password_elsewhere() {
        let below = layer(
            "machine",
            "[limits]\nmemory = \"1G\"\n[index]\nurl = \"https://a.example/simple\"\nuser = \"u\"\npassword_env = \"P\"\n",
        );
        let above = layer(
            "user",
            "[limits]\nmemory = \"9G\"\npids = 8\n[index]\nurl = \"https://b.example/simple\"\n",
        );
        let merged = merged(&[below, above]).unwrap();
        assert_eq!(merged["limits"]["memory"].as_str(), Some("1G"));
        assert_eq!(merged["limits"]["pids"].as_integer(), Some(8));
        let index = merged["index"].as_table().unwrap();
        assert_eq!(index.keys().collect::<Vec<_>>(), ["url"]);
        assert_eq!(index["url"].as_str(), Some("https://b.example/simple"));
    }
}
