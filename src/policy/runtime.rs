//! What makes the container of a run.

use std::fmt;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// What makes the file system of a sandbox; every promise is kept by the same code either way, and read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The init of youki's libcontainer, inside our own first process.
    Libcontainer,
    /// Our own mounts, the shortest way.
    Native,
}

impl Runtime {
    /// Those that this gantry has.
    pub const BUILT_IN: &'static [Self] = if cfg!(feature = "libcontainer") {
        &[Self::Libcontainer, Self::Native]
    } else {
        &[Self::Native]
    };

    /// Its name in options and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libcontainer => "libcontainer",
            Self::Native => "native",
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        if cfg!(feature = "libcontainer") {
            Self::Libcontainer
        } else {
            Self::Native
        }
    }
}

impl FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let runtime = match text {
            "libcontainer" => Self::Libcontainer,
            "native" => Self::Native,
            "crun" | "runc" | "youki" | "runsc" | "kata" => {
                return Err(format!(
                    "want libcontainer or native; for {text} `gantry bundle IMAGE DIR` makes what it runs"
                ))
            }
            _ => return Err("want libcontainer or native".to_owned()),
        };
        if Self::BUILT_IN.contains(&runtime) {
            return Ok(runtime);
        }
        Err("this gantry is built without libcontainer: want native".to_owned())
    }
}

impl<'de> Deserialize<'de> for Runtime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_what_its_name_says_if_this_gantry_has_it() {
        for runtime in [Runtime::Libcontainer, Runtime::Native] {
            let parsed = runtime.name().parse::<Runtime>();
            match Runtime::BUILT_IN.contains(&runtime) {
                true => assert_eq!(parsed, Ok(runtime)),
                false => assert!(parsed.unwrap_err().contains("built without libcontainer")),
            }
            let json = serde_json::to_string(&runtime).unwrap();
            assert_eq!(json, format!("\"{runtime}\""));
            assert_eq!(
                serde_json::from_str::<Runtime>(&json).is_ok(),
                Runtime::BUILT_IN.contains(&runtime)
            );
        }
        assert!("runc".parse::<Runtime>().is_err());
        assert_eq!(Runtime::BUILT_IN.first(), Some(&Runtime::default()));
    }
}
