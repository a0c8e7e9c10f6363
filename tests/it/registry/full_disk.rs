//! A disk that is full, or would be: what may go makes room once, else the pull is refused, and the store is whole after it.

use std::process::{Command, Stdio};

use super::fake::{Fake, Reply, Then};
use super::images::{layers, store_of};
use crate::common::images::image;
use crate::common::wait::{eventually, is_so};
use crate::common::{done, Done, Gantry};

const MB: usize = 1 << 20;

/// The image `name`, of one layer, in a registry; the digest of the layer.
fn held(fake: &Fake, name: &str, seed: u64, size: usize) -> String {
    let source = Gantry::new();
    let digest = image(&source, &format!("{name}:1"), &[(seed, size)]);
    fake.hold(&source.root, &digest, &format!("team/{name}"), "1");
    layers(&source, &digest).remove(0).0
}

/// A command that carries out `steps` in a shell, with a store on a disk of `megabytes`. In them `$G` is gantry.
fn on_a_small_disk(gantry: &Gantry, megabytes: usize, steps: &str) -> Command {
    let disk = gantry.home.join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let script = format!(
        "mount -t tmpfs -o size={megabytes}m tmpfs \"$D\" && export GANTRY_ROOT=\"$D/store\" && {{ {steps}\n}}"
    );
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--mount", "--map-root-user", "sh", "-c", &script])
        .env("D", &disk)
        .env("G", env!("CARGO_BIN_EXE_gantry"))
        .env("HOME", &gantry.home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("GANTRY_CONFIG");
    command
}

fn carry_out(gantry: &Gantry, megabytes: usize, steps: &str) -> Done {
    done(on_a_small_disk(gantry, megabytes, steps).output().unwrap())
}

/// What follows a pull that did not succeed: nothing half-made, and the next pull works.
const WHOLE: &str = "find \"$D/store/tmp\" -mindepth 1 && \"$G\" cache gc --json >/dev/null && \"$G\" images ls -q && for i in $(\"$G\" images ls -q); do \"$G\" save $i - >/dev/null || echo broken; done";

fn is_whole(told: &str) -> bool {
    !told.contains("broken") && !told.contains("/store/tmp/")
}

#[test]
fn a_pull_that_would_not_fit_evicts_what_can_be_fetched_again_and_nothing_else() {
    let fake = Fake::start();
    for (name, seed) in [("a", 11), ("b", 12), ("c", 13)] {
        held(&fake, name, seed, 3 * MB);
    }
    let gantry = store_of(&[&fake], "");
    let [a, b, c] = ["a", "b", "c"].map(|name| fake.name(&format!("team/{name}:1")));
    // Each takes 6 MB, and may take 12 as far as anybody knows before.
    let steps = format!("\"$G\" pull {a} && \"$G\" pull {b} && \"$G\" pull {c} && {WHOLE}");
    let pulled = carry_out(&gantry, 22, &steps);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert!(pulled.stderr.contains(&format!("Evicted {a}, ")), "{}", pulled.stderr);
    let listed: Vec<&str> = pulled.stdout.lines().filter(|line| line.starts_with("127.")).collect();
    assert_eq!(listed, [b.as_str(), c.as_str()], "{}", pulled.stdout);
    assert!(is_whole(&pulled.stdout), "{}", pulled.stdout);
}

/// A registry with `a` to `d`, of which two have room on a disk of 15 MB, and a store with a limit that is never reached.
fn four_and_a_limit() -> (Fake, Gantry, [String; 4]) {
    let fake = Fake::start();
    for (name, seed) in [("a", 11), ("b", 12), ("c", 13), ("d", 14)] {
        held(&fake, name, seed, 3 * MB);
    }
    let gantry = store_of(&[&fake], "[cache]\nmax_images = 20\n");
    let names = ["a", "b", "c", "d"].map(|name| fake.name(&format!("team/{name}:1")));
    (fake, gantry, names)
}

#[test]
fn what_the_disk_has_no_room_for_is_left_out_of_what_is_warmed() {
    let (fake, gantry, [a, b, c, d]) = four_and_a_limit();
    let steps = format!("\"$G\" cache warm --jobs 1 {a} {b} {c} {d}; echo code $?; {WHOLE}");
    let warmed = carry_out(&gantry, 15, &steps);
    assert!(
        warmed.stdout.contains("code 0\n") && is_whole(&warmed.stdout),
        "{} {}",
        warmed.stdout,
        warmed.stderr
    );
    assert!(
        warmed.stderr.contains("2 pulled, 2 left out")
            && warmed
                .stderr
                .contains("; the disk of the store has no room for it, and those before it"),
        "{}",
        warmed.stderr
    );
    let listed: Vec<&str> = warmed
        .stdout
        .lines()
        .filter(|line| [&a, &b, &c, &d].contains(&&(*line).to_owned()))
        .collect();
    assert_eq!(listed, [a.as_str(), b.as_str()], "{}", warmed.stdout);
    // Nobody was asked for the last one.
    assert_eq!(
        fake.seen().iter().filter(|seen| seen.path.contains("/team/d/")).count(),
        0
    );
}

#[test]
fn what_is_warmed_makes_room_for_what_somebody_waits_for_meanwhile() {
    let (fake, gantry, [a, b, c, d]) = four_and_a_limit();
    fake.rule(|seen, _| {
        seen.path
            .contains("/team/c/")
            .then(|| Reply::nothing().then(Then::Stall))
    });
    let steps = format!(
        "\"$G\" cache warm --jobs 1 {a} {b} {c} & W=$!; until [ -e \"$D/../asked\" ]; do sleep 0.1; done; \"$G\" pull {d}; echo code $?; kill $W; wait $W; \"$G\" images ls -q"
    );
    let mut command = on_a_small_disk(&gantry, 15, &steps);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the third is not asked for", || {
        let seen = fake.seen().len();
        is_so(fake.seen().iter().any(|seen| seen.path.contains("/team/c/")), seen)
    });
    std::fs::write(gantry.home.join("asked"), "").unwrap();
    let pulled = done(child.wait_with_output().unwrap());
    assert!(
        pulled.stdout.contains("code 0\n") && pulled.stdout.contains(&d),
        "{} {}",
        pulled.stdout,
        pulled.stderr
    );
    assert!(pulled.stderr.contains("Evicted "), "{}", pulled.stderr);
}

