//! However large or strange what a registry sends is, a pull takes less than 200 MB of memory.

use std::io::Write;
use std::process::{Command, Stdio};

use gantry::oci::{media_type, DiffId, Digest};

use super::fake::{Fake, Reply, Then};
use super::images::{hold, store_of, tar};
use crate::common::{tool, Gantry};

/// Kilobytes, as the kernel counts: what issue 12 allows.
const MOST: u64 = 200_000_000 / 1024;

/// Runs a command and prints its exit code and the most memory that it took, in kilobytes.
const PEAK: &str = r#"
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"#;

/// Exit code and peak memory of `gantry pull team/a:1`.
fn pull(fake: &Fake, gantry: &Gantry) -> (i32, u64) {
    let plain = gantry.command();
    let mut python = Command::new("python3");
    python
        .args(["-c", PEAK])
        .arg(plain.get_program())
        .args(["pull", "-q", &fake.name("team/a:1")])
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    let said = tool(&mut python);
    let (code, peak) = said.trim().split_once(' ').unwrap();
    (code.parse().unwrap(), peak.parse().unwrap())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// In zstd, for whose reading 128 MiB are to be set aside.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn layers_that_are_large_or_inflate_to_much_take_less_than_200_mb() {
    type Pack = fn(&[u8]) -> Vec<u8>;
    let plain: Pack = <[u8]>::to_vec;
    // Ten that come at once and are 300 MB together; three that fill the largest window; and what inflates to more than it may.
    for (says, count, size, name, pack, code) in [
        ("large layers", 10, 30_000_000, media_type::LAYER_TAR, plain, 0),
        ("large windows", 3, 100_000_000, media_type::LAYER_ZSTD, zstd as Pack, 0),
        ("a gzip bomb", 2, 150_000_000, media_type::LAYER_GZIP, gzip as Pack, 3),
        ("a zstd bomb", 2, 150_000_000, media_type::LAYER_ZSTD, zstd as Pack, 3),
    ] {
        let fake = Fake::start();
        let layer = |number: usize| {
            let bytes = tar(&format!("zeros-{number}"), size);
            (name, pack(&bytes), DiffId::of(&bytes))
        };
        hold(&fake, (0..count).map(layer).collect());
        let gantry = store_of(&[&fake], "");
        let (ended, peak) = pull(&fake, &gantry);
        eprintln!("{says}: {peak} kB");
        assert_eq!(ended, code, "{says}");
        assert!(peak < MOST, "{says}: {peak} kB");
    }
}

#[test]
fn answers_without_an_end_take_less_than_200_mb() {
    type Body = fn() -> Vec<u8>;
    let documents: [(&str, Body); 3] = [
        ("a manifest of 400 MB", || vec![b' '; 400 << 20]),
        ("deep JSON", || b"[".repeat(4_000_000)),
        ("many layers", || {
            let layer = r#"{"mediaType":"x","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"#;
            format!("{{\"schemaVersion\":2,\"layers\":[{}", layer.repeat(30_000)).into_bytes()
        }),
    ];
    for (says, body) in documents {
        let fake = Fake::start();
        let raw = body();
        let digest = Digest::of(&raw).to_string();
        fake.rule(move |seen, _| {
            let reply = Reply::new(200, if seen.method == "HEAD" { Vec::new() } else { raw.clone() })
                .with("Content-Type", media_type::MANIFEST)
                .with("Docker-Content-Digest", digest.clone());
            let length = (seen.method == "HEAD").then_some(raw.len());
            Some(Reply { length, ..reply }.then(if seen.method == "HEAD" { Then::Go } else { Then::Close }))
        });
        let (ended, peak) = pull(&fake, &store_of(&[&fake], ""));
        eprintln!("{says}: {peak} kB");
        assert_eq!(ended, 1, "{says}");
        assert!(peak < MOST, "{says}: {peak} kB");
    }
    // An error, and a layer, that are sent for as long as somebody reads them.
    for status in [500, 200] {
        let fake = Fake::start();
        let bytes = tar("a", 1000);
        hold(&fake, vec![(media_type::LAYER_TAR, bytes.clone(), DiffId::of(&bytes))]);
        let layer = Digest::of(&bytes).to_string();
        fake.rule(move |seen, _| {
            seen.is("GET", &layer).then(|| {
                let reply = Reply::new(status, vec![b'x'; 300 << 20]).then(Then::Close);
                Reply { length: None, ..reply }
            })
        });
        let (ended, peak) = pull(&fake, &store_of(&[&fake], ""));
        eprintln!("an answer of {status} without an end: {peak} kB");
        assert_ne!(ended, 0);
        assert!(peak < MOST, "{status}: {peak} kB");
    }
}
