//! Limits of a store while several images come at once: what only this store has does not go for those that can be fetched again.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use super::fake::{Fake, Reply};
use super::images::{layers, store_of};
use crate::common::images::image;
use crate::common::{done, holder_of, Gantry};

const LAYER: usize = 1_000_000;

/// A registry with the images `team/x:0` to `x:3` of a megabyte each, and their names.
fn four() -> (Fake, [String; 4]) {
    let (fake, maker) = (Fake::start(), Gantry::new());
    for number in 0..4 {
        let digest = image(&maker, &format!("x:{number}"), &[(100 + number, LAYER)]);
        fake.hold(&maker.root, &digest, "team/x", &number.to_string());
    }
    let names = [0, 1, 2, 3].map(|number| fake.name(&format!("team/x:{number}")));
    (fake, names)
}

/// Two images that no registry has, and their names.
fn two_of_its_own(gantry: &Gantry) -> [String; 2] {
    let own = ["own:0", "own:1"].map(str::to_owned);
    for (seed, name) in own.iter().enumerate() {
        image(gantry, name, &[(10 + seed as u64, LAYER)]);
    }
    own
}

/// Adds `[cache]` to the configuration.
fn limit(gantry: &Gantry, text: &str) {
    let file = gantry.home.join(".config/gantry/config.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}[cache]\n{text}")).unwrap();
}

fn names(gantry: &Gantry) -> BTreeSet<String> {
    gantry.ok(["images", "ls", "-q"]).lines().map(str::to_owned).collect()
}

fn stats(gantry: &Gantry) -> serde_json::Value {
    serde_json::from_str(&gantry.ok(["cache", "stats", "--json"])).unwrap()
}

/// Pulls all of them at once: none gets a byte of a layer before all ask for theirs.
fn pull_at_once(fake: &Fake, gantry: &Gantry, names: &[String]) {
    let gate = fake.gate(names.len());
    let start = |name: &String| -> Child {
        let mut command = gantry.command();
        command.args(["pull", name]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let pulls: Vec<Child> = names.iter().map(start).collect();
    for pull in pulls {
        let pulled = done(pull.wait_with_output().unwrap());
        assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    }
    assert_eq!(gate.most(), names.len());
}

#[test]
fn what_only_this_store_has_stays_while_what_can_go_comes_at_once() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "");
    let own = two_of_its_own(&gantry);
    limit(&gantry, "max_images = 3\nlow_water = 100\n");
    pull_at_once(&fake, &gantry, &wanted);
    let left = names(&gantry);
    assert!(own.iter().all(|name| left.contains(name)), "{left:?}");
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn bytes_that_come_at_once_go_before_what_only_this_store_has() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "");
    image(&gantry, "own:0", &[(10, LAYER)]);
    gantry.ok(["pull", &wanted[0]]);
    let two = stats(&gantry)["physical"].as_u64().unwrap();
    // Those two, and what is written about others; more than one of the four does not fit beside what is here alone.
    let most = two + 500_000;
    limit(&gantry, &format!("max_bytes = {most}\nlow_water = 100\n"));
    pull_at_once(&fake, &gantry, &wanted[1..]);
    let left = names(&gantry);
    assert!(left.contains("own:0") && left.len() == 2, "{left:?}");
    assert!(stats(&gantry)["physical"].as_u64().unwrap() <= most);
}

#[test]
fn what_an_image_may_take_is_no_reason_for_what_only_this_store_has_to_go() {
    let (fake, wanted) = four();
    let measured = store_of(&[&fake], "");
    image(&measured, "own:0", &[(10, LAYER)]);
    let before = stats(&measured)["physical"].as_u64().unwrap();
    measured.ok(["pull", &wanted[0]]);
    let after = stats(&measured)["physical"].as_u64().unwrap();
    // It fits, and would not if it took three times what it has once more.
    let most = after + 300_000;
    assert!(most < before + 4 * LAYER as u64);
    let gantry = store_of(&[&fake], &format!("[cache]\nmax_bytes = {most}\nlow_water = 100\n"));
    image(&gantry, "own:0", &[(10, LAYER)]);
    let pulled = gantry.gantry(["pull", &wanted[0]]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert!(!pulled.stderr.contains("Evicted"), "{}", pulled.stderr);
    assert_eq!(names(&gantry).len(), 2);
}

#[test]
fn of_a_list_that_is_warmed_at_once_the_first_stay_and_what_only_this_store_has() {
    let (fake, wanted) = four();
    let measured = store_of(&[&fake], "");
    image(&measured, "own:0", &[(10, LAYER)]);
    measured.ok(["pull", &wanted[0]]);
    measured.ok(["pull", &wanted[1]]);
    let most = stats(&measured)["physical"].as_u64().unwrap() + 500_000;
    for _ in 0..4 {
        let gantry = store_of(&[&fake], &format!("[cache]\nmax_bytes = {most}\nlow_water = 100\n"));
        image(&gantry, "own:0", &[(10, LAYER)]);
        let gate = fake.gate(4);
        let mut args = vec!["cache", "warm", "--jobs", "4"];
        args.extend(wanted.iter().map(String::as_str));
        let warmed = gantry.gantry(args);
        assert_eq!(warmed.code, 0, "{}", warmed.stderr);
        assert_eq!(gate.most(), 4);
        let left = names(&gantry);
        let first = [&wanted[0], &wanted[1], &"own:0".to_owned()].map(Clone::clone);
        assert_eq!(left, BTreeSet::from(first), "{}", warmed.stderr);
    }
}

#[test]
fn images_that_only_this_store_has_have_their_places_before_a_list() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "[cache]\nmax_images = 3\nlow_water = 100\n");
    image(&gantry, "own:0", &[(10, 1000)]);
    let mut args = vec!["cache", "warm"];
    args.extend(wanted.iter().map(String::as_str));
    let warmed = gantry.gantry(args);
    assert_eq!(warmed.code, 0, "{}", warmed.stderr);
    assert!(
        warmed.stderr.contains("2 pulled, 2 left out")
            && warmed
                .stderr
                .contains("and 1 more that stays, as it is pinned or no registry has it"),
        "{}",
        warmed.stderr
    );
    let first = [&wanted[0], &wanted[1], &"own:0".to_owned()].map(Clone::clone);
    assert_eq!(names(&gantry), BTreeSet::from(first));
}