#[test]
fn what_is_sure_not_to_fit_is_refused_before_a_byte_is_fetched_and_nothing_goes_for_it() {
    let fake = Fake::start();
    held(&fake, "a", 11, 3 * MB);
    held(&fake, "large", 12, 17 * MB);
    let gantry = store_of(&[&fake], "");
    let [a, large] = ["a", "large"].map(|name| fake.name(&format!("team/{name}:1")));
    let steps = format!("\"$G\" pull {a} && \"$G\" pull {large}; echo code $?; {WHOLE}");
    let refused = carry_out(&gantry, 16, &steps);
    assert!(
        refused.stdout.contains("code 1\n"),
        "{} {}",
        refused.stdout,
        refused.stderr
    );
    assert!(
        refused.stderr.contains("there is no space left for the store")
            && refused.stderr.contains("bytes are to come, and the disk has room for")
            && refused.stderr.contains("hint: the disk of the store, "),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("Evicted"), "{}", refused.stderr);
    assert!(
        refused.stdout.contains(&a) && is_whole(&refused.stdout),
        "{}",
        refused.stdout
    );
    // Manifest and configuration of both, and the layer of the first.
    assert_eq!(fake.count("GET", "/blobs/"), 3);
}

#[test]
fn a_disk_that_is_full_in_the_middle_makes_room_once_and_then_is_an_error() {
    let fake = Fake::start();
    held(&fake, "a", 11, 3 * MB);
    // Zeros: a small blob, and many bytes on the disk, as nobody knows before.
    held(&fake, "zeros", 0, 12 * MB);
    held(&fake, "more", 0, 40 * MB);
    let gantry = store_of(&[&fake], "");
    let [a, zeros, more] = ["a", "zeros", "more"].map(|name| fake.name(&format!("team/{name}:1")));
    let steps = format!("\"$G\" pull {a} && \"$G\" pull {zeros}; echo code $?; {WHOLE}");
    let pulled = carry_out(&gantry, 16, &steps);
    assert!(
        pulled.stdout.contains("code 0\n"),
        "{} {}",
        pulled.stdout,
        pulled.stderr
    );
    assert!(pulled.stderr.contains(&format!("Evicted {a}, ")), "{}", pulled.stderr);
    assert!(
        pulled.stdout.contains(&zeros) && is_whole(&pulled.stdout),
        "{}",
        pulled.stdout
    );

    let steps = format!("\"$G\" pull {a} && \"$G\" pull {more}; echo code $?; \"$G\" pull {a}; echo code $?; {WHOLE}");
    let refused = carry_out(&gantry, 16, &steps);
    assert!(
        refused.stdout.contains("code 1\n") && refused.stdout.contains("code 0\n"),
        "{} {}",
        refused.stdout,
        refused.stderr
    );
    assert!(
        refused.stderr.contains("there is no space left for the store"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("hint: the disk of the store, "),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stdout.contains(&a) && is_whole(&refused.stdout),
        "{}",
        refused.stdout
    );
}

#[test]
fn room_that_one_pull_was_promised_is_no_other_ones() {
    let fake = Fake::start();
    let layer = held(&fake, "a", 11, 5 * MB);
    held(&fake, "b", 12, 9 * MB);
    let gantry = store_of(&[&fake], "");
    let [a, b] = ["a", "b"].map(|name| fake.name(&format!("team/{name}:1")));
    // Nobody gets a byte of the layer before two are at it, and the second does not get so far: the first waits with its promise.
    let gate = fake.gate_for(2, move |seen| seen.is("GET", &layer));
    let steps = format!(
        "\"$G\" pull {a} & while ! grep -qs '^[1-9]' \"$D\"/store/tmp/*/reserved && kill -0 $!; do sleep 0.01; done; \"$G\" pull {b}; echo code $?; kill -9 $!; wait $!; \"$G\" pull {b}; echo code $?"
    );
    let mut command = on_a_small_disk(&gantry, 13, &steps);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("the first is not at it", || is_so(gate.most() >= 1, gate.most()));
    let ended = done(child.wait_with_output().unwrap());
    // 9 of 13 MB are free for it as soon as the first is dead, and with it its promise. Its tree does not fit.
    assert!(
        ended.stderr.contains("bytes are to come, and the disk has room for"),
        "{}",
        ended.stderr
    );
    let (_, second) = ended.stderr.rsplit_once("Pulling ").unwrap();
    assert!(second.contains(" of 9.4 MB"), "{}", ended.stderr);
    assert!(ended.stdout.contains("code 1\n"), "{}", ended.stdout);
}

/// An archive of an image of one layer of `size` bytes that do not compress.
fn archive(gantry: &Gantry, name: &str, seed: u64, size: usize) -> String {
    let source = Gantry::new();
    image(&source, name, &[(seed, size)]);
    let file = gantry.home.join(format!("{seed}.tar")).to_str().unwrap().to_owned();
    source.ok(["save", name, &file]);
    file
}

#[test]
fn a_load_makes_room_by_what_can_be_fetched_again() {
    let fake = Fake::start();
    for (name, seed) in [("a", 11), ("b", 12)] {
        held(&fake, name, seed, 3 * MB);
    }
    let gantry = store_of(&[&fake], "");
    let [a, b] = ["a", "b"].map(|name| fake.name(&format!("team/{name}:1")));
    let new = archive(&gantry, "new:1", 14, 3 * MB);
    // The two take 12 MB of 26. What is loaded lies there three times for a moment: as it is read, as a blob and unpacked.
    for (others, load) in [
        (12, format!("load {new}")),
        (8, format!("load {new}")),
        (12, format!("load - < {new}")),
    ] {
        let fill = format!("head -c {} /dev/zero >\"$D/others\"", others * MB);
        let steps = format!(
            "\"$G\" pull {a} && \"$G\" pull {b} && {fill} && echo filled >&2 && \"$G\" {load}; echo code $?; {WHOLE}"
        );
        let loaded = carry_out(&gantry, 26, &steps);
        let told = format!("{others} {load}: {} {}", loaded.stdout, loaded.stderr);
        let (pulled, of_load) = loaded.stderr.split_once("filled\n").unwrap_or_else(|| panic!("{told}"));
        assert!(!pulled.contains("Evicted"), "{told}");
        assert!(loaded.stdout.contains("code 0\n"), "{told}");
        assert!(
            of_load.contains("Evicted ") && of_load.contains("/team/a:1, "),
            "{told}"
        );
        assert!(loaded.stdout.contains("new:1") && is_whole(&loaded.stdout), "{told}");
    }
}

#[test]
fn a_load_that_cannot_fit_takes_nothing_from_others() {
    let fake = Fake::start();
    held(&fake, "a", 11, 3 * MB);
    let gantry = store_of(&[&fake], "");
    let a = fake.name("team/a:1");
    let large = archive(&gantry, "large:1", 15, 6 * MB);
    // With 8 MB free it can be read, and be read and kept if the other one goes, and never be unpacked then.
    let steps = format!("\"$G\" pull {a} && \"$G\" load {large}; echo code $?; {WHOLE}");
    let refused = carry_out(&gantry, 14, &steps);
    let told = format!("{} {}", refused.stdout, refused.stderr);
    assert!(refused.stdout.contains("code 1\n"), "{told}");
    assert!(
        refused.stderr.contains("there is no space left for the store")
            && refused.stderr.contains("hint: the disk of the store, "),
        "{told}"
    );
    assert!(!refused.stderr.contains("Evicted"), "{told}");
    assert!(refused.stdout.contains(&a) && is_whole(&refused.stdout), "{told}");
}

#[test]
fn a_load_that_can_never_fit_is_refused_before_a_byte_of_it_is_copied() {
    let fake = Fake::start();
    held(&fake, "a", 11, 3 * MB);
    let gantry = store_of(&[&fake], "[cache]\nmax_images = 100\n");
    let a = fake.name("team/a:1");
    let [large, there] =
        [(18, 6 * MB), (19, 3 * MB)].map(|(seed, size)| archive(&gantry, &format!("n:{seed}"), seed, size));
    // 10 MB with what `a` gives back. The copy of the archive alone would have `a` go, and its blobs do not fit beside it.
    let steps =
        format!("\"$G\" pull {a} && head -c 6M /dev/zero >\"$D/others\" && \"$G\" load {large}; echo code $?; {WHOLE}");
    let refused = carry_out(&gantry, 16, &steps);
    let told = format!("{} {}", refused.stdout, refused.stderr);
    assert!(refused.stdout.contains("code 1\n"), "{told}");
    assert!(
        refused.stderr.contains("there is no space left for the store")
            && refused
                .stderr
                .contains("the disk has no room for them when all has gone that may"),
        "{told}"
    );
    assert!(
        !refused.stderr.contains("Evicted") && refused.stdout.contains(&a),
        "{told}"
    );
    // Whose layers are there needs no room for them.
    let steps = format!(
        "\"$G\" load {there} && head -c 4M /dev/zero >\"$D/others\" && \"$G\" images rm n:19 && \"$G\" load {there}; echo code $?; {WHOLE}"
    );
    let loaded = carry_out(&gantry, 16, &steps);
    assert!(
        loaded.stdout.contains("code 0\n"),
        "{} {}",
        loaded.stdout,
        loaded.stderr
    );
}

#[test]
fn what_goes_for_a_pull_is_promised_to_it_before_it_goes() {
    let fake = Fake::start();
    held(&fake, "p", 12, 8 * MB);
    let gantry = store_of(&[&fake], "[cache]\nmax_images = 100\n");
    let p = fake.name("team/p:1");
    let own = [20, 21].map(|seed| archive(&gantry, &format!("own:{seed}"), seed, 3 * MB));
    let pipe = gantry.home.join("pipe");
    // The pull stands still where the first file goes for it, until the pipe is closed.
    let fault = format!("GANTRY_FAULT=Evicted:0:hold={}", pipe.display());
    let steps = format!(
        "mkfifo \"{}\" && \"$G\" load {} && \"$G\" load {} && {{ {fault} \"$G\" pull {p} & }} && exec 8>\"{}\" && cat \"$D\"/store/tmp/*/reserved | sed 's/^/promised /'; exec 8>&-; wait $!; echo code $?; \"$G\" images ls -q; {WHOLE}",
        pipe.display(), own[0], own[1], pipe.display()
    );
    let pulled = carry_out(&gantry, 24, &steps);
    let told = format!("{} {}", pulled.stdout, pulled.stderr);
    assert!(pulled.stdout.contains("code 0\n") && is_whole(&pulled.stdout), "{told}");
    // It has come to what is certain: eight megabytes are there, and as many are to be unpacked.
    let promises: Vec<u64> = pulled
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("promised ")?.split(' ').next()?.parse().ok())
        .collect();
    assert!(
        promises.iter().any(|bytes| *bytes >= 8 * MB as u64),
        "{promises:?} {told}"
    );
    // One is enough.
    let left = ["own:20", "own:21"]
        .iter()
        .filter(|name| pulled.stdout.contains(**name))
        .count();
    assert!(
        left >= 1 && pulled.stderr.matches("Evicted own:").count() == 1,
        "{told}"
    );
}

