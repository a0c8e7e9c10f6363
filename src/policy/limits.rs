//! The limits of a run, listed once.
//!
//! `with_limits!` hands the list to a macro of its caller, which makes a field of each limit:
//! [`Confinement`](super::Confinement) has the value that holds, the configuration, the job document and the command line
//! have one that may be left out. To add a limit, add it to the list, and enforce it in `sandbox`.
//!
//! A value that cannot be enforced is no value of its type here, so whoever reads one has checked it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{as_given, deserialize_duration, parse_duration, Bytes};

/// Each limit: what it is, its name, its type as given, its type as enforced, its default, and the option's placeholder.
macro_rules! with_limits {
    ($define:ident) => {
        $define! {
            /// Memory of all processes together
            memory: $crate::policy::Room => $crate::policy::Bytes = $crate::policy::Bytes(512 << 20), "SIZE";
            /// CPU share in cores
            cpus: $crate::policy::Cpus => f64 = 1.0, "N";
            // Python with OpenBLAS starts a thread per core; 64 holds that and a small process pool.
            /// Processes and threads at once
            pids: $crate::policy::Pids => u32 = 64, "N";
            /// Wall-clock limit from the start of the function, such as 60s or 5m
            timeout: $crate::policy::Time => std::time::Duration = std::time::Duration::from_secs(60), "TIME";
            /// Time between SIGTERM and SIGKILL at the end of the time limit; without it there is no SIGTERM
            grace: $crate::policy::Time => std::time::Duration = std::time::Duration::ZERO, "TIME";
            /// Size of /tmp
            tmp_size: $crate::policy::Room => $crate::policy::Bytes = $crate::policy::Bytes(64 << 20), "SIZE";
            // What Docker gives, and multiprocessing and its like are written for.
            /// Size of /dev/shm, the shared memory
            shm_size: $crate::policy::Room => $crate::policy::Bytes = $crate::policy::Bytes(64 << 20), "SIZE";
            /// Size of /output
            output_size: $crate::policy::Room => $crate::policy::Bytes = $crate::policy::Bytes(64 << 20), "SIZE";
            /// Most bytes passed on of standard output, and of standard error
            output_limit: $crate::policy::Bytes => $crate::policy::Bytes = $crate::policy::Bytes(16 << 20), "SIZE";
            /// Most bytes of standard input that -i passes on; more ends the run
            input_limit: $crate::policy::Bytes => $crate::policy::Bytes = $crate::policy::Bytes(16 << 20), "SIZE";
        }
    };
}
pub(crate) use with_limits;

macro_rules! given_limits {
    ($($(#[$doc:meta])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {
        /// The limits that one source sets: the configuration, a job document or the command line.
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        pub struct GivenLimits {
            $($(#[$doc])* pub $name: Option<$given>,)*
        }

        impl GivenLimits {
            /// The limits of both; where both set one, that of `self`.
            pub fn over(self, below: Self) -> Self {
                Self { $($name: self.$name.or(below.$name),)* }
            }
        }
    };
}
with_limits!(given_limits);

/// A number of bytes in memory: at least 64 KiB. A size of zero means "unlimited" to tmpfs, which nobody may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room(Bytes);

/// A CPU share in cores: 0.01 to 1024.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpus(f64);

/// A number of processes and threads: 1 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids(u32);

/// A time of more than nothing and at most a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(Duration);

impl TryFrom<Bytes> for Room {
    type Error = String;

    fn try_from(size: Bytes) -> Result<Self, String> {
        // A page would do for tmpfs; a run needs its interpreter's first pages as well.
        const LEAST: Bytes = Bytes(64 << 10);
        if size < LEAST {
            return Err(format!(
                "it is {}, at least {} is needed",
                as_given(size),
                as_given(LEAST)
            ));
        }
        Ok(Self(size))
    }
}

impl TryFrom<f64> for Cpus {
    type Error = String;

    fn try_from(cores: f64) -> Result<Self, String> {
        // What a cgroup's quota can say: a millisecond in 100 ms, and more cores than machines have.
        if (0.01..=1024.0).contains(&cores) {
            return Ok(Self(cores));
        }
        Err("want a number of cores from 0.01 to 1024".to_owned())
    }
}

impl TryFrom<u32> for Pids {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        // More than 4096 threads of one run would be most of a machine's.
        if (1..=4096).contains(&number) {
            return Ok(Self(number));
        }
        Err("want a number from 1 to 4096".to_owned())
    }
}

impl FromStr for Room {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<Bytes>().map_err(|error| error.to_string())?.try_into()
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().unwrap_or(f64::NAN).try_into()
    }
}

impl FromStr for Pids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().unwrap_or(0).try_into()
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Pids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_duration(deserializer)
    }
}