#[test]
fn what_is_warmed_takes_no_room_from_what_only_this_store_has() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "");
    let own = two_of_its_own(&gantry);
    let most = stats(&gantry)["physical"].as_u64().unwrap() + 500_000;
    limit(&gantry, &format!("max_bytes = {most}\nlow_water = 100\n"));
    let warmed = gantry.gantry(["cache", "warm", &wanted[0], &wanted[1]]);
    assert_eq!(warmed.code, 0, "{}", warmed.stderr);
    let left = names(&gantry);
    assert!(
        own.iter().all(|name| left.contains(name)),
        "{left:?}: {}",
        warmed.stderr
    );
    // Somebody waits for what is pulled.
    gantry.ok(["pull", &wanted[0]]);
    let left = names(&gantry);
    assert!(left.contains(&wanted[0]) && !left.contains("own:0"), "{left:?}");
}

#[test]
fn a_pull_that_does_not_come_takes_nothing_for_it_and_goes_on_where_it_was() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "");
    image(&gantry, "own:0", &[(10, LAYER)]);
    gantry.ok(["pull", &wanted[0]]);
    let most = stats(&gantry)["physical"].as_u64().unwrap() + 100_000;
    limit(&gantry, &format!("max_bytes = {most}\nlow_water = 100\n"));
    let maker = Gantry::new();
    let digest = image(&maker, "two:1", &[(50, 100_000), (51, 2000)]);
    fake.hold(&maker.root, &digest, "team/two", "1");
    let [(large, _), (small, _)] = layers(&maker, &digest).try_into().unwrap();
    fake.rule(move |seen, _| seen.path.contains(&small).then(|| Reply::new(404, "")));
    gantry.ok(["cache", "pin", &wanted[0]]);
    gantry.ok(["cache", "pin", "own:0"]);
    for _ in 0..3 {
        let failed = gantry.gantry(["pull", &fake.name("team/two:1")]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert!(!failed.stderr.contains("Evicted"), "{}", failed.stderr);
    }
    assert_eq!(fake.count("GET", &large), 1);
}

#[test]
fn who_makes_room_and_does_not_end_keeps_no_pull_from_coming() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "[store]\npatience = \"2s\"\n[cache]\nmax_images = 1\n");
    gantry.ok(["pull", &wanted[0]]);
    let mut holder = holder_of(&gantry.root.join("locks/making-room"), "LOCK_EX");
    let pulled = gantry.gantry(["pull", &wanted[1]]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert_eq!(names(&gantry).len(), 2);
    gantry.ok(["pull", &wanted[2]]);
    assert_eq!(names(&gantry), BTreeSet::from([wanted[2].clone()]));
}

#[test]
fn a_pull_that_fails_costs_no_image_that_only_this_store_has() {
    let (fake, wanted) = four();
    let gantry = store_of(&[&fake], "");
    let own = two_of_its_own(&gantry);
    let held = stats(&gantry)["physical"].as_u64().unwrap();
    let before = std::fs::read_to_string(gantry.home.join(".config/gantry/config.toml")).unwrap();
    let maker = Gantry::new();
    let digest = image(&maker, "x:9", &[(109, LAYER)]);
    fake.hold(&maker.root, &digest, "team/broken", "1");
    let layer = layers(&maker, &digest).remove(0).0;
    fake.rule(move |seen, _| seen.path.contains(&layer).then(|| Reply::new(404, "")));
    for text in [
        "max_images = 2\nlow_water = 100\n".to_owned(),
        format!("max_bytes = {}\n", held + 500_000),
    ] {
        std::fs::write(gantry.home.join(".config/gantry/config.toml"), &before).unwrap();
        limit(&gantry, &text);
        let failed = gantry.gantry(["pull", &fake.name("team/broken:1")]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert!(!failed.stderr.contains("Evicted"), "{text}: {}", failed.stderr);
        assert_eq!(names(&gantry), BTreeSet::from(own.clone()), "{text}");
    }
    // For what has come one goes.
    let pulled = gantry.gantry(["pull", &wanted[0]]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert!(pulled.stderr.contains("Evicted own:"), "{}", pulled.stderr);
    assert!(names(&gantry).contains(&wanted[0]));
}
