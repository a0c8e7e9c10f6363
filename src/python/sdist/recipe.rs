//! What the wheel of a source distribution depends on, and what is remembered of it.

use serde::{Deserialize, Serialize};

use super::confined::BUILD_WHEEL;
use super::portable::specs;
use crate::oci::Digest;
use crate::policy::Baseline;
use crate::store::{Key, Memo, Roots, Step};

/// What is remembered of a built wheel; its bytes are a download of that hash.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BuiltWheel {
    pub file_name: String,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

impl Memo for BuiltWheel {
    const FOLDER: &'static str = "sdist";

    fn roots(&self) -> Roots {
        Roots {
            downloads: vec![self.sha256],
            ..Roots::default()
        }
    }
}

/// What a source distribution needs to be built.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Recipe(pub Vec<String>);

impl Memo for Recipe {
    const FOLDER: &'static str = "recipe";
    const FORMER_FOLDER: Option<&'static str> = Some("sdist");

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// Names a set-up that wheels are built in: the base's interpreter, by its layer and its path, the toolchain, and the processors
/// it compiles for.
pub(super) fn workshop_key(interpreter: (&Digest, &str), toolchain: &Key, baseline: Baseline) -> Key {
    let (layer, path) = interpreter;
    Key::of(Step::Workshop)
        .with(BUILD_WHEEL)
        .with(layer.to_string())
        .with(path)
        .with(toolchain.to_string())
        .with(specs(baseline))
        .finish()
}

/// What the build requirements of a source distribution are remembered by.
pub(super) fn recipe_key(workshop: &Key, sdist: &Digest) -> Key {
    Key::of(Step::SdistRecipe)
        .with(workshop.to_string())
        .with(sdist.to_string())
        .finish()
}

/// What the wheel of a source distribution is remembered by: `tools` are the wheels that were there to build it.
pub(super) fn wheel_key(workshop: &Key, sdist: &Digest, tools: &[Digest]) -> Key {
    let tools: String = tools.iter().map(Digest::to_string).collect();
    Key::of(Step::SdistWheel)
        .with(workshop.to_string())
        .with(sdist.to_string())
        .with(tools)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_depends_on_everything_that_was_there_to_build_it() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let toolchain = |text: &str| Key::of(Step::BaseLayer).with(text).finish();
        let workshop_key =
            |base: &str, name: &str| workshop_key((&digest(base), "/bin/python"), &toolchain(name), Baseline::V2);
        let workshop = workshop_key("base", "toolchain");
        let newer = super::workshop_key((&digest("base"), "/bin/python"), &toolchain("toolchain"), Baseline::V3);
        let beside = super::workshop_key((&digest("base"), "/bin/another"), &toolchain("toolchain"), Baseline::V2);
        let key = wheel_key(&workshop, &digest("sdist"), &[digest("setuptools")]);
        let others = [
            wheel_key(
                &workshop_key("other", "toolchain"),
                &digest("sdist"),
                &[digest("setuptools")],
            ),
            wheel_key(
                &workshop_key("base", "other"),
                &digest("sdist"),
                &[digest("setuptools")],
            ),
            wheel_key(&newer, &digest("sdist"), &[digest("setuptools")]),
            wheel_key(&beside, &digest("sdist"), &[digest("setuptools")]),
            wheel_key(&workshop, &digest("other"), &[digest("setuptools")]),
            wheel_key(&workshop, &digest("sdist"), &[digest("other")]),
            wheel_key(&workshop, &digest("sdist"), &[]),
            recipe_key(&workshop, &digest("sdist")),
        ];
        assert!(others.iter().all(|other| *other != key));
        assert_eq!(key, wheel_key(&workshop, &digest("sdist"), &[digest("setuptools")]));
    }
}
