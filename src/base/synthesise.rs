//! What maintainer scripts would have made: computed here, from the packages' own files.

use std::collections::BTreeMap;

use super::definition::Definition;
use super::loader_cache::{LoaderCache, PLACE};
use super::usrmerge::MERGED;
use crate::archive::deb::DebEntry;

const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla/";
const PASSWD: &str = "root:x:0:0:root:/root:/usr/sbin/nologin\nmecapy:x:1000:1000:mecapy:/app:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nmecapy:x:1000:\nnogroup:x:65534:\n";
const NSSWITCH: &str =
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";
const NETWORKS: &str = "default 0.0.0.0\nloopback 127.0.0.0\nlink-local 169.254.0.0\n";
const SHELLS: [&str; 4] = ["/bin/sh", "/bin/bash", "/bin/rbash", "/bin/dash"];
/// A site directory, not only a path: the `.pth` files of packages in it work. The prefix is where the data of wheels lie,
/// and packages look for theirs below it; the standard library is found by `sys.base_prefix`, as in a virtual environment.
/// So `site` and `sysconfig` name the directory as that of one, which is a link ([`site_link`]), and it is imported from
/// by that name.
pub(super) const SITE_LINE: &str = "import site, sys; sys.prefix = sys.exec_prefix = '/opt/py'; \
    site.PREFIXES.insert(0, '/opt/py'); \
    site.addsitedir('/opt/py/lib/python%d.%d/site-packages' % sys.version_info[:2])\n";
/// Where packages are, whatever the Python: their layers do not depend on it.
pub(super) const SITE: &str = "/opt/py/site";
const LOCAL_TIME: &str = "Etc/UTC";

/// The name by which Python `python` knows [`SITE`].
pub(super) fn site_link(python: &str) -> String {
    format!("opt/py/lib/python{python}/site-packages")
}

/// Adds what is missing to a tree of packages that is made by `definition`; says what it expected and did not find.
pub(super) fn complete(entries: &mut BTreeMap<String, DebEntry>, definition: &Definition) -> Result<(), String> {
    link(entries, &site_link(&definition.python), SITE);
    let python = format!("python{}", definition.python);
    let prefix = definition.prefix();
    let program = format!("{}/bin/{python}", prefix.trim_start_matches('/'));
    if !entries.contains_key(&program) {
        return Err(format!("there is no {program}"));
    }
    let (python, site) = match definition.interpreter {
        Some(_) => {
            // Where the OpenSSL that is built into such an interpreter looks; Debian's has a link of its own package.
            link(entries, "etc/ssl/cert.pem", "certs/ca-certificates.crt");
            (
                format!("../local/bin/{python}"),
                format!("usr/local/lib/{python}/site-packages"),
            )
        }
        // Debian's Python looks into a directory for all of its versions.
        None => (python, "usr/lib/python3/dist-packages".to_owned()),
    };
    let bundle = certificates(entries)?;
    // The single files have served their purpose.
    entries.retain(|path, _| !path.starts_with("usr/share/ca-certificates/"));
    for directory in MERGED {
        link(entries, directory, &format!("usr/{directory}"));
    }
    for directory in [
        "usr/sbin",
        "app",
        "opt/py/site",
        "opt/py/bin",
        "output",
        "input",
        "run/secrets",
        "proc",
        "sys",
        "dev",
        "root",
        "media",
        "mnt",
        "srv",
        "usr/local/bin",
        "usr/local/etc",
        "usr/local/include",
        "usr/local/lib",
        "usr/local/sbin",
        "usr/local/share",
        "usr/local/src",
    ] {
        entries
            .entry(directory.to_owned())
            .or_insert(DebEntry::Directory { mode: 0o755 });
    }
    // With the sticky bit, for runtimes that mount nothing over it: several users share it.
    for directory in ["tmp", "var/tmp", "run/lock"] {
        entries.insert(directory.to_owned(), DebEntry::Directory { mode: 0o1777 });
    }
    link(entries, "etc/localtime", &format!("/usr/share/zoneinfo/{LOCAL_TIME}"));
    // Programs of before 2011 have their places below /var.
    link(entries, "var/run", "/run");
    link(entries, "var/lock", "/run/lock");
    link(entries, "usr/bin/python", &python);
    link(entries, "usr/bin/python3", &python);
    file(entries, "etc/ssl/certs/ca-certificates.crt", &bundle);
    file(entries, &format!("{site}/gantry.pth"), SITE_LINE);
    for (path, text) in [
        ("etc/timezone", format!("{LOCAL_TIME}\n").as_str()),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nsswitch.conf", NSSWITCH),
        ("etc/hosts", HOSTS),
        ("etc/networks", NETWORKS),
    ] {
        file(entries, path, text);
    }
    let shells = SHELLS
        .iter()
        .filter(|shell| entries.contains_key(&format!("usr{shell}")));
    let shells: String = shells.map(|shell| format!("{shell}\n/usr{shell}\n")).collect();
    if !shells.is_empty() {
        file(entries, "etc/shells", &shells);
    }
    let cache = LoaderCache::scan(entries).map_err(|error| format!("list its libraries: {error}"))?;
    let cache = DebEntry::File {
        mode: 0o644,
        contents: cache.to_bytes(),
    };
    entries.insert(PLACE.to_owned(), cache);
    Ok(())
}

/// All of Mozilla's certificates in the order of their names, as update-ca-certificates would concatenate them.
fn certificates(entries: &BTreeMap<String, DebEntry>) -> Result<String, String> {
    let mut bundle = String::new();
    for (path, entry) in entries.range(CERTIFICATES.to_owned()..) {
        if !path.starts_with(CERTIFICATES) {
            break;
        }
        if let (true, DebEntry::File { contents, .. }) = (path.ends_with(".crt"), entry) {
            bundle.push_str(std::str::from_utf8(contents).map_err(|_| format!("{path} is no text"))?);
            if !bundle.ends_with('\n') {
                bundle.push('\n');
            }
        }
    }
    if bundle.matches("BEGIN CERTIFICATE").count() < 50 {
        return Err("the certificate package has fewer than 50 certificates".to_owned());
    }
    Ok(bundle)
}

fn link(entries: &mut BTreeMap<String, DebEntry>, path: &str, target: &str) {
    entries.insert(
        path.to_owned(),
        DebEntry::Symlink {
            target: target.to_owned(),
        },
    );
}

fn file(entries: &mut BTreeMap<String, DebEntry>, path: &str, text: &str) {
    entries.insert(
        path.to_owned(),
        DebEntry::File {
            mode: 0o644,
            contents: text.as_bytes().to_vec(),
        },
    );
}
