//! What can make the container of a run on this machine, and whether it comes to the same.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::policy::{one_line, Level, Promise, Runtime};
use crate::sandbox::SandboxError;

/// The level of each promise that a look from inside found, or that gantry vouches for.
pub(super) type Levels = BTreeMap<Promise, Level>;

/// How one way to make the container of a run fares here.
#[derive(Debug, Serialize)]
pub struct RuntimeFinding {
    /// Whether a sandbox came of it.
    pub works: bool,
    /// Whether it is the one of this machine's configuration, which the findings about promises are of.
    pub chosen: bool,
    /// Promises whose level is another than with the chosen one; none when one of the two does not work.
    pub differs: Option<Vec<Promise>>,
    /// Why no sandbox came of it.
    pub error: Option<String>,
}

/// Compares what came of each with what came of the `chosen` one.
pub(super) fn compare(
    tried: BTreeMap<Runtime, Result<Levels, SandboxError>>,
    chosen: Runtime,
) -> BTreeMap<Runtime, RuntimeFinding> {
    let model = tried.get(&chosen).and_then(|levels| levels.as_ref().ok()).cloned();
    let finding = |(runtime, levels): (Runtime, Result<Levels, SandboxError>)| {
        let compared = model.as_ref().zip(levels.as_ref().ok());
        let differs = compared.map(|(model, levels)| {
            let others = Promise::ALL.into_iter();
            others
                .filter(|promise| levels.get(promise) != model.get(promise))
                .collect()
        });
        let finding = RuntimeFinding {
            works: levels.is_ok(),
            chosen: runtime == chosen,
            differs,
            error: levels.err().map(|error| one_line(&error)),
        };
        (runtime, finding)
    };
    tried.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_another_than_that_of_the_chosen_one_is_named() {
        let levels = |tmp| Ok(Levels::from([(Promise::User, Level::Enforced), (Promise::Tmp, tmp)]));
        let tried = BTreeMap::from([
            (Runtime::Libcontainer, levels(Level::Absent)),
            (Runtime::Native, levels(Level::Enforced)),
        ]);
        let found = compare(tried, Runtime::Native);
        let other = &found[&Runtime::Libcontainer];
        assert_eq!((other.works, other.chosen), (true, false));
        assert_eq!(other.differs.as_deref(), Some(&[Promise::Tmp][..]));
        let chosen = &found[&Runtime::Native];
        assert_eq!((chosen.chosen, chosen.differs.as_deref()), (true, Some(&[][..])));
    }

    #[test]
    fn one_that_does_not_work_is_told_why_and_compared_with_nothing() {
        let broken = Err(SandboxError::Setup {
            reason: "no".to_owned(),
        });
        let tried = BTreeMap::from([(Runtime::Libcontainer, broken), (Runtime::Native, Ok(Levels::new()))]);
        let found = compare(tried, Runtime::Libcontainer);
        let broken = &found[&Runtime::Libcontainer];
        assert_eq!(
            (broken.works, broken.error.as_deref()),
            (false, Some("set up sandbox: no"))
        );
        assert_eq!(broken.differs, None);
        let other = &found[&Runtime::Native];
        assert_eq!((other.works, other.chosen), (true, false));
        assert_eq!(other.differs, None, "there is nothing to compare it with");
    }
}
