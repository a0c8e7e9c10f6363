//! The registry of the distribution, with TLS and a password, and the tools of others on the other side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::images::{configure, image, partials};
use crate::common::wait::{eventually, is_so};
use crate::common::{done, example, shared, tool, Gantry};

/// `me:s3cret`, as htpasswd makes it (bcrypt).
const PASSWORDS: &str = "me:BCRYPT\n";

/// A registry with TLS and a password on a free port, ended with the test.
pub struct Registry {
    pub server: Child,
    /// `localhost:PORT`.
    pub host: String,
    scratch: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        make_certificates(scratch.path());
        fs::write(path("passwords"), PASSWORDS.replace("BCRYPT", &bcrypt())).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nauth: {{htpasswd: {{realm: x, path: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\", tls: {{certificate: {}, key: {}}}}}\n",
            path("data").display(),
            path("passwords").display(),
            path("cert.pem").display(),
            path("key.pem").display(),
        );
        fs::write(path("config.yml"), config).unwrap();
        // The log says where it listens, the other stream who asked for what: files, so that what it has written can be read.
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdout(fs::File::create(path("requests")).unwrap())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut port = String::new();
        eventually("the registry does not listen", || {
            let log = fs::read_to_string(path("log")).unwrap();
            let said = log.split("listening on 127.0.0.1:").nth(1);
            // Behind the port the line goes on.
            let digits = said.and_then(|said| said.split_once(|byte: char| !byte.is_ascii_digit()));
            port = digits.map(|(digits, _)| digits.to_owned()).unwrap_or_default();
            is_so(!port.is_empty(), log)
        });
        Self {
            server,
            host: format!("localhost:{port}"),
            scratch,
        }
    }

    /// What it stores.
    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    pub fn certificates(&self) -> PathBuf {
        self.scratch.path().join("ca.pem")
    }

    /// How many requests of `method` it answered whose path ends in `end`. It writes that down once it has sent the last byte.
    pub fn count(&self, method: &str, end: &str) -> usize {
        let line = format!("\"{method} /v2/");
        let log = fs::read_to_string(self.scratch.path().join("requests")).unwrap();
        log.lines()
            .filter(|text| text.contains(&line) && text.contains(&format!("{end} HTTP")))
            .count()
    }

    /// `gantry` of a store that knows the password and trusts the certificate.
    pub fn command(&self, gantry: &Gantry) -> Command {
        let mut command = gantry.command();
        command.env("SSL_CERT_FILE", self.certificates()).env("KEY", "s3cret");
        command
    }

    pub fn ok(&self, gantry: &Gantry, args: &[&str]) -> String {
        let done = done(self.command(gantry).args(args).output().unwrap());
        assert_eq!(
            done.code,
            0,
            "{args:?}: {}\n{:?}",
            done.stderr,
            fs::read_to_string(self.scratch.path().join("log"))
                .unwrap()
                .lines()
                .last()
        );
        done.stdout.trim().to_owned()
    }

    /// An empty store that knows the registry.
    pub fn store(&self) -> Gantry {
        let gantry = Gantry::new();
        self.know(&gantry);
        gantry
    }

    fn know(&self, gantry: &Gantry) {
        let credentials = "credentials = { user = \"me\", password_env = \"KEY\" }";
        configure(
            gantry,
            &format!("[[registry]]\nhost = \"{}\"\n{credentials}\n", self.host),
        );
    }

    fn skopeo(&self) -> Command {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "--tmpdir", env!("CARGO_TARGET_TMPDIR"), "copy"]);
        let folder = self.scratch.path().join("certs");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(self.certificates(), folder.join("ca.crt")).unwrap();
        let folder = folder.to_str().unwrap().to_owned();
        command.args(["--src-cert-dir", &folder, "--dest-cert-dir", &folder]);
        command
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn bcrypt() -> String {
    let script = "print crypt('s3cret', '$2y$05$abcdefghijklmnopqrstuu')";
    let hash = tool(Command::new("perl").args(["-e", script]));
    assert!(hash.starts_with("$2y$05$"), "{hash}");
    hash
}

/// An authority of our own, and what it says of localhost.
fn make_certificates(folder: &Path) {
    let openssl = |args: &[&str]| {
        tool(
            Command::new("openssl")
                .args(args)
                .current_dir(folder)
                .stderr(Stdio::null()),
        )
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut authority = vec![
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=test authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    authority.extend(key);
    openssl(&authority);
    let mut request = vec![
        "req",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "key.pem",
        "-out",
        "request.pem",
    ];
    request.extend(key);
    openssl(&request);
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
}

#[test]
fn what_is_pushed_over_tls_with_a_password_runs_on_the_other_side() {
    let registry = Registry::start();
    let source = shared();
    let digest = source.build(&example("hello"), "registry:1");
    let remote = format!("{}/team/hello:1", registry.host);
    // A store of its own, so that the configuration of the shared one stays as it is.
    let builder = registry.store();
    let there = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:x", there.path().join("layout").display());
    source.ok(["push", "registry:1", &layout]);
    assert_eq!(registry.ok(&builder, &["copy", &layout, &remote]), digest);

    let worker = registry.store();
    let mut command = registry.command(&worker);
    let ran = done(
        command
            .args(["run", "--allow-degraded", crate::common::DEGRADED, &remote])
            .output()
            .unwrap(),
    );
    let expected = fs::read_to_string(example("hello").join("expected.txt")).unwrap();
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, expected.as_str()),
        "{}",
        ran.stderr
    );

    // skopeo takes it as it is, and we what skopeo brings.
    let scratch = tempfile::tempdir().unwrap();
    let back = format!("oci:{}:back", scratch.path().join("back").display());
    tool(
        registry
            .skopeo()
            .args(["--src-creds", "me:s3cret", &format!("docker://{remote}"), &back]),
    );
    let other = Gantry::new();
    assert_eq!(other.ok(["copy", &back, "back:1"]).trim(), digest);
    let theirs = format!("{}/team/theirs:1", registry.host);
    tool(
        registry
            .skopeo()
            .args(["--dest-creds", "me:s3cret", &back, &format!("docker://{theirs}")]),
    );
    assert_eq!(registry.ok(&registry.store(), &["pull", &theirs]), digest);
    // Also in docker's words for an image.
    let docker = format!("{}/team/docker:1", registry.host);
    tool(registry.skopeo().args([
        "--format",
        "v2s2",
        "--dest-creds",
        "me:s3cret",
        &back,
        &format!("docker://{docker}"),
    ]));
    let worker = registry.store();
    let mut command = registry.command(&worker);
    let ran = done(
        command
            .args(["run", "--allow-degraded", crate::common::DEGRADED, &docker])
            .output()
            .unwrap(),
    );
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, expected.as_str()),
        "{}",
        ran.stderr
    );

