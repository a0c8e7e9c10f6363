//! Which wheels share a layer.

use crate::build::lock::{Lock, LockedWheel};
use crate::build::wheel;
use crate::oci::Digest;

/// A wheel from this size on has a layer of its own: smaller ones would only add mounts.
const OWN_LAYER: u64 = 1 << 20;
/// Wheels with layers of their own; with bytecode, base, bundle and code that makes 64 layers.
const MOST_OWN: usize = 28;

/// Wheels of one layer.
pub struct Group(pub Vec<LockedWheel>);

impl Group {
    /// What its layer is keyed by.
    pub fn key(&self) -> Digest {
        wheel::layer_key(&self.0.iter().map(|wheel| wheel.sha256).collect::<Vec<_>>())
    }

    /// Why its layer is in an image.
    pub fn reason(&self) -> String {
        let names: Vec<String> = self
            .0
            .iter()
            .map(|wheel| format!("{} {}", wheel.name, wheel.version))
            .collect();
        format!("wheel{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
    }
}

/// Large wheels alone, the rest together; names order both, so that the same set gives the same layers.
pub fn group(lock: &Lock) -> Vec<Group> {
    let mut by_size: Vec<&LockedWheel> = lock.wheels.iter().filter(|wheel| wheel.size >= OWN_LAYER).collect();
    by_size.sort_by_key(|wheel| std::cmp::Reverse(wheel.size));
    let own: Vec<&str> = by_size.iter().take(MOST_OWN).map(|wheel| wheel.name.as_str()).collect();
    let (own, bundle): (Vec<_>, Vec<_>) = lock
        .wheels
        .iter()
        .cloned()
        .partition(|wheel| own.contains(&wheel.name.as_str()));
    let mut groups: Vec<Group> = own.into_iter().map(|wheel| Group(vec![wheel])).collect();
    if !bundle.is_empty() {
        groups.push(Group(bundle));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_wheels_have_their_own_layers_and_the_rest_share_one() {
        let wheel = |name: &str, size| LockedWheel {
            name: name.to_owned(),
            version: "1".to_owned(),
            file_name: String::new(),
            url: String::new(),
            size,
            sha256: Digest::of(name.as_bytes()),
            sdist: None,
        };
        let lock = Lock {
            wheels: vec![wheel("a", 10), wheel("b", 5 << 20), wheel("c", 20), wheel("d", 2 << 20)],
        };
        let reasons: Vec<String> = group(&lock).iter().map(Group::reason).collect();
        assert_eq!(reasons, ["wheel b 1", "wheel d 1", "wheels a 1, c 1"]);
        let many = Lock {
            wheels: (0..40).map(|number| wheel(&format!("w{number:02}"), 2 << 20)).collect(),
        };
        assert_eq!(group(&many).len(), MOST_OWN + 1);
    }
}
