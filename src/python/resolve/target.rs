//! What wheels are wanted for.

/// The platforms of glibc that uv knows, by its minor version.
const PLATFORMS: [u32; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];

/// A CPython on linux/amd64 and the C library below it: those of a base.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Version of Python, such as `3.11`.
    pub python: String,
    /// Minor version of glibc: wheels that want a newer one do not load.
    pub glibc: u32,
}

impl Target {
    /// uv's newest platform that is not newer than the C library.
    pub(super) fn platform(&self) -> String {
        let known = PLATFORMS.iter().rev().find(|known| **known <= self.glibc);
        format!("x86_64-manylinux_2_{}", known.unwrap_or(&self.glibc))
    }

    /// The minor version of Python.
    pub(super) fn minor(&self) -> Option<u32> {
        self.python.split('.').nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_never_newer_than_the_c_library() {
        for (glibc, platform) in [(36, "2_36"), (41, "2_40"), (30, "2_28"), (17, "2_17"), (12, "2_12")] {
            let python = "3.11".to_owned();
            assert_eq!(
                Target { python, glibc }.platform(),
                format!("x86_64-manylinux_{platform}")
            );
        }
    }
}
