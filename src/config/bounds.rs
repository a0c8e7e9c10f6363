//! `[limits]`: what no run on this machine goes beyond, whoever asks for it.
//!
//! The section lowers what runs get that do not say otherwise; one that asks for more is refused with the name of the
//! limit, what was asked and what is allowed. Nothing is cut down silently.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::policy::{as_given, Bytes, Confinement, Cpus, Pids, Room, Time};

/// `[limits]`; a key that is left out bounds nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    memory: Option<Room>,
    /// With the grace, which is time of the run as well.
    timeout: Option<Time>,
    pids: Option<Pids>,
    cpus: Option<Cpus>,
    shm_size: Option<Room>,
    output_size: Option<Room>,
    /// Names of the variables that may be set.
    env: Option<Vec<String>>,
    /// Directories that what is shown as `/input` is in.
    input_roots: Option<Vec<PathBuf>>,
}

/// Something that was asked for and that this machine does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The key of `[limits]`.
    pub limit: &'static str,
    /// What was asked for.
    pub got: String,
    /// What is allowed.
    pub bound: String,
}

impl LimitsSection {
    /// The section as a text of its own, for tests of what is made of it.
    #[cfg(test)]
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// `confinement`, with what is over a bound lowered to it: for what nobody asked for.
    pub fn lower(&self, confinement: Confinement) -> Confinement {
        fn least<T: PartialOrd>(value: T, bound: Option<T>) -> T {
            match bound {
                Some(bound) if value > bound => bound,
                _ => value,
            }
        }
        let timeout = least(confinement.timeout, self.timeout.map(Into::into));
        Confinement {
            memory: least(confinement.memory, self.memory.map(Into::into)),
            pids: least(confinement.pids, self.pids.map(Into::into)),
            cpus: least(confinement.cpus, self.cpus.map(Into::into)),
            shm_size: least(confinement.shm_size, self.shm_size.map(Into::into)),
            output_size: least(confinement.output_size, self.output_size.map(Into::into)),
            timeout,
            ..confinement
        }
    }

    /// The first bound that `confinement` is over.
    pub fn exceeded(&self, confinement: &Confinement) -> Option<Exceeded> {
        fn over<T: PartialOrd + Copy>(
            limit: &'static str,
            got: T,
            bound: Option<T>,
            said: impl Fn(T) -> String,
        ) -> Option<Exceeded> {
            let bound = bound.filter(|bound| got > *bound)?;
            Some(Exceeded {
                limit,
                got: said(got),
                bound: said(bound),
            })
        }
        let sizes: [(_, Bytes, _); 3] = [
            ("memory", confinement.memory, self.memory),
            ("shm_size", confinement.shm_size, self.shm_size),
            ("output_size", confinement.output_size, self.output_size),
        ];
        sizes
            .into_iter()
            .find_map(|(limit, got, bound)| over(limit, got, bound.map(Into::into), as_given))
            .or_else(|| {
                over("pids", confinement.pids, self.pids.map(Into::into), |pids: u32| {
                    pids.to_string()
                })
            })
            .or_else(|| {
                over("cpus", confinement.cpus, self.cpus.map(Into::into), |cpus: f64| {
                    cpus.to_string()
                })
            })
            .or_else(|| self.too_long(confinement))
    }

    fn too_long(&self, confinement: &Confinement) -> Option<Exceeded> {
        let bound = self.timeout?.into();
        (confinement.timeout.saturating_add(confinement.grace) > bound).then(|| Exceeded {
            limit: "timeout",
            got: match confinement.grace.is_zero() {
                true => format!("{:?}", confinement.timeout),
                false => format!("{:?} and a grace of {:?}", confinement.timeout, confinement.grace),
            },
            bound: format!("{bound:?}"),
        })
    }

    /// The first of `names` that is no variable a run may set.
    pub fn forbidden<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<Exceeded> {
        let allowed = self.env.as_ref()?;
        let name = names.find(|name| !allowed.iter().any(|allowed| allowed == name))?;
        Some(Exceeded {
            limit: "env",
            got: name.to_owned(),
            bound: listed(allowed.iter()),
        })
    }

    /// Why `input`, a path without links, may not be shown to a run.
    pub fn outside(&self, input: &Path) -> Option<Exceeded> {
        let roots = self.input_roots.as_ref()?;
        let is_in = |root: &PathBuf| root.canonicalize().is_ok_and(|root| input.starts_with(root));
        (!roots.iter().any(is_in)).then(|| Exceeded {
            limit: "input_roots",
            got: input.display().to_string(),
            bound: listed(roots.iter().map(|root| root.display())),
        })
    }

