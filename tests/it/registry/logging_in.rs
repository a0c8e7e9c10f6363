//! Who we are to a registry: the ways in which one asks, the places where credentials are found, and where they never go.

use std::fs;
use std::sync::{Arc, Mutex};

use super::fake::{Fake, Reply, Seen};
use super::images::{configure, image, layers};
use crate::common::{done, program, Done, Gantry};

/// `me:s3cret`.
const BASIC: &str = "Basic bWU6czNjcmV0";

/// A registry with `team/a:1`, and its digest.
fn registry() -> (Fake, Gantry, String) {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 200_000), (2, 1000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    (fake, source, digest)
}

/// Makes `fake` want a token, which the realm beside it hands out for `me:s3cret`; `challenge` has HOST for its host. Returns
/// the tokens that were handed out; the last one is the one that counts.
pub(super) fn wants_tokens(fake: &Fake, challenge: &'static str) -> Arc<Mutex<Vec<String>>> {
    let handed = Arc::new(Mutex::new(Vec::new()));
    let (shared, host) = (Arc::clone(&handed), fake.host.clone());
    fake.rule(move |seen, _| {
        let mut handed = shared.lock().unwrap();
        if seen.path.starts_with("/token") {
            if seen.header("authorization") != BASIC {
                // As one registry answers to a wrong password.
                return Some(Reply::new(404, ""));
            }
            let number = handed.len();
            handed.push(format!("t{number}"));
            let token = handed.last().unwrap();
            return Some(Reply::new(
                200,
                format!("{{\"access_token\":\"{token}\",\"expires_in\":300}}"),
            ));
        }
        let is_fine = handed
            .last()
            .is_some_and(|token| seen.header("authorization") == format!("Bearer {token}"));
        let challenge = challenge.replace("HOST", &host);
        (!is_fine).then(|| Reply::new(401, "").with("WWW-Authenticate", challenge))
    });
    handed
}

/// A store that knows `fake` with these credentials.
pub(super) fn store(fake: &Fake, credentials: &str) -> Gantry {
    let gantry = Gantry::new();
    let text = format!(
        "[[registry]]\nhost = \"{}\"\nplain_http = true\n{credentials}\n",
        fake.host
    );
    configure(&gantry, &text);
    gantry
}

pub(super) const NAMED: &str = "credentials = { user = \"me\", password_env = \"KEY\" }";

pub(super) fn with_key(gantry: &Gantry, args: &[&str]) -> Done {
    done(gantry.command().args(args).env("KEY", "s3cret").output().unwrap())
}

#[test]
fn tokens_are_had_as_registries_ask_for_them() {
    for challenge in [
        "Bearer realm=\"http://HOST/token\",service=\"registry\",scope=\"repository:team/a:pull\"",
        "bearer realm=http://HOST/token, service=registry, scope=repository:team/a:pull,push",
        "Basic realm=\"x\", Bearer Realm=\"http://HOST/token\"",
    ] {
        let (fake, _, digest) = registry();
        let handed = wants_tokens(&fake, challenge);
        let gantry = store(&fake, NAMED);
        let pulled = with_key(&gantry, &["pull", &fake.name("team/a:1")]);
        assert_eq!(
            (pulled.code, pulled.stdout.trim()),
            (0, digest.as_str()),
            "{challenge}: {}",
            pulled.stderr
        );
        assert_eq!(handed.lock().unwrap().len(), 1, "one token for all of it");
        let asked = fake
            .seen()
            .into_iter()
            .find(|seen| seen.path.starts_with("/token"))
            .unwrap();
        assert!(
            asked.path.contains("scope=repository%3Ateam%2Fa%3Apull"),
            "{}",
            asked.path
        );
        // The password goes to the realm alone.
        let shown = |seen: &&Seen| seen.header("authorization").starts_with("Basic");
        assert!(fake
            .seen()
            .iter()
            .filter(shown)
            .all(|seen| seen.path.starts_with("/token")));
    }
}

