//! Hosts that answer and are no registry, as a port that is mistyped has one: that is said, and not that something is not there.

use std::io::Write;
use std::process::Stdio;

use super::fake::{Fake, Reply};
use super::images::{image, store_of};
use crate::common::{done, says, Done, Gantry};

const PAGE: &str = "<!doctype html><title>Not what you look for</title>";

fn log_in(gantry: &Gantry, host: &str) -> Done {
    let mut command = gantry.command();
    command.args(["login", host, "--username", "me"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"s3cret").unwrap();
    done(child.wait_with_output().unwrap())
}

/// A service that answers so whatever it is asked, and a store with an image that knows it as a registry.
fn service(reply: &Reply) -> (Fake, Gantry) {
    let fake = Fake::start();
    let reply = reply.clone();
    fake.rule(move |_, _| Some(reply.clone()));
    let gantry = store_of(&[&fake], "");
    image(&gantry, "a:1", &[(1, 2000)]);
    (fake, gantry)
}

#[test]
fn a_host_that_answers_and_is_no_registry_is_said_to_be_none() {
    let (fake, gantry) = service(&Reply::new(404, PAGE).with("Content-Type", "text/html"));
    let says_so = format!("{0} answers, but is no registry: http://{0}/v2/ gives 404", fake.host);
    let parts = [&*says_so, "hint: check the host and the port in the name"];
    let (tag, by_digest) = (
        fake.name("team/a:1"),
        fake.name(&format!("team/a@sha256:{}", "0".repeat(64))),
    );
    for args in [
        &["pull", &tag][..],
        &["pull", &by_digest],
        &["push", "a:1", &tag],
        &["copy", "a:1", &tag],
        &["registries", "tags", &fake.name("team/a")],
        &["registries", "ls", &fake.host],
    ] {
        says(&gantry.gantry(args), 1, &parts);
    }
    let (run, outcome) = gantry.run_with_outcome(&[&tag]);
    says(&run, 125, &parts);
    assert_eq!(outcome["code"], "unknown_image");
    says(&log_in(&gantry, &fake.host), 1, &parts);
}

#[test]
fn a_host_that_is_no_registry_is_asked_with_what_was_typed_alone() {
    let (fake, gantry) = service(&Reply::new(404, PAGE).with("Content-Type", "text/html"));
    // A challenge first, so that credentials are sent at all.
    fake.rule(|seen, _| {
        let asks = Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x");
        seen.header("authorization").is_empty().then_some(asks)
    });
    let file = gantry.home.join(".docker/config.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    // `other:kept`, of an earlier day.
    let kept = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"b3RoZXI6a2VwdA==\"}}}}}}", fake.host);
    std::fs::write(&file, kept).unwrap();
    let says_so = format!("{} answers, but is no registry", fake.host);
    says(&log_in(&gantry, &fake.host), 1, &[&says_so]);
    let shown: Vec<String> = fake
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").to_owned())
        .collect();
    let typed = |shown: &String| shown.is_empty() || shown == "Basic bWU6czNjcmV0";
    assert!(
        shown.iter().all(typed) && shown.iter().any(|shown| !shown.is_empty()),
        "{shown:?}"
    );
}

#[test]
fn a_web_server_that_has_a_page_for_everything_is_no_registry() {
    let page = Reply::new(200, PAGE).with("Content-Type", "text/html; charset=utf-8");
    let (fake, gantry) = service(&page);
    let says_so = format!(
        "{0} answers, but is no registry: http://{0}/v2/ gives a web page",
        fake.host
    );
    for args in [
        &["push", "a:1", &fake.name("team/a:1")][..],
        &["registries", "tags", &fake.name("team/a")],
        &["registries", "ls", &fake.host],
    ] {
        says(&gantry.gantry(args), 1, &[&says_so]);
    }
    says(&log_in(&gantry, &fake.host), 1, &[&says_so]);
    assert!(!gantry.home.join(".docker").exists(), "a password was kept for it");
}

#[test]
fn a_registry_of_few_words_is_one() {
    let (fake, gantry) = service(&Reply::new(404, ""));
    fake.rule(|seen, _| (seen.path == "/v2/").then(|| Reply::new(200, "")));
    let none = gantry.gantry(["pull", &fake.name("team/a:1")]);
    says(&none, 1, &["has no repository team/a"]);
    let (fake, gantry) = service(&Reply::new(404, ""));
    // It wants to know who we are before it says anything.
    fake.rule(|seen, _| {
        let asks = Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x");
        (seen.path == "/v2/").then_some(asks)
    });
    says(
        &gantry.gantry(["registries", "tags", &fake.name("team/a")]),
        1,
        &["the registry answers 404"],
    );
    // What says why is a registry, and is asked no more.
    let unknown = "{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"no\"}]}";
    let (fake, gantry) = service(&Reply::new(404, unknown));
    says(
        &gantry.gantry(["registries", "tags", &fake.name("team/a")]),
        1,
        &["NAME_UNKNOWN"],
    );
    assert_eq!(fake.seen().iter().filter(|seen| seen.path == "/v2/").count(), 0);
}
