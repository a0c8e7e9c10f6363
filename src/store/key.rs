//! What a remembered step depends on. All steps, and the versions of what they make, stand in this file.
//!
//! A [`Key`] is the hash of a step's name, its format version and its inputs. Equal keys mean equal results, so whatever
//! changes a step's result without changing an input raises [`Step::format`]. Inputs are bytes; `Debug` text never is
//! one, as renaming a field would change it.
//!
//! ```text
//! joined    "gantry " name NUL format NUL input NUL input ...      inputs that cannot hold a NUL: digests, names, paths
//! counted   "gantry " name NUL format NUL (length input) ...       any input; the length is 8 bytes, little-endian
//! ```
//!
//! Steps of the first form have it because stores have keys of it. New steps take the second one.

use std::fmt;

use crate::oci::{Digest, Hasher};

/// A step whose result is remembered by its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A function's directory -> the layer of its code, keyed by [`Function::key`](crate::build::function::Function::key).
    /// Raise it when `build::code` writes other bytes.
    CodeLayer,
    /// Wheels -> their layer, keyed in `python/wheel/mod.rs`; `python/layers.rs` decides which share one. Raise it when other files, modes or scripts of a wheel are installed. The format of layers
    /// in general (`archive::layer::FORMAT`) is one of its inputs.
    WheelLayer,
    /// Debian packages of a base definition -> their layer, keyed in `base/definition.rs`. Raise it when the assembled tree changes for any other reason
    /// than the definition and the packages, such as a file that is synthesised.
    BaseLayer,
    /// A foreign base image -> the layer of what it lacks, keyed in `base/foreign.rs`. Raise it when something else is added.
    GlueLayer,
    /// Sources and interpreter -> the layer of their bytecode, keyed in `python/bytecode.rs`. The script that compiles is one of its inputs; raise it when
    /// the script is called in another way.
    BytecodeLayer,
    /// Requirements and the resolver's settings -> a lock, keyed in `python/requirements.rs`. Raise it when the resolver is asked another question.
    Lock,
    /// An interpreter -> its full version, keyed in `python/full_version.rs`. Raise it when something else is asked of it.
    PythonVersion,
    /// A base definition -> the newest packages of its archive, keyed in `base/relock.rs`. Raise it when other packages are chosen.
    Relock,
    /// Names of system packages, and what the base has -> which packages of the archive, keyed in `base/system/chosen.rs`. Raise it when other packages are chosen.
    SystemLock,
    /// System packages -> their layer, keyed in `base/system/mod.rs`. Raise it when the layer of the same packages changes.
    SystemLayer,
    /// Layers of the system and libraries of wheels -> the layer of the loader's list, keyed in `base/loader_layer.rs`. Raise it when the list changes.
    LoaderLayer,
    /// A layer -> the shared libraries in it, keyed in `python/libraries.rs`. Raise it when others are found.
    Libraries,
    /// An interpreter and a toolchain -> the set-up that builds wheels, which the next two depend on; all three are keyed in
    /// `python/sdist/recipe.rs`. The script that
    /// builds is one of its inputs. Raise it when limits, environment or layers of that set-up change.
    Workshop,
    /// A source distribution -> what it needs to be built. It has no version: its set-up has one.
    SdistRecipe,
    /// A source distribution and the wheels that were there -> its wheel. It has no version: its set-up has one.
    SdistWheel,
    /// Layers and settings of an image -> the image that was made of them, whenever that was; keyed in `build/image.rs`. Raise it when the same inputs
    /// make another configuration or manifest.
    Image,
}

/// How inputs are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Joined,
    Counted,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 16] = [
        Self::CodeLayer,
        Self::WheelLayer,
        Self::BaseLayer,
        Self::GlueLayer,
        Self::BytecodeLayer,
        Self::Lock,
        Self::PythonVersion,
        Self::Relock,
        Self::SystemLock,
        Self::SystemLayer,
        Self::LoaderLayer,
        Self::Libraries,
        Self::Workshop,
        Self::SdistRecipe,
        Self::SdistWheel,
        Self::Image,
    ];

    /// The version of what the step makes; 0 for a step that never had one, whose keys hold none.
    pub const fn format(self) -> u32 {
        match self {
            Self::CodeLayer => 2,
            Self::WheelLayer => 3,
            // The inputs of 5 ran into each other.
            Self::BaseLayer => 6,
            Self::GlueLayer => 4,
            // Before, keys had no version, and did not say which interpreter of an image.
            Self::BytecodeLayer => 1,
            // 1 was made of `Debug` text, 2 had no warnings and no full version of Python.
            Self::Lock => 3,
            Self::PythonVersion => 1,
            Self::Relock => 1,
            Self::SystemLock => 1,
            // 1 had no list of libraries for the loader.
            Self::SystemLayer => 2,
            Self::LoaderLayer => 1,
            // 1 knew names alone, not where libraries are looked for.
            Self::Libraries => 2,
            // 1 did not say which interpreter of an image.
            Self::Workshop => 2,
            Self::Image => 1,
            Self::SdistRecipe => 0,
            Self::SdistWheel => 0,
        }
    }

    /// Its name in keys. It never changes: raise the format instead.
    const fn name(self) -> &'static str {
        match self {
            Self::CodeLayer => "code layer",
            Self::WheelLayer => "wheel layer",
            Self::BaseLayer => "base layer",
            Self::GlueLayer => "glue",
            Self::BytecodeLayer => "bytecode layer",
            Self::Lock => "lock",
            Self::PythonVersion => "python version",
            Self::Relock => "relock",
            Self::SystemLock => "system lock",
            Self::SystemLayer => "system layer",
            Self::LoaderLayer => "loader layer",
            Self::Libraries => "libraries",
            Self::Workshop => "sdist",
            Self::SdistRecipe => "sdist recipe",
            Self::SdistWheel => "sdist wheel",
            Self::Image => "image",
        }
    }

    const fn form(self) -> Form {
        match self {
            Self::CodeLayer
            | Self::WheelLayer
            | Self::GlueLayer
            | Self::BytecodeLayer
            | Self::Relock
            | Self::Libraries
            | Self::Workshop
            | Self::SdistRecipe
            | Self::SdistWheel => Form::Joined,
            Self::BaseLayer
            | Self::Lock
            | Self::PythonVersion
            | Self::Image
            | Self::SystemLock
            | Self::SystemLayer
            | Self::LoaderLayer => Form::Counted,
        }
    }
}