#[test]
fn a_token_that_ends_in_mid_transfer_is_fetched_again_once() {
    let (fake, source, digest) = registry();
    let handed = wants_tokens(&fake, "Bearer realm=\"http://HOST/token\",service=registry");
    let layer = layers(&source, &digest)[0].0.clone();
    let (ending, mut is_over) = (Arc::clone(&handed), false);
    fake.rule(move |seen, _| {
        if seen.is("GET", &layer) && !is_over {
            is_over = true;
            // The one that is shown here is worth nothing any more.
            ending.lock().unwrap().push("none".to_owned());
        }
        None
    });
    let gantry = store(&fake, NAMED);
    let pulled = with_key(&gantry, &["pull", &fake.name("team/a:1")]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);

    // A registry that takes none of its own tokens is refused, and not asked for ever.
    let (fake, ..) = registry();
    wants_tokens(&fake, "Bearer realm=\"http://HOST/token\"");
    fake.rule(|seen, _| {
        (!seen.path.starts_with("/token")).then(|| {
            Reply::new(401, "").with(
                "WWW-Authenticate",
                format!("Bearer realm=\"http://{}/token\"", seen.header("host")),
            )
        })
    });
    let gantry = store(&fake, NAMED);
    let pulled = with_key(&gantry, &["pull", &fake.name("team/a:1")]);
    assert_eq!(pulled.code, 1, "{}", pulled.stderr);
    assert!(
        pulled.stderr.contains("not accepted") && fake.seen().len() < 8,
        "{}",
        pulled.stderr
    );
}

#[test]
fn a_wrong_password_is_said_to_be_one_and_is_in_no_message() {
    let (fake, ..) = registry();
    wants_tokens(&fake, "Bearer realm=\"http://HOST/token\"");
    let gantry = store(&fake, NAMED);
    let mut command = gantry.command();
    command
        .args(["-v", "pull", &fake.name("team/a:1")])
        .env("KEY", "wr0ng-hunter2");
    let pulled = done(command.output().unwrap());
    assert_eq!(pulled.code, 1);
    assert!(
        pulled.stderr.contains("does not accept the credentials"),
        "{}",
        pulled.stderr
    );
    assert!(pulled.stderr.contains("gantry login"), "{}", pulled.stderr);
    assert!(
        !pulled.stderr.contains("hunter2") && !pulled.stderr.contains("Basic"),
        "{}",
        pulled.stderr
    );
    // One that is named and is not there is an error, and nobody is asked anonymously.
    let before = fake.count("GET", "/token");
    let unset = gantry.gantry(["pull", &fake.name("team/a:1")]);
    assert_eq!(unset.code, 1);
    assert!(unset.stderr.contains("the variable KEY is not set"), "{}", unset.stderr);
    assert_eq!(fake.count("GET", "/token"), before);
}

#[test]
fn a_realm_that_is_not_to_be_trusted_gets_nothing() {
    for (realm, says) in [
        ("http://169.254.169.254/token", "from http to http"),
        ("https://169.254.169.254/token", "link-local"),
        ("http://token.example.org/token", "from http to http"),
        ("ftp://HOST/token", "from http to ftp"),
        ("not an address", "no address"),
    ] {
        let (fake, ..) = registry();
        let challenge = format!("Bearer realm=\"{}\"", realm.replace("HOST", &fake.host));
        fake.rule(move |_, _| Some(Reply::new(401, "").with("WWW-Authenticate", challenge.clone())));
        let gantry = store(&fake, NAMED);
        let pulled = with_key(&gantry, &["pull", &fake.name("team/a:1")]);
        assert_eq!(pulled.code, 1, "{}", pulled.stderr);
        assert!(pulled.stderr.contains(says), "{realm}: {}", pulled.stderr);
    }
    // Another server of this machine is another one's.
    let ((fake, ..), thief) = (registry(), Fake::start());
    let challenge = format!("Bearer realm=\"http://{}/token\"", thief.host);
    fake.rule(move |_, _| Some(Reply::new(401, "").with("WWW-Authenticate", challenge.clone())));
    let pulled = with_key(&store(&fake, NAMED), &["pull", &fake.name("team/a:1")]);
    assert_eq!(pulled.code, 1, "{}", pulled.stderr);
    assert!(pulled.stderr.contains("no credentials go there"), "{}", pulled.stderr);
    assert!(thief.seen().is_empty());
    // One that sends us on does not get the password there.
    let (fake, ..) = registry();
    let thief = Fake::start();
    let target = format!("http://{}/token", thief.host);
    fake.rule(move |seen, _| match seen.path.starts_with("/token") {
        true => Some(Reply::new(307, "").with("Location", target.clone())),
        false => Some(Reply::new(401, "").with(
            "WWW-Authenticate",
            format!("Bearer realm=\"http://{}/token\"", seen.header("host")),
        )),
    });
    let gantry = store(&fake, NAMED);
    assert_eq!(with_key(&gantry, &["pull", &fake.name("team/a:1")]).code, 1);
    assert!(thief.seen().is_empty());
}

