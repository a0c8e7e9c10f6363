//! `[cache]`: how much the store holds.

use std::fmt;
use std::num::NonZeroU32;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::policy::{Bytes, Room};

/// `[cache]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSection {
    /// Most bytes of the store on the disk; default: any.
    #[serde(deserialize_with = "max_bytes")]
    max_bytes: Option<Room>,
    /// Most images; default: any.
    #[serde(deserialize_with = "max_images")]
    max_images: Option<NonZeroU32>,
    /// How far an eviction goes, in percent of these.
    #[serde(deserialize_with = "low_water")]
    low_water: Option<u8>,
}

impl CacheSection {
    /// Most bytes, and most images.
    pub fn limits(&self) -> (Option<Bytes>, Option<u32>) {
        (self.max_bytes.map(Bytes::from), self.max_images.map(NonZeroU32::get))
    }

    /// How far an eviction goes, in percent of the limits.
    pub fn low_water(&self) -> Option<u8> {
        self.low_water
    }
}

/// A value of one key: an error names the key, what was written, what is possible, and an example.
struct Value<T> {
    expected: &'static str,
    number: fn(u64) -> Option<T>,
    text: fn(&str) -> Option<T>,
}

fn max_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Room>, D::Error> {
    let value = Value {
        expected: "cache.max_bytes to be a size of at least 64K, such as \"40GB\"",
        number: |bytes| Room::try_from(Bytes(bytes)).ok(),
        text: |text| text.parse().ok(),
    };
    deserializer.deserialize_any(value).map(Some)
}

fn max_images<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let value = Value {
        expected: "cache.max_images to be a whole number from 1 on, such as 200",
        number: |images| u32::try_from(images).ok().and_then(NonZeroU32::new),
        text: |_| None,
    };
    deserializer.deserialize_any(value).map(Some)
}

fn low_water<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let value = Value {
        expected: "cache.low_water to be a whole number of percent from 1 to 100, such as 90",
        number: |percent| u8::try_from(percent).ok().filter(|percent| (1..=100).contains(percent)),
        text: |_| None,
    };
    deserializer.deserialize_any(value).map(Some)
}

impl<T> Visitor<'_> for Value<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        (self.number)(value).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        let found = u64::try_from(value).ok().and_then(self.number);
        found.ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        (self.text)(value).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
    }
}
