//! Which image of an index a name means.

use crate::oci::{Descriptor, REF_NAME};

/// The image called `name`; without a name, the only image. An error is what is there instead.
pub(super) fn choose(images: &[Descriptor], name: Option<&str>) -> Result<Descriptor, String> {
    let names: Vec<&str> = images.iter().filter_map(name_of).collect();
    let mut matching = images.iter().filter(|found| name.is_none() || name_of(found) == name);
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(format!(
            "none is called {:?}; there are {names:?}",
            name.unwrap_or_default()
        )),
        (Some(_), Some(_)) => Err(format!("there are several, name one of {names:?}")),
    }
}

/// What an index calls the image of an entry.
pub fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}