impl From<Room> for Bytes {
    fn from(room: Room) -> Self {
        room.0
    }
}

impl From<Cpus> for f64 {
    fn from(cpus: Cpus) -> Self {
        cpus.0
    }
}

impl From<Pids> for u32 {
    fn from(pids: Pids) -> Self {
        pids.0
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Confinement;

    /// Every limit with a value of its own, each of them `n` times something.
    fn all(n: u32) -> GivenLimits {
        let room = |least: u64| Room::try_from(Bytes(least * u64::from(n))).ok();
        let time = |seconds: u64| Some(Time(Duration::from_secs(seconds) * n));
        GivenLimits {
            memory: room(1 << 20),
            cpus: Cpus::try_from(f64::from(n)).ok(),
            pids: Pids::try_from(n).ok(),
            timeout: time(1),
            grace: time(2),
            tmp_size: room(2 << 20),
            shm_size: room(5 << 20),
            output_size: room(3 << 20),
            output_limit: Some(Bytes(u64::from(n))),
            input_limit: Some(Bytes(u64::from(n) + 1)),
        }
    }

    #[test]
    fn what_is_above_wins_limit_by_limit() {
        assert_eq!(all(1).over(all(2)), all(1));
        assert_eq!(GivenLimits::default().over(all(2)), all(2));
        assert_eq!(all(1).over(GivenLimits::default()), all(1));
        // One limit alone does not take others with it.
        let defaults = Confinement::default();
        macro_rules! each_alone {
            ($($(#[$doc:meta])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {$(
                let alone = GivenLimits { $name: all(3).$name, ..GivenLimits::default() };
                let mixed = alone.over(all(5));
                assert_eq!((mixed.$name, mixed == all(3)), (all(3).$name, false));
                assert_eq!(GivenLimits { $name: None, ..mixed }, GivenLimits { $name: None, ..all(5) });
                let confinement = Confinement::default().limited(&alone);
                assert_ne!(confinement.$name, defaults.$name);
                assert_eq!(Confinement { $name: defaults.$name, ..confinement }, defaults);
            )*};
        }
        with_limits!(each_alone);
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_wherever_it_is_written() {
        for (text, is_room) in [("64K", true), ("65535", false), ("0", false), ("lots", false)] {
            assert_eq!(text.parse::<Room>().is_ok(), is_room, "{text}");
        }
        for (text, is_cpus) in [
            ("0.01", true),
            ("1024", true),
            ("0", false),
            ("-1", false),
            ("1025", false),
            ("NaN", false),
            ("inf", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Cpus>().is_ok(), is_cpus, "{text}");
        }
        for (text, is_pids) in [
            ("1", true),
            ("4096", true),
            ("0", false),
            ("4097", false),
            ("-1", false),
            ("4294967297", false),
        ] {
            assert_eq!(text.parse::<Pids>().is_ok(), is_pids, "{text}");
        }
        assert_eq!("1".parse::<Room>().unwrap_err(), "it is 1 B, at least 64K is needed");
        assert_eq!(
            "0".parse::<Cpus>().unwrap_err(),
            "want a number of cores from 0.01 to 1024"
        );
        assert_eq!("0".parse::<Pids>().unwrap_err(), "want a number from 1 to 4096");
        for (text, error) in [("1", "64K"), ("\"1\"", "64K"), ("true", "size")] {
            let refused = serde_json::from_str::<Room>(text).unwrap_err().to_string();
            assert!(refused.contains(error), "{refused}");
        }
        assert!(serde_json::from_str::<Cpus>("0").is_err() && serde_json::from_str::<Cpus>("2").is_ok());
        assert!(serde_json::from_str::<Pids>("0").is_err() && serde_json::from_str::<Pids>("2").is_ok());
        assert!(serde_json::from_str::<Time>("\"0s\"").is_err() && serde_json::from_str::<Time>("\"1s\"").is_ok());
    }
}
