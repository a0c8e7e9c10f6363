//! An archive of our own, signed by a key of our own, honest and otherwise.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::archive::deb::fixture::{gzip_of, xz_of};
use crate::base::definitions::Definitions;

/// 2026-07-11 12:00:00 UTC.
const NOW: u64 = 1_783_771_200;
const DATE: &str = "Date: Sat, 11 Jul 2026 10:16:37 UTC\n";

/// What is served, by path, and what was asked for.
#[derive(Default)]
struct Served {
    files: BTreeMap<String, Vec<u8>>,
    asked: Vec<String>,
}

struct FakeArchive {
    scratch: tempfile::TempDir,
    served: Arc<Mutex<Served>>,
    address: String,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Drop for FakeArchive {
    fn drop(&mut self) {
        // An empty request ends the server; the agent that gpg started ends by being told.
        drop(TcpStream::connect(self.address.trim_start_matches("http://")));
        let _ = self.server.take().unwrap().join();
        let home = self.scratch.path().join("keys");
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(home)
            .args(["--kill", "all"])
            .output();
    }
}

fn serve(listener: &TcpListener, served: &Mutex<Served>) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap();
        let Some(path) = request.split(' ').nth(1) else { return };
        let path = path.trim_start_matches('/').to_owned();
        let mut served = served.lock().unwrap();
        let (status, body) = match served.files.get(&path) {
            Some(body) => ("200 OK", body.clone()),
            None => ("404 Not Found", Vec::new()),
        };
        served.asked.push(path);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    }
}