#[test]
fn what_nobody_can_fetch_again_goes_for_what_a_pull_unpacks_to_when_its_bytes_are_there() {
    let fake = Fake::start();
    let layer = held(&fake, "p", 12, 5 * MB);
    let gantry = store_of(&[&fake], "[cache]\nmax_images = 100\n");
    let p = fake.name("team/p:1");
    let own = [22, 23].map(|seed| archive(&gantry, &format!("own:{seed}"), seed, 3 * MB));
    let mut is_first = true;
    fake.rule(move |seen, _| {
        let fails = seen.is("GET", &layer) && std::mem::take(&mut is_first);
        fails.then(|| Reply::new(404, ""))
    });
    // Of the 8 MB that are free, 5 are for what is fetched and 3 of 5 for its files.
    let steps = format!(
        "\"$G\" load {} && \"$G\" load {} && \"$G\" pull {p}; echo first $?; \"$G\" images ls -q; \"$G\" pull {p}; echo second $?; {WHOLE}",
        own[0], own[1]
    );
    let pulled = carry_out(&gantry, 20, &steps);
    let told = format!("{} {}", pulled.stdout, pulled.stderr);
    let (first, second) = pulled.stdout.split_once("second ").unwrap_or_else(|| panic!("{told}"));
    assert!(first.contains("first 1\n"), "{told}");
    assert!(["own:22", "own:23"].iter().all(|name| first.contains(name)), "{told}");
    assert!(second.starts_with("0\n") && is_whole(second), "{told}");
    assert_eq!(pulled.stderr.matches("Evicted own:").count(), 1, "{told}");
}

