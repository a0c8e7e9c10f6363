//! Two registries of the distribution with TLS and passwords, of which the first is away in every way that a server has: the
//! image arrives from the second. How much later is printed; what is asserted is who was asked, and how many bytes came.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::images::{configure, image, layers, partials, PATIENT};
use super::proxy::Proxy;
use super::real::Registry;
use crate::common::wait::{send, stop};
use crate::common::{done, Gantry};

/// TLS, answers without bodies and what was on its way when a connection ended, for some dozen connections.
const AROUND: u64 = 1 << 20;

/// Both, and what is needed to reach them.
struct Pair {
    one: Registry,
    two: Registry,
    scratch: tempfile::TempDir,
    source: Gantry,
    digest: String,
    size: u64,
}

impl Pair {
    /// With one image under `team/a:1`.
    fn start() -> Self {
        let (one, two, scratch, source) = (
            Registry::start(),
            Registry::start(),
            tempfile::tempdir().unwrap(),
            Gantry::new(),
        );
        let certificates = [&one, &two].map(|registry| fs::read_to_string(registry.certificates()).unwrap());
        fs::write(scratch.path().join("authorities"), certificates.concat()).unwrap();
        let digest = image(&source, "a:1", &[(1, 12_000_000), (2, 3_000_000), (3, 100_000)]);
        let size = layers(&source, &digest).iter().map(|(_, size)| size).sum();
        let pair = Self {
            one,
            two,
            scratch,
            source,
            digest,
            size,
        };
        configure(
            &pair.source,
            &format!("{}{}", entry(&pair.one.host), entry(&pair.two.host)),
        );
        for host in [&pair.one.host, &pair.two.host] {
            let mut command = pair.command(&pair.source);
            let pushed = done(
                command
                    .args(["push", "a:1", &format!("{host}/team/a:1")])
                    .output()
                    .unwrap(),
            );
            assert_eq!(pushed.code, 0, "{}", pushed.stderr);
        }
        pair
    }

    fn command(&self, gantry: &Gantry) -> Command {
        let mut command = gantry.command();
        command
            .env("SSL_CERT_FILE", self.scratch.path().join("authorities"))
            .env("KEY", "s3cret");
        command
    }

    /// Pulls into an empty store that knows `hosts`, by the name of the first; returns the attempts and the time.
    fn pull(&self, hosts: [&str; 2], more: &str) -> (Value, Duration) {
        let gantry = Gantry::new();
        configure(&gantry, &format!("{}{}{more}", entry(hosts[0]), entry(hosts[1])));
        let report = gantry.home.join("report.json");
        let mut command = self.command(&gantry);
        command.args([
            "pull",
            &format!("{}/team/a:1", hosts[0]),
            "--report",
            report.to_str().unwrap(),
        ]);
        let started = Instant::now();
        let pulled = done(command.output().unwrap());
        let took = started.elapsed();
        assert_eq!(
            (pulled.code, pulled.stdout.trim()),
            (0, self.digest.as_str()),
            "{}",
            pulled.stderr
        );
        assert!(partials(&gantry).is_empty());
        let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        (report["attempts"].clone(), took)
    }

    /// Pulls while the first one is away, and says how much later than from the second alone the image arrives.
    fn pull_without_first(&self, how: &str, first: &str, reason: &str, more: &str) {
        let (_, alone) = self.pull([&self.two.host, first], more);
        let (attempts, took) = self.pull([first, &self.two.host], more);
        assert_eq!(
            (&attempts[0]["registry"], &attempts[0]["status"], &attempts[0]["reason"]),
            (&first.into(), &"failed".into(), &reason.into()),
            "{attempts}"
        );
        assert_eq!(
            (&attempts[1]["registry"], &attempts[1]["status"]),
            (&self.two.host.as_str().into(), &"ok".into()),
            "{attempts}"
        );
        eprintln!(
            "{how}: {took:?}, from the second alone {alone:?}: {:?} later",
            took.saturating_sub(alone)
        );
        // A connection may take 10 s and an answer 30 s: neither was waited for.
        assert!(attempts[0]["ms"].as_f64().unwrap() < 10e3, "{how}: {attempts}");
        let error = attempts[0]["error"].as_str().unwrap();
        assert!(reason != "timeout" || error.contains("250 ms"), "{attempts}");
    }
}

fn entry(host: &str) -> String {
    format!("[[registry]]\nhost = \"{host}\"\ncredentials = {{ user = \"me\", password_env = \"KEY\" }}\n")
}

#[test]
fn an_image_comes_from_the_second_of_two_real_registries_however_the_first_is_away() {
    let mut pair = Pair::start();
    // Nothing that it stored can be read: it answers 500.
    let blobs = pair.one.data().join("docker/registry/v2/blobs");
    fs::set_permissions(&blobs, fs::Permissions::from_mode(0o000)).unwrap();
    pair.pull_without_first("answers 500", &pair.one.host, "server_error", PATIENT);
    fs::set_permissions(&blobs, fs::Permissions::from_mode(0o755)).unwrap();

    assert!(stop(&pair.one.server));
    pair.pull_without_first("black hole", &pair.one.host, "timeout", "");
    send(&pair.one.server, Signal::CONT);

    pair.one.server.kill().unwrap();
    pair.one.server.wait().unwrap();
    pair.pull_without_first("refused", &pair.one.host, "connection", PATIENT);
}

#[test]
fn what_came_from_a_real_registry_before_it_died_is_not_fetched_from_the_other_again() {
    let pair = Pair::start();
    let (first, second) = (Proxy::start(&pair.one.host), Proxy::start(&pair.two.host));
    // All of it by one of them: what goes around it is little.
    pair.pull([&second.host, &first.host], PATIENT);
    let whole = second.bytes();
    assert!(
        whole > pair.size && whole < pair.size + AROUND,
        "{whole} of {}",
        pair.size
    );

    let before = second.bytes();
    first.die_after(7_000_000);
    let (attempts, took) = pair.pull([&first.host, &second.host], PATIENT);
    assert!(first.is_dead());
    assert_eq!(
        (&attempts[0]["reason"], &attempts[1]["status"]),
        (&"connection".into(), &"ok".into()),
        "{attempts}"
    );
    let (of_first, of_second) = (first.bytes(), second.bytes() - before);
    eprintln!(
        "died in mid-layer: {took:?}; {of_first} bytes of the first, {of_second} of the second, {} in all",
        pair.size
    );
    assert!(of_first >= 7_000_000, "{of_first}");
    assert!(
        of_first + of_second < pair.size + AROUND,
        "{of_first} + {of_second}, and the image has {}",
        pair.size
    );
    drop(pair.source);
}