fn gpg(home: &Path, args: &[&str], input: &str) -> Vec<u8> {
    let input_file = home.join("input");
    std::fs::write(&input_file, input).unwrap();
    let mut command = Command::new("gpg");
    command.arg("--homedir").arg(home);
    let done = command
        .args(["--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""])
        .args(args)
        .stdin(std::fs::File::open(input_file).unwrap())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The lists of two suites: package, version, path.
const MAIN: &[(&str, &str, &str)] = &[("a", "2", "pool/main/a_2.deb"), ("b", "1-1", "pool/main/b_1-1.deb")];
const SECURITY: &[(&str, &str, &str)] = &[("a", "3", "pool/updates/main/a_3.deb")];

fn list(packages: &[(&str, &str, &str)]) -> Vec<u8> {
    let paragraph = |(name, version, path): &(&str, &str, &str)| {
        let hash = Digest::of(path.as_bytes()).hex();
        format!("Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: {path}\nSize: 5\nSHA256: {hash}\n\n")
    };
    packages.iter().map(paragraph).collect::<String>().into_bytes()
}

impl FakeArchive {
    /// An honest one.
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path().join("keys");
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
        gpg(&home, &["--quick-gen-key", "archive", "ed25519", "sign", "never"], "");
        std::fs::write(scratch.path().join("keys.gpg"), gpg(&home, &["--export"], "")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = Arc::new(Mutex::new(Served::default()));
        let shared = Arc::clone(&served);
        let server = Some(std::thread::spawn(move || serve(&listener, &shared)));
        let archive = Self {
            scratch,
            served,
            address,
            server,
        };
        archive.publish("bookworm", MAIN, &|release| release);
        archive.publish("bookworm-security", SECURITY, &|release| release);
        archive
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        self.served.lock().unwrap().files.insert(path.to_owned(), bytes);
    }

    /// Signs and serves the index and the list of `suite`; `edit` changes the index before it is signed.
    fn publish(&self, suite: &str, packages: &[(&str, &str, &str)], edit: &dyn Fn(String) -> String) {
        let packed = xz_of(&list(packages));
        let (hash, size) = (Digest::of(&packed).hex(), packed.len());
        let release = edit(format!(
            "Origin: Debian\nCodename: {suite}\n{DATE}Acquire-By-Hash: yes\nSHA256:\n {hash} {size} main/binary-amd64/Packages.xz\n"
        ));
        self.sign(suite, &release, &[]);
        self.put(
            &format!("dists/{suite}/main/binary-amd64/by-hash/SHA256/{hash}"),
            packed.clone(),
        );
        self.put(&format!("dists/{suite}/main/binary-amd64/Packages.xz"), packed);
    }

    fn sign(&self, suite: &str, release: &str, options: &[&str]) {
        let mut args = options.to_vec();
        args.push("--clearsign");
        let signed = gpg(&self.scratch.path().join("keys"), &args, release);
        self.put(&format!("dists/{suite}/InRelease"), signed);
    }

    /// Changes what is served at `path`.
    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.served.lock().unwrap().files.get_mut(path).unwrap());
    }

    fn relock_with(&self, keyring: PathBuf, now: u64) -> Result<Vec<LockedDeb>, RelockError> {
        let store = Store::open(&self.scratch.path().join("store")).unwrap();
        let mirror = Mirror {
            uri: crate::net::Address::new(self.address.clone()),
            keyring,
        };
        let mirrors = Mirrors {
            main: mirror.clone(),
            updates: mirror.clone(),
            security: mirror,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        let relocked = relock(&store, &Client::pausing_little(), &variant(), &mirrors, now);
        let left = std::fs::read_dir(store.root().join("tmp")).unwrap().count();
        assert_eq!(left, 0, "scratch files are left");
        relocked
    }

    fn relock(&self) -> Result<Vec<LockedDeb>, RelockError> {
        self.relock_with(self.scratch.path().join("keys.gpg"), NOW)
    }
}

/// a 1 and b 1-1, pinned.
fn variant() -> Variant {
    let mut variant = Definitions::default().find("python-3.11").unwrap().unwrap();
    variant.lock.truncate(2);
    for (deb, (name, version)) in variant.lock.iter_mut().zip([("a", "1"), ("b", "1-1")]) {
        (deb.name, deb.version) = (name.to_owned(), version.to_owned());
    }
    variant
}

fn versions(lock: &[LockedDeb]) -> Vec<(&str, &str, Archive)> {
    lock.iter()
        .map(|deb| (deb.name.as_str(), deb.version.as_str(), deb.archive))
        .collect()
}

fn index_reason(result: Result<Vec<LockedDeb>, RelockError>) -> String {
    match result {
        Err(RelockError::Index { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn takes_the_newest_version_of_every_pinned_package() {
    let archive = FakeArchive::new();
    let lock = archive.relock().unwrap();
    let expected = [("a", "3", Archive::Security), ("b", "1-1", Archive::Main)];
    assert_eq!(versions(&lock), expected);
    assert_eq!(lock[0].path, "pool/updates/main/a_3.deb");
    assert_eq!(lock[0].sha256, Digest::of(b"pool/updates/main/a_3.deb"));
    assert_eq!(changes(&variant().lock, &lock)[0], "a 1 -> 3");
    let by_hash = |path: &String| path.contains("/by-hash/");
    assert_eq!(
        archive
            .served
            .lock()
            .unwrap()
            .asked
            .iter()
            .filter(|path| by_hash(path))
            .count(),
        2
    );

    archive.publish(
        "bookworm-updates",
        &[("b", "1-1+u1", "pool/main/b_u1.deb")],
        &|release| release,
    );
    let lock = archive.relock().unwrap();
    assert_eq!(versions(&lock)[1], ("b", "1-1+u1", Archive::Updates));
}

#[test]
fn reads_lists_by_name_and_packed_by_gzip_too() {
    let archive = FakeArchive::new();
    let packed = gzip_of(&list(MAIN));
    let (hash, size) = (Digest::of(&packed).hex(), packed.len());
    let release = format!("Codename: bookworm\n{DATE}SHA256:\n {hash} {size} main/binary-amd64/Packages.gz\n");
    archive.sign("bookworm", &release, &[]);
    archive.put("dists/bookworm/main/binary-amd64/Packages.gz", packed);
    assert_eq!(archive.relock().unwrap().len(), 2);
}

#[test]
fn refuses_an_index_that_no_known_key_signed() {
    let archive = FakeArchive::new();
    let refused = |result: Result<Vec<LockedDeb>, RelockError>| match result {
        Err(RelockError::Signature { suite, source }) => (suite, source),
        other => panic!("{other:?}"),
    };
    // Another archive's key.
    let other = FakeArchive::new();
    let (suite, error) = refused(archive.relock_with(other.scratch.path().join("keys.gpg"), NOW));
    assert!(matches!(error, SignatureError::Refused { .. }) && suite == "bookworm");
    let (_, error) = refused(archive.relock_with(other.scratch.path().join("none.gpg"), NOW));
    assert!(matches!(error, SignatureError::Keyring { .. }));
    // The text was changed after it was signed.
    let index = "dists/bookworm-security/InRelease";
    archive.change(index, |bytes| {
        let at = bytes.windows(6).position(|window| window == b"Origin").unwrap();
        bytes[at] = b'o';
    });
    let (suite, error) = refused(archive.relock());
    assert!(
        matches!(error, SignatureError::Refused { reason, .. } if reason.contains("not that of this text"))
            && suite == "bookworm-security"
    );
    // Not signed at all, and signed with text around.
    archive.put(index, b"Codename: bookworm-security\n".to_vec());
    assert!(matches!(refused(archive.relock()).1, SignatureError::Shape));
    archive.publish("bookworm-security", SECURITY, &|release| release);
    archive.change(index, |bytes| {
        bytes.splice(0..0, b"Codename: evil\n".iter().copied());
    });
    assert!(matches!(refused(archive.relock()).1, SignatureError::Shape));
    // A hash that is broken.
    archive.sign(
        "bookworm-security",
        &format!("Codename: bookworm-security\n{DATE}"),
        &["--digest-algo", "SHA1"],
    );
    assert!(matches!(refused(archive.relock()).1, SignatureError::Refused { .. }));
}

#[test]
fn refuses_an_index_of_another_time_or_suite() {
    let archive = FakeArchive::new();
    let keyring = archive.scratch.path().join("keys.gpg");
    let until = |release: String| release + "Valid-Until: Sun, 12 Jul 2026 10:16:37 UTC\n";
    archive.publish("bookworm-security", SECURITY, &until);
    assert!(archive.relock().is_ok());
    let expired = archive.relock_with(keyring.clone(), NOW + 2 * 86_400);
    assert!(index_reason(expired).contains("valid until"));
    assert!(index_reason(archive.relock_with(keyring, NOW - 2 * 86_400)).contains("future"));
    // Signed by the right key, but of a suite nobody asked for.
    let other = archive.served.lock().unwrap().files["dists/bookworm/InRelease"].clone();
    archive.put("dists/bookworm-security/InRelease", other);
    assert!(index_reason(archive.relock()).contains("\"bookworm\", not"));
}

#[test]
fn refuses_a_list_that_is_not_the_signed_one() {
    let archive = FakeArchive::new();
    let path = {
        let served = archive.served.lock().unwrap();
        let mut paths = served.files.keys();
        paths
            .find(|path| path.starts_with("dists/bookworm/") && path.contains("by-hash"))
            .unwrap()
            .clone()
    };
    archive.change(&path, |bytes| {
        bytes.pop();
    });
    assert!(index_reason(archive.relock()).contains("the index says"), "cut");
    archive.change(&path, |bytes| bytes.push(0));
    assert!(index_reason(archive.relock()).contains("the index says"), "changed");
    archive.change(&path, |bytes| bytes.push(0));
    assert!(matches!(
        archive.relock(),
        Err(RelockError::Net {
            source: NetError::TooLarge { .. },
            ..
        })
    ));
    archive.publish("bookworm", MAIN, &|release| {
        release.replace("Packages.xz", "Packages.lzma")
    });
    assert!(index_reason(archive.relock()).contains("no list"));
    archive.publish("bookworm", MAIN, &|release| {
        release.replace(" main/", "0000000000 main/")
    });
    assert!(index_reason(archive.relock()).contains("bytes"));
    // Signed, but no list at all: a broken archive.
    let rubbish = b"no xz".to_vec();
    let hash = Digest::of(&rubbish).hex();
    let release = format!("Codename: bookworm\n{DATE}SHA256:\n {hash} 5 main/binary-amd64/Packages.xz\n");
    archive.sign("bookworm", &release, &[]);
    archive.put("dists/bookworm/main/binary-amd64/Packages.xz", rubbish);
    assert!(index_reason(archive.relock()).contains("Packages.xz"));
}

#[test]
fn refuses_packages_that_are_missing_older_or_elsewhere() {
    let archive = FakeArchive::new();
    archive.publish("bookworm", &MAIN[..1], &|release| release);
    assert!(matches!(archive.relock(), Err(RelockError::Missing { package, .. }) if package == "b"));
    let old = [("b", "1-1~", "pool/main/b_0.deb")];
    archive.publish("bookworm", &old, &|release| release);
    assert!(matches!(
        archive.relock(),
        Err(RelockError::Older { package, got, pinned, .. }) if (package.as_str(), got.as_str(), pinned.as_str()) == ("b", "1-1~", "1-1")
    ));
    let outside = [("b", "2", "pool/../../b_2.deb")];
    archive.publish("bookworm", &outside, &|release| release);
    assert!(index_reason(archive.relock()).contains("pool/../../b_2.deb"));
}

#[test]
fn says_which_suite_is_not_there() {
    let archive = FakeArchive::new();
    archive
        .served
        .lock()
        .unwrap()
        .files
        .remove("dists/bookworm-security/InRelease");
    assert!(matches!(
        archive.relock(),
        Err(RelockError::Net { suite, source }) if suite == "bookworm-security" && source.is_not_found()
    ));
}