    // Without the password, and without the certificate.
    let stranger = Gantry::new();
    let mut command = registry.command(&stranger);
    let refused = done(command.args(["pull", &remote]).output().unwrap());
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("user and a password"), "{}", refused.stderr);
    let refused = done(
        registry
            .store()
            .command()
            .args(["pull", &remote])
            .env("KEY", "s3cret")
            .output()
            .unwrap(),
    );
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
}

#[test]
fn a_function_is_built_on_a_base_of_a_registry() {
    let registry = Registry::start();
    let source = shared();
    let builder = registry.store();
    source.build(&example("hello"), "registry-base:1");
    let there = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:x", there.path().join("layout").display());
    source.ok(["push", "registry-base:1", &layout]);
    let base = format!("{}/base/python:3.11-slim", registry.host);
    registry.ok(&builder, &["copy", &layout, &base]);
    let function = crate::common::function("print('on a base of a registry')\n", None);
    let gantry = registry.store();
    let dir = function.path().to_str().unwrap();
    let built = done(
        registry
            .command(&gantry)
            .args([
                "build",
                dir,
                "--base",
                &base,
                "--tag",
                "mine:1",
                "--allow-degraded",
                crate::common::DEGRADED,
            ])
            .output()
            .unwrap(),
    );
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert!(gantry.ok(["images", "ls", "-q"]).contains(&base));
    let ran = gantry.run(&["mine:1"]);
    assert_eq!(ran.stdout, "on a base of a registry\n", "{}", ran.stderr);
}

/// How often, the environment says: `GANTRY_KILLS`.
#[test]
fn a_pull_and_a_push_that_are_killed_are_made_good_by_the_next() {
    let rounds = std::env::var("GANTRY_KILLS").map_or(4, |text| text.parse().unwrap());
    let registry = Registry::start();
    let source = registry.store();
    let digest = image(&source, "a:1", &[(1, 8_000_000), (2, 4_000_000), (3, 1000)]);
    // How long each takes when it is not killed; the moments are spread over a little more than that.
    let remote = |turn: usize| format!("{}/team/k{turn}:1", registry.host);
    let timed = |gantry: &Gantry, args: &[&str]| {
        let started = Instant::now();
        assert_eq!(registry.ok(gantry, args), digest);
        started.elapsed()
    };
    let push_time = timed(&source, &["push", "a:1", &remote(rounds)]);
    let pull_time = timed(&registry.store(), &["pull", &remote(rounds)]);
    let mut killed = [0, 0];
    for turn in 0..rounds {
        killed[0] += usize::from(kill_within(
            registry.command(&source).args(["push", "a:1", &remote(turn)]),
            push_time,
        ));
        assert_eq!(registry.ok(&source, &["push", "a:1", &remote(turn)]), digest);
        let gantry = registry.store();
        killed[1] += usize::from(kill_within(
            registry.command(&gantry).args(["pull", &remote(turn)]),
            pull_time,
        ));
        assert_eq!(registry.ok(&gantry, &["pull", &remote(turn)]), digest);
        gantry.ok(["cache", "gc"]);
        assert!(partials(&gantry).is_empty());
        // Nothing is damaged: what is called by a digest has it, and all of the image can be had from here.
        for blob in fs::read_dir(gantry.root.join("blobs/sha256")).unwrap() {
            let path = blob.unwrap().path();
            let got = gantry::oci::Digest::of(&fs::read(&path).unwrap()).to_string();
            assert_eq!(got[7..], *path.file_name().unwrap().to_str().unwrap());
        }
        let back = format!("{}/team/back{turn}:1", registry.host);
        assert_eq!(registry.ok(&gantry, &["push", &remote(turn), &back]), digest);
    }
    eprintln!(
        "killed before their end: {} pushes and {} pulls of {rounds} each",
        killed[0], killed[1]
    );
}

