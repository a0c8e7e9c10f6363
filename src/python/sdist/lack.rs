//! Whether the libraries of a wheel that was built here load where it will be used.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::archive::elf;
use crate::python::wheel::{Wheel, WheelError};

/// Where a base has its libraries.
const LIBRARIES: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/lib",
    "lib/x86_64-linux-gnu",
    "lib64",
    "lib",
];

/// What `wheel` needs and neither it nor the base, unpacked in `trees` and with glibc 2.`glibc`, has: the toolchain is not
/// there at run time.
pub(super) fn find_lack(wheel: &Wheel, trees: &[PathBuf], glibc: u32) -> Result<Option<String>, WheelError> {
    let mut there: BTreeSet<String> = wheel.base_names().map(str::to_owned).collect();
    for tree in trees {
        let entries = LIBRARIES
            .iter()
            .filter_map(|directory| fs::read_dir(tree.join(directory)).ok());
        there.extend(
            entries
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok()),
        );
    }
    let mut lack = None;
    wheel.each_file(&mut |name, contents| {
        if lack.is_none() {
            lack = missing_at_run_time(contents, &there, glibc).map(|reason| format!("its {name}: {reason}"));
        }
    })?;
    Ok(lack)
}

/// What `contents` need that a base with the libraries `there` and glibc 2.`glibc` has not.
fn missing_at_run_time(contents: &[u8], there: &BTreeSet<String>, glibc: u32) -> Option<String> {
    let needs = match elf::read(contents) {
        Ok(needs) => needs?,
        Err(reason) => return Some(reason.to_owned()),
    };
    if let Some(library) = needs.libraries.iter().find(|library| !there.contains(*library)) {
        return Some(format!("it needs {library}, which the base has not"));
    }
    let too_new = needs.versions.iter().find(|version| {
        let minor = version.strip_prefix("GLIBC_2.").and_then(|rest| rest.split('.').next());
        minor.is_some_and(|minor| minor.parse::<u32>().is_ok_and(|minor| minor > glibc))
    });
    too_new.map(|version| format!("it needs {version}; the C library of the base is 2.{glibc}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_only_the_toolchain_has_is_missing() {
        let library = fs::read("/usr/lib/x86_64-linux-gnu/libm.so.6").unwrap();
        let base = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let loader = "ld-linux-x86-64.so.2";
        let both = base(&["libc.so.6", loader]);
        assert_eq!(missing_at_run_time(&library, &both, 36), None);
        let old = missing_at_run_time(&library, &both, 1).unwrap();
        assert!(old.contains("the C library of the base is 2.1"), "{old}");
        let reason = missing_at_run_time(&library, &base(&[loader]), 36).unwrap();
        assert!(reason.contains("libc.so.6"), "{reason}");
        assert_eq!(missing_at_run_time(b"text", &base(&[]), 36), None);
        assert!(missing_at_run_time(b"\x7fELF", &base(&[]), 36).is_some());
    }
}