    /// What is wrong with the section itself; `defaults` are those of `[run]`.
    pub(super) fn check(&self, defaults: &Confinement) -> Result<(), String> {
        if let Some(root) = self.input_roots.iter().flatten().find(|root| !root.is_absolute()) {
            return Err(format!("limits.input_roots: {} is no absolute path", root.display()));
        }
        match self.exceeded(&self.lower(defaults.clone())) {
            // Only a grace can be over what has been lowered.
            Some(over) => Err(format!(
                "limits.{}: [run] asks for {}, over {}",
                over.limit, over.got, over.bound
            )),
            None => Ok(()),
        }
    }
}

fn listed<T: Display>(all: impl Iterator<Item = T>) -> String {
    let all: Vec<String> = all.map(|one| one.to_string()).collect();
    if all.is_empty() {
        return "none".to_owned();
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn section(text: &str) -> LimitsSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_bound_lowers_what_nobody_asked_for_and_is_named_when_somebody_did() {
        let all =
            "memory = \"100M\"\ntimeout = \"10s\"\npids = 8\ncpus = 0.5\nshm_size = \"2M\"\noutput_size = \"1M\"\n";
        let limits = section(all);
        let lowered = limits.lower(Confinement::default());
        assert_eq!(
            (
                lowered.memory,
                lowered.timeout,
                lowered.pids,
                lowered.cpus,
                lowered.output_size
            ),
            (Bytes(100 << 20), Duration::from_secs(10), 8, 0.5, Bytes(1 << 20))
        );
        assert_eq!(limits.exceeded(&lowered), None);
        let least = Confinement {
            memory: Bytes(1 << 20),
            ..lowered.clone()
        };
        assert_eq!(limits.lower(least.clone()), least, "what is below a bound stays");
        for (limit, got, bound, asked) in [
            (
                "memory",
                "200M",
                "100M",
                Confinement {
                    memory: Bytes(200 << 20),
                    ..lowered.clone()
                },
            ),
            (
                "shm_size",
                "4M",
                "2M",
                Confinement {
                    shm_size: Bytes(4 << 20),
                    ..lowered.clone()
                },
            ),
            (
                "output_size",
                "2M",
                "1M",
                Confinement {
                    output_size: Bytes(2 << 20),
                    ..lowered.clone()
                },
            ),
            (
                "pids",
                "9",
                "8",
                Confinement {
                    pids: 9,
                    ..lowered.clone()
                },
            ),
            (
                "cpus",
                "0.6",
                "0.5",
                Confinement {
                    cpus: 0.6,
                    ..lowered.clone()
                },
            ),
            (
                "timeout",
                "11s",
                "10s",
                Confinement {
                    timeout: Duration::from_secs(11),
                    ..lowered.clone()
                },
            ),
            (
                "timeout",
                "10s and a grace of 1s",
                "10s",
                Confinement {
                    grace: Duration::from_secs(1),
                    ..lowered.clone()
                },
            ),
        ] {
            let exceeded = limits.exceeded(&asked).unwrap();
            assert_eq!(
                (exceeded.limit, exceeded.got.as_str(), exceeded.bound.as_str()),
                (limit, got, bound)
            );
            assert_eq!(section("").exceeded(&asked), None);
        }
    }

    #[test]
    fn variables_and_inputs_are_those_that_are_listed() {
        let limits = section("env = [\"A\", \"B\"]\ninput_roots = [\"/usr\", \"/nonexistent\"]\n");
        assert_eq!(limits.forbidden(["B", "A"].into_iter()), None);
        let exceeded = limits.forbidden(["A", "AB"].into_iter()).unwrap();
        assert_eq!(
            (exceeded.limit, exceeded.got.as_str(), exceeded.bound.as_str()),
            ("env", "AB", "A, B")
        );
        assert_eq!(limits.outside(Path::new("/usr/share")), None);
        for path in ["/", "/usrx", "/nonexistent"] {
            assert_eq!(limits.outside(Path::new(path)).unwrap().limit, "input_roots", "{path}");
        }
        let none = section("env = []\ninput_roots = []\n");
        assert_eq!(none.forbidden(["A"].into_iter()).unwrap().bound, "none");
        assert!(none.outside(Path::new("/usr")).is_some() && none.forbidden(std::iter::empty()).is_none());
    }

    #[test]
    fn a_section_that_no_run_could_keep_is_refused() {
        let grace = Confinement {
            grace: Duration::from_secs(60),
            ..Confinement::default()
        };
        assert!(section("timeout = \"30s\"\n")
            .check(&grace)
            .unwrap_err()
            .contains("limits.timeout"));
        assert!(section("timeout = \"30s\"\n").check(&Confinement::default()).is_ok());
        let relative = section("input_roots = [\"data\"]\n").check(&grace).unwrap_err();
        assert!(relative.contains("input_roots: data"), "{relative}");
    }
}
