//! Which processors compiled packages are for.

use serde::Deserialize;

/// A level of x86-64 (System V ABI, "Micro-Architecture Levels"): every processor of a level runs what is compiled for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Baseline {
    /// Any.
    #[serde(rename = "x86-64")]
    V1,
    /// Those since 2009, SSE4.2: what the wheels of large packages ask for.
    #[default]
    #[serde(rename = "x86-64-v2")]
    V2,
    /// Those since 2015, AVX2.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// Those with AVX-512.
    #[serde(rename = "x86-64-v4")]
    V4,
}

impl Baseline {
    /// What compilers call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }
}
