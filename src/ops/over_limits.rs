//! Why a store is over its limits when all that may go is gone, and what to do about it, in a line.

use crate::oci::Digest;
use crate::policy::{as_limit, counted, Bytes};
use crate::upkeep::eviction::{CacheLimits, EvictionPlan, IN_USE, ONLY_HERE, PINNED};

/// What is said of a store within `limits` that is over them after `plan`; `verb` is `holds`, or `would hold`. `came` is the
/// image that all this was for.
pub fn over_limits(plan: &EvictionPlan, limits: &CacheLimits, verb: &str, came: Option<&Digest>) -> String {
    let over = |is: u64, most: Option<u64>| {
        most.and_then(|most| is.checked_sub(most).filter(|over| *over > 0).zip(Some(most)))
    };
    let bytes = over(plan.bytes_after, limits.max_bytes).map(|(over, most)| {
        let (is, over, most) = (Bytes(plan.bytes_after), Bytes(over), as_limit(Bytes(most)));
        format!("{is}, {over} more than max_bytes = {most}")
    });
    let images = over(plan.images_after, limits.max_images).map(|(over, most)| {
        let count = counted(plan.images_after, "image", "images");
        format!("{count}, {over} more than max_images = {most}")
    });
    let over: Vec<String> = bytes.into_iter().chain(images).collect();
    let over = match over.is_empty() {
        true => "more than [cache] allows".to_owned(),
        false => over.join(", and "),
    };
    format!(
        "the store {verb} {over}: {}; {}, and `gantry cache stats` says what takes room",
        what_stays(plan, came).join(", "),
        remedy(plan)
    )
}

/// How many images stay for `reason`.
fn kept(plan: &EvictionPlan, reason: &str) -> usize {
    plan.kept.iter().filter(|image| image.reason == reason).count()
}

fn what_stays(plan: &EvictionPlan, came: Option<&Digest>) -> Vec<String> {
    let of_reason = |reason, one: &str, many: &str| match kept(plan, reason) {
        0 => None,
        count => Some(counted(count as u64, one, many)),
    };
    let pinned = of_reason(PINNED, "image is pinned", "images are pinned");
    let in_use = of_reason(IN_USE, "image is in use", "images are in use");
    let only_here = of_reason(
        ONLY_HERE,
        "image is known to no registry",
        "images are known to no registry",
    );
    let came = came.filter(|came| !plan.kept.iter().any(|image| image.digest == **came));
    let came = came.map(|_| "the image that came stays".to_owned());
    let stays: Vec<String> = pinned.into_iter().chain(in_use).chain(only_here).chain(came).collect();
    match stays.is_empty() {
        true => vec!["no image is left to go".to_owned()],
        false => stays,
    }
}

fn remedy(plan: &EvictionPlan) -> &'static str {
    match (kept(plan, PINNED), kept(plan, IN_USE)) {
        (0, 0) => "raise the limit under [cache]",
        (0, _) => "`gantry cache gc` evicts those that are not in use any more",
        (_, 0) => "`gantry cache unpin IMAGE` lets one go",
        (_, _) => "`gantry cache unpin IMAGE` lets one go, `gantry cache gc` evicts those that are not in use any more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::eviction::KeptImage;

    fn over(kept: &[&'static str], came: Option<&str>) -> String {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let images = kept.iter().enumerate().map(|(number, reason)| KeptImage {
            name: format!("x:{number}"),
            digest: digest(&format!("x:{number}")),
            reason,
        });
        let plan = EvictionPlan {
            kept: images.collect(),
            bytes_after: 3000,
            images_after: 2,
            ..EvictionPlan::default()
        };
        let limits = CacheLimits {
            max_bytes: Some(2000),
            max_images: Some(2),
            ..CacheLimits::default()
        };
        over_limits(&plan, &limits, "holds", came.map(digest).as_ref())
    }

    #[test]
    fn what_is_over_a_limit_is_said_with_how_much_why_and_what_to_type() {
        let begin = "the store holds 3.0 KB, 1.0 KB more than max_bytes = 2.0 KB: ";
        let end = ", and `gantry cache stats` says what takes room";
        let (unpin, gc) = (
            "`gantry cache unpin IMAGE` lets one go",
            "`gantry cache gc` evicts those that are not in use any more",
        );
        for (kept, came, why) in [
            (
                &[][..],
                None,
                "no image is left to go; raise the limit under [cache]".to_owned(),
            ),
            (
                &[],
                Some("a"),
                "the image that came stays; raise the limit under [cache]".to_owned(),
            ),
            (&[PINNED], Some("x:0"), format!("1 image is pinned; {unpin}")),
            (
                &[IN_USE, IN_USE],
                Some("a"),
                format!("2 images are in use, the image that came stays; {gc}"),
            ),
            (
                &[PINNED, PINNED, IN_USE, ONLY_HERE],
                None,
                format!("2 images are pinned, 1 image is in use, 1 image is known to no registry; {unpin}, {gc}"),
            ),
        ] {
            assert_eq!(over(kept, came), format!("{begin}{why}{end}"));
        }
    }
}
