//! What somebody may have meant who wrote a name that is not there.

/// `; did you mean a, b?` of the names that are like `name`, at most three; nothing when none is.
pub(super) fn did_you_mean<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    // A wrong letter in every four, and what was left out at an end: `libgl` for `libgl1`.
    let most = (name.len() / 4).clamp(1, 3);
    let distance = |other: &'a str| (strsim::osa_distance(name, other), other);
    let near = names.filter(|other| other.len().abs_diff(name.len()) <= most);
    let mut near: Vec<(usize, &str)> = near.map(distance).filter(|(distance, _)| *distance <= most).collect();
    near.sort_unstable();
    near.truncate(3);
    match near.is_empty() {
        true => String::new(),
        false => {
            let names: Vec<&str> = near.into_iter().map(|(_, name)| name).collect();
            format!("; did you mean {}?", names.join(", "))
        }
    }
}