#[test]
fn every_command_of_the_page_does_what_it_says() {
    let (registry, backup) = (Registry::start(), Registry::start());
    let gantry = Gantry::new();
    let entry = |registry: &Registry| format!("[[registry]]\nhost = \"{}\"\n", registry.host);
    configure(&gantry, &format!("{}{}", entry(&registry), entry(&backup)));
    // What the page means by a function and by a password.
    let there = tempfile::tempdir().unwrap();
    let certificates = [registry.certificates(), backup.certificates()].map(|path| fs::read_to_string(path).unwrap());
    fs::write(there.path().join("authorities"), certificates.concat()).unwrap();
    fs::write(there.path().join("password"), "s3cret\n").unwrap();
    fs::create_dir(there.path().join("function")).unwrap();
    fs::write(
        there.path().join("function/user_function.py"),
        "print('from a registry')\n",
    )
    .unwrap();
    // The base is there, as on a machine that has built something.
    let base = format!("oci:{}", there.path().join("base").display());
    let of_base = crate::common::function("print(1)\n", None);
    shared().build(of_base.path(), "registry-page:1");
    shared().ok(["push", "registry-page:1", &format!("{base}:x")]);
    gantry.ok(["pull", &format!("{base}:x"), "--tag", "base:1"]);

    let page = include_str!("../../../docs/registry-setup.md");
    let blocks: Vec<&str> = page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 5, "the page has lost its commands");
    let bin = Path::new(env!("CARGO_BIN_EXE_gantry")).parent().unwrap();
    let mut out = String::new();
    for block in blocks {
        let block = block.replace("gantry build function", "gantry build function --base base:1");
        let shown = done(
            Command::new("bash")
                .args(["-euo", "pipefail", "-c", &block])
                .current_dir(there.path())
                .env_clear()
                .env("HOME", &gantry.home)
                .env("GANTRY_ROOT", &gantry.root)
                .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
                .env("SSL_CERT_FILE", there.path().join("authorities"))
                .env("REGISTRY", &registry.host)
                .env("BACKUP", &backup.host)
                .output()
                .unwrap(),
        );
        assert_eq!(shown.code, 0, "{block}\n{}\n{}", shown.stdout, shown.stderr);
        out.push_str(&shown.stdout);
    }
    assert!(out.contains("from a registry\n"), "{out}");
    // By `copy`, and below the mirror by the list; the second time it is there.
    eventually("they are not asked as often", || {
        let counts = [&registry, &backup].map(|registry| registry.count("PUT", "/manifests/v1"));
        is_so(counts == [1, 2], counts)
    });
    let kept = gantry.home.join(".docker/config.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(fs::read_to_string(&kept).unwrap().contains(&backup.host));

    // The configurations of the page are ones.
    for text in page
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
    {
        let file = there.path().join("config.toml");
        fs::write(&file, text).unwrap();
        gantry.ok(["config", "check", file.to_str().unwrap()]);
    }
    // A password that is wrong is not kept.
    fs::write(there.path().join("wrong"), "hunter2\n").unwrap();
    let before = fs::read_to_string(&kept).unwrap();
    let mut command = registry.command(&gantry);
    command.args(["login", &registry.host, "-u", "me"]);
    let wrong = done(
        command
            .stdin(fs::File::open(there.path().join("wrong")).unwrap())
            .output()
            .unwrap(),
    );
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    assert!(
        wrong.stderr.contains("not accepted") && !wrong.stderr.contains("hunter2"),
        "{}",
        wrong.stderr
    );
    assert_eq!(fs::read_to_string(&kept).unwrap(), before);
}

/// Kills it at some moment of the time that it takes; whether it was still at work.
fn kill_within(command: &mut Command, time: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut random = [0; 2];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).unwrap();
    // What holds, holds at every moment: which one it is decides nothing.
    std::thread::sleep(time.mul_f64(f64::from(u16::from_ne_bytes(random)) / 60_000.0));
    let _ = child.kill();
    child.wait().unwrap().code().is_none()
}