#[test]
fn a_load_of_what_is_no_archive_of_images_takes_nothing_from_others() {
    let fake = Fake::start();
    held(&fake, "a", 11, 3 * MB);
    let gantry = store_of(&[&fake], "[cache]\nmax_images = 100\n");
    let a = fake.name("team/a:1");
    let own = archive(&gantry, "own:1", 16, 3 * MB);
    let large = archive(&gantry, "large:1", 17, 6 * MB);
    let header = gantry.home.join("header.tar");
    let mut said = tar::Header::new_ustar();
    let name = format!("blobs/sha256/{}", "0".repeat(64));
    said.set_path(name).unwrap();
    said.set_size(9 << 20);
    said.set_cksum();
    std::fs::write(&header, said.as_bytes()).unwrap();
    let header = header.display();
    // 8 MB of 20 are free. Nothing but zeros, with and without bytes behind them; a header without its file; and what is an
    // archive of images, and fits in no way while the image that nobody else has stays.
    for (make, load) in [
        ("truncate -s 5M \"$D/no.tar\"", "load \"$D/no.tar\"".to_owned()),
        ("head -c 4M /dev/zero >\"$D/no.tar\"", "load \"$D/no.tar\"".to_owned()),
        ("true", format!("load {header}")),
        ("true", format!("load - < {header}")),
        (
            "head -c 7M /dev/zero >\"$D/others\"; \"$G\" cache pin -q \"$A\"",
            format!("load {large}"),
        ),
        (
            "head -c 7M /dev/zero >\"$D/others\"; \"$G\" cache pin -q \"$A\"",
            format!("load - < {large}"),
        ),
    ] {
        let steps =
            format!("A={a}; \"$G\" load {own} && \"$G\" pull {a} && {make} && \"$G\" {load}; echo code $?; {WHOLE}");
        let refused = carry_out(&gantry, 20, &steps);
        let told = format!("{make} {load}: {} {}", refused.stdout, refused.stderr);
        assert!(refused.stdout.contains("code 1\n"), "{told}");
        assert!(!refused.stderr.contains("Evicted"), "{told}");
        let has_both = refused.stdout.contains("own:1") && refused.stdout.contains(&a);
        assert!(has_both && is_whole(&refused.stdout), "{told}");
    }
}