/// What one result of a step depends on, hashed. Printed like a digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Digest);

impl Key {
    /// A key of `step`, to be given its inputs.
    pub fn of(step: Step) -> KeyMaker {
        let mut hasher = Hasher::new();
        hasher.update(b"gantry ");
        hasher.update(step.name().as_bytes());
        if step.format() != 0 {
            hasher.update(format!("\0{}", step.format()).as_bytes());
        }
        if step.form() == Form::Counted {
            hasher.update(b"\0");
        }
        KeyMaker {
            form: step.form(),
            hasher,
        }
    }

    /// The 64 hexadecimal digits of the hash.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A [`Key`] that is being given its inputs, in an order that the step's callers keep.
#[derive(Debug, Clone)]
pub struct KeyMaker {
    form: Form,
    hasher: Hasher,
}

impl KeyMaker {
    /// Adds one input. Those of a step of the first form hold no NUL.
    #[must_use]
    pub fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let input = input.as_ref();
        match self.form {
            Form::Joined => {
                debug_assert!(!input.contains(&0), "an input with a NUL");
                self.hasher.update(b"\0");
            }
            Form::Counted => self.hasher.update(&(input.len() as u64).to_le_bytes()),
        }
        self.hasher.update(input);
        self
    }

    /// Adds how many `inputs` there are, and each of them. For steps of the second form.
    #[must_use]
    pub fn with_list(self, inputs: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let inputs: Vec<_> = inputs.into_iter().collect();
        let counted = self.with((inputs.len() as u64).to_le_bytes());
        inputs.into_iter().fold(counted, Self::with)
    }

    /// The key of all inputs given so far.
    pub fn finish(self) -> Key {
        Key(self.hasher.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_stores_made_before_stay_what_they_are() {
        for (step, bytes) in [
            (Step::CodeLayer, "gantry code layer\x002\0a\0b"),
            (Step::WheelLayer, "gantry wheel layer\x003\0a\0b"),
            (Step::GlueLayer, "gantry glue\x004\0a\0b"),
            (Step::BytecodeLayer, "gantry bytecode layer\x001\0a\0b"),
            (Step::Relock, "gantry relock\x001\0a\0b"),
            (Step::Libraries, "gantry libraries\x002\0a\0b"),
            (Step::Workshop, "gantry sdist\x002\0a\0b"),
            (Step::SdistRecipe, "gantry sdist recipe\0a\0b"),
            (Step::SdistWheel, "gantry sdist wheel\0a\0b"),
        ] {
            let key = Key::of(step).with("a").with("b").finish();
            assert_eq!(key.to_string(), Digest::of(bytes.as_bytes()).to_string(), "{step:?}");
        }
    }

    #[test]
    fn inputs_never_run_into_each_other() {
        let lock = |inputs: &[&str]| {
            let with = |key: KeyMaker, input: &&str| key.with(input);
            inputs.iter().fold(Key::of(Step::Lock), with).finish()
        };
        let list = |first: &[&str], second: &[&str]| Key::of(Step::Lock).with_list(first).with_list(second).finish();
        let keys = [
            lock(&["a", "b"]),
            lock(&["ab"]),
            lock(&["ab", ""]),
            lock(&["", "ab"]),
            lock(&["a\0b"]),
            lock(&[]),
            list(&["a", "b"], &[]),
            list(&["a"], &["b"]),
            list(&[], &["a", "b"]),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn no_two_steps_have_keys_in_common() {
        let keys: std::collections::BTreeSet<_> = Step::ALL.iter().map(|step| Key::of(*step).finish()).collect();
        assert_eq!(keys.len(), Step::ALL.len());
    }
}
