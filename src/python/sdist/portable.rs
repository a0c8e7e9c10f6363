//! Keeps what is compiled here from being for this machine's processor alone.
//!
//! Packages write `-march=native` into their sources, their build systems or the environment. What it means is told to the
//! compiler itself, by a `specs` file beside its parts (GCC manual, "Spec Files"): whoever calls it, by whatever name.

use std::fs;
use std::io;
use std::path::Path;

use crate::policy::Baseline;

/// Where the compiler's parts are, in a folder for each of its versions.
const PARTS: &str = "usr/lib/gcc/x86_64-linux-gnu";

/// Writes into `tree`, which shall lie on the unpacked `toolchain`, what `native` means to its compilers.
pub(super) fn write_specs(toolchain: &Path, tree: &Path, baseline: Baseline) -> io::Result<()> {
    for version in fs::read_dir(toolchain.join(PARTS))? {
        let folder = tree.join(PARTS).join(version?.file_name());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("specs"), specs(baseline))?;
    }
    Ok(())
}

/// In place of what the driver has for options about the processor. It asks the machine nowhere else.
pub(super) fn specs(baseline: Baseline) -> String {
    let name = baseline.name();
    format!(
        "*cc1_cpu:\n%{{march=native:%>march=native -march={name}}} %{{mtune=native:%>mtune=native -mtune=generic}}\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_the_compiler_is_told() {
        let (toolchain, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(toolchain.path().join(PARTS).join("12")).unwrap();
        write_specs(toolchain.path(), tree.path(), Baseline::V3).unwrap();
        let specs = fs::read_to_string(tree.path().join(PARTS).join("12/specs")).unwrap();
        assert!(specs.contains("native -march=x86-64-v3}"), "{specs}");
        assert!(write_specs(tree.path(), &toolchain.path().join("x"), Baseline::V1).is_ok());
        assert!(write_specs(Path::new("/nonexistent"), tree.path(), Baseline::V1).is_err());
    }
}