#[test]
fn what_is_over_the_limit_of_the_store_by_itself_is_refused_before_others_go_for_it() {
    let fake = Fake::start();
    for (name, seed, size) in [("a", 11, 3 * MB), ("large", 13, 8 * MB)] {
        held(&fake, name, seed, size);
    }
    // As it is shipped it would fit, and not with what it unpacks to.
    let gantry = store_of(&[&fake], "[cache]\nmax_bytes = \"14MB\"\n");
    let [a, large] = ["a", "large"].map(|name| fake.name(&format!("team/{name}:1")));
    gantry.ok(["pull", &a]);
    let archive = archive(&gantry, "new:1", 13, 8 * MB);
    for words in [["pull", large.as_str()], ["load", &archive]] {
        let refused = gantry.gantry(words);
        assert_eq!(refused.code, 1, "{words:?}: {}", refused.stderr);
        assert!(
            refused
                .stderr
                .contains("16.8 MB at least, as it is shipped and unpacked, and `max_bytes` under [cache] is 14.0 MB"),
            "{}",
            refused.stderr
        );
        assert!(!refused.stderr.contains("Evicted"), "{}", refused.stderr);
        assert_eq!(gantry.ok(["images", "ls", "-q"]).lines().next(), Some(a.as_str()));
    }
    assert_eq!(fake.count("GET", "/blobs/"), 3);
}