#[test]
fn credentials_are_found_where_docker_and_podman_keep_them() {
    let (fake, ..) = registry();
    fake.rule(|seen, _| {
        (seen.header("authorization") != BASIC).then(|| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"))
    });
    let reference = fake.name("team/a:1");
    let auths = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6czNjcmV0\"}}}}}}", fake.host);
    let write = |gantry: &Gantry, path: &str, text: &str| {
        let path = gantry.home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for path in [".docker/config.json", ".config/containers/auth.json"] {
        let gantry = store(&fake, "");
        write(&gantry, path, &auths);
        let pulled = gantry.gantry(["pull", &reference]);
        assert_eq!(pulled.code, 0, "{path}: {}", pulled.stderr);
    }
    for (variable, value, path) in [
        ("DOCKER_CONFIG", "elsewhere", "elsewhere/config.json"),
        ("XDG_RUNTIME_DIR", "run", "run/containers/auth.json"),
        ("REGISTRY_AUTH_FILE", "mine.json", "mine.json"),
    ] {
        let gantry = store(&fake, "");
        write(&gantry, path, &auths);
        let mut command = gantry.command();
        command
            .args(["pull", &reference])
            .env(variable, gantry.home.join(value));
        let pulled = done(command.output().unwrap());
        assert_eq!(pulled.code, 0, "{variable}: {}", pulled.stderr);
    }
    // A credential helper, with a clean environment.
    let gantry = store(&fake, "");
    write(
        &gantry,
        ".docker/config.json",
        &format!("{{\"credHelpers\":{{\"{}\":\"it\"}}}}", fake.host),
    );
    let script =
        "#!/bin/sh\nread host\n[ -z \"$GANTRY_ROOT$LEAK\" ] && printf '{\"Username\":\"me\",\"Secret\":\"s3cret\"}'\n";
    fs::create_dir(gantry.home.join("bin")).unwrap();
    program(&gantry.home.join("bin/docker-credential-it"), script);
    let mut command = gantry.command();
    let path = format!("{}:/usr/bin:/bin", gantry.home.join("bin").display());
    command.args(["pull", &reference]).env("PATH", path).env("LEAK", "1");
    let pulled = done(command.output().unwrap());
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    // Nowhere: it is said what is missing, and how to get it.
    let gantry = store(&fake, "");
    let pulled = gantry.gantry(["pull", &reference]);
    assert_eq!(pulled.code, 1);
    assert!(
        pulled.stderr.contains("there are none for") && pulled.stderr.contains("hint: "),
        "{}",
        pulled.stderr
    );
    // The configuration counts over the files, also when it says nobody.
    let gantry = store(&fake, "credentials = { anonymous = true }");
    write(&gantry, ".docker/config.json", &auths);
    assert_eq!(gantry.gantry(["pull", &reference]).code, 1);
}

#[test]
fn without_tls_nothing_is_said_to_a_registry_unless_the_configuration_says_so() {
    let (fake, ..) = registry();
    let gantry = Gantry::new();
    let pulled = gantry.gantry(["pull", &fake.name("team/a:1")]);
    assert_ne!(pulled.code, 0);
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
    configure(
        &gantry,
        "[[registry]]\nhost = \"registry.example.org\"\nplain_http = true\n",
    );
    let refused = gantry.gantry(["images", "ls"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("loopback"), "{}", refused.stderr);
}

#[test]
fn what_is_for_this_machine_goes_through_no_proxy() {
    let (fake, _, digest) = registry();
    fake.rule(|seen, _| {
        (seen.header("authorization") != BASIC).then(|| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"))
    });
    let proxy = Fake::start();
    let gantry = store(&fake, NAMED);
    let mut command = gantry.command();
    command.args(["pull", &fake.name("team/a:1")]).env("KEY", "s3cret");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        command.env(name, format!("http://{}", proxy.host));
    }
    let pulled = done(command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap());
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    assert_eq!(
        (pulled.code, pulled.stdout.trim()),
        (0, digest.as_str()),
        "{}",
        pulled.stderr
    );
}
