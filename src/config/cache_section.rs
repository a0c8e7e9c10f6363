//! `[cache]`: how much the store holds.

use std::num::NonZeroU32;

use serde::Deserialize;

use crate::policy::{Bytes, Room};

/// `[cache]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSection {
    /// Most bytes of the store on the disk; default: any.
    max_bytes: Option<Room>,
    /// Most images; default: any.
    max_images: Option<NonZeroU32>,
    /// How far an eviction goes, in percent of these.
    low_water: Option<u8>,
}

impl CacheSection {
    pub(super) fn check(&self) -> Result<(), String> {
        match self.low_water {
            Some(percent) if !(1..=100).contains(&percent) => Err(format!(
                "cache.low_water: it is {percent}, 1 to 100 (percent) are possible"
            )),
            _ => Ok(()),
        }
    }

    /// Most bytes, and most images.
    pub fn limits(&self) -> (Option<Bytes>, Option<u32>) {
        (self.max_bytes.map(Bytes::from), self.max_images.map(NonZeroU32::get))
    }

    /// How far an eviction goes, in percent of the limits.
    pub fn low_water(&self) -> Option<u8> {
        self.low_water
    }
}
