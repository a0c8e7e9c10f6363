//! What Debian's packages set up on a machine and a base has too: functions read character sets, find libraries and
//! programs, pack their own files, and trust the usual authorities.

use std::process::Command;

use serde_json::{json, Value};

use super::{assert_prints, case, prints, prints_with};
use crate::common::{function, shared, tool, PYTHONS};

#[test]
fn the_parts_of_python_that_debian_ships_by_themselves_are_there() {
    assert_prints(&case("distutils-util"), "True True\n");
}

#[test]
fn libraries_of_the_base_are_found_by_name() {
    prints("find-library", "libc.so.6 libz.so.1 libgomp.so.1\n");
}

#[test]
fn a_file_in_another_character_set_is_read() {
    prints("stata-latin1", "['Zürich', 'Besançon']\n");
}

#[test]
fn which_is_a_command_of_the_slim_base() {
    let slim = ["--base", "python-3.11-slim"];
    prints_with("which-in-slim", &slim, &[], "/usr/bin/python3\n");
}

#[test]
fn a_function_packs_its_own_files_in_every_runtime() {
    prints("zip-of-own-files", "['user_function.py']\n");
    // Another runtime gives files the times of the layers.
    let (gantry, scratch) = (shared(), tempfile::tempdir().unwrap());
    let (layout, bundle) = (scratch.path().join("layout"), scratch.path().join("bundle"));
    gantry.ok([
        "push",
        "case-zip-of-own-files:3.11",
        &format!("oci:{}:x", layout.display()),
    ]);
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--rootless", "--image", &format!("{}:x", layout.display())]);
    tool(umoci.arg(&bundle));
    let pack = "import os, sys, zipfile\nwith zipfile.ZipFile('packed.zip', 'w') as packed:\n    for folder, _, files in os.walk('rootfs'):\n        for name in files:\n            path = os.path.join(folder, name)\n            if os.path.isfile(path) and not os.path.islink(path): packed.write(path)\nprint(len(packed.namelist()) > 1000)\n";
    // Where it was still the day before.
    let mut python = Command::new("python3");
    python.args(["-c", pack]).env("TZ", "UTC+12").current_dir(&bundle);
    let packed = tool(&mut python);
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(&bundle));
    assert_eq!(packed, "True\n");
}

/// What `code` prints as JSON on the base `base`; the image is called `name`.
fn on_base(base: &str, name: &str, code: &str, requirements: Option<&str>) -> Value {
    let gantry = shared();
    let dir = function(code, requirements);
    gantry.ok(["build", dir.path().to_str().unwrap(), "--base", base, "--tag", name]);
    let done = gantry.run(&[name]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
}

#[test]
fn what_the_system_is_asked_for_is_there() {
    let code = r#"
import ctypes, datetime, getpass, grp, importlib, json, locale, mimetypes, os, pwd, socket, ssl, subprocess, sys, time, zoneinfo
from ctypes.util import find_library

libc = ctypes.CDLL(None)
libc.iconv_open.restype = ctypes.c_void_p
def converts(name):
    return libc.iconv_open(b"UTF-8", name.encode()) != ctypes.c_void_p(-1).value
def colors(term):
    # A process has one terminal.
    ask = "import curses, sys; curses.setupterm(sys.argv[1]); print(curses.tigetnum('colors'))"
    return int(subprocess.run([sys.executable, "-c", ask, term], capture_output=True).stdout)
def imports(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        return str(error)

libraries = ["c", "m", "z", "ssl", "crypto", "stdc++", "gomp", "ffi", "sqlite3", "bz2", "lzma", "expat", "uuid", "nothing"]
charsets = ["WINDOWS-1250", "WINDOWS-1252", "CP1258", "ISO-8859-15", "ISO-8859-16", "CP437", "CP850", "CP858", "CP874", "CP932", "SHIFT_JIS",
    "EUC-JP", "EUC-KR", "EUC-TW", "EUC-CN", "ISO-2022-JP", "GB18030", "GBK", "BIG5", "BIG5-HKSCS", "KOI8-R", "KOI8-U", "MACINTOSH", "TIS-620",
    "VISCII", "UTF-7", "UTF-16LE", "UTF-32BE", "IBM037", "IBM500", "IBM1047", "IBM1148", "EBCDIC-UK", "IBM1390", "NO-SUCH"]
modules = ["lib2to3.pgen2.driver", "lib2to3.fixer_base", "distutils.core", "readline", "dbm.ndbm", "sqlite3", "venv", "wsgiref", "xml.etree", "crypt"]
# What later Pythons have no more.
modules = [name for name in modules if name.split(".")[0] in sys.stdlib_module_names]
print(json.dumps({
    "libraries": [find_library(name) for name in libraries],
    "loads": all(ctypes.CDLL(find_library(name)) for name in libraries[:-1]),
    "charsets": [name for name in charsets if not converts(name)],
    "terminals": [colors(term) for term in ("xterm", "xterm-256color", "screen", "tmux", "linux", "vt100", "dumb")],
    "time": [time.tzname, os.path.realpath("/etc/localtime"), open("/etc/timezone").read()],
    "zone": str(zoneinfo.ZoneInfo("Europe/Paris").utcoffset(datetime.datetime(2024, 7, 1))),
    "user": [getpass.getuser(), pwd.getpwuid(os.getuid()).pw_dir, grp.getgrgid(os.getgid()).gr_name],
    "locale": locale.setlocale(locale.LC_ALL, ""),
    "types": [mimetypes.guess_type("a." + end)[0] for end in ("csv", "webp", "md")],
    "old zone": str(zoneinfo.ZoneInfo("US/Eastern")),
    "service": socket.getservbyname("https"),
    "authorities": ssl.create_default_context().cert_store_stats()["x509_ca"] > 100,
    "paths": [os.path.exists(path) for path in (ssl.get_default_verify_paths().cafile, ssl.get_default_verify_paths().capath, "/usr/lib/ssl/openssl.cnf")],
    "places": [os.path.realpath(path) for path in ("/var/run", "/var/lock")] + [path for path in ("/srv", "/usr/local/lib", "/etc/shells") if os.path.exists(path)],
    "network": open("/etc/networks").read().splitlines()[1],
    "missing": [found for found in map(imports, modules) if found],
}))
"#;
    let expected = json!({
        "libraries": ["libc.so.6", "libm.so.6", "libz.so.1", "libssl.so.3", "libcrypto.so.3", "libstdc++.so.6", "libgomp.so.1",
            "libffi.so.8", "libsqlite3.so.0", "libbz2.so.1.0", "liblzma.so.5", "libexpat.so.1", "libuuid.so.1", null],
        "loads": true,
        "charsets": ["EBCDIC-UK", "IBM1390", "NO-SUCH"],
        "terminals": [8, 256, 8, 8, 8, -1, -1],
        "time": [["UTC", "UTC"], "/usr/share/zoneinfo/Etc/UTC", "Etc/UTC\n"],
        "zone": "2:00:00",
        "old zone": "US/Eastern",
        "user": ["mecapy", "/app", "mecapy"],
        "locale": "C.UTF-8",
        "types": ["text/csv", "image/webp", "text/markdown"],
        "service": 443,
        "authorities": true,
        "paths": [true, true, true],
        "places": ["/run", "/run/lock", "/srv", "/usr/local/lib"],
        "network": "loopback 127.0.0.0",
        "missing": [],
    });
    for python in PYTHONS {
        let seen = on_base(
            &format!("python-{python}"),
            &format!("case-system:{python}"),
            code,
            None,
        );
        assert_eq!(seen, expected, "{python}: {seen:#}");
    }
}

/// A cache that is what ldconfig would write knows all libraries, in the order in which the loader searches.
pub(super) const OWN_CACHE: &str = r#"
import json, subprocess
def listed(*more):
    shown = subprocess.run(["/sbin/ldconfig", "-p", *more], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if line.startswith("\t")]
subprocess.run(["/sbin/ldconfig", "-X", "-C", "/tmp/own.cache"], check=True)
ours, theirs = listed(), listed("-C", "/tmp/own.cache")
print(json.dumps([len(ours) > 30, [line for line in zip(ours, theirs) if line[0] != line[1]], len(ours) - len(theirs)]))
"#;

#[test]
fn the_cache_of_the_loader_is_what_ldconfig_would_write() {
    for base in ["python-3.11", "python-3.11-slim", "python-3.13", "python-3.13-slim"] {
        assert_eq!(
            on_base(base, &format!("case-cache-{base}:1"), OWN_CACHE, None),
            json!([true, [], 0]),
            "{base}"
        );
    }
}

#[test]
fn the_slim_base_has_the_programs_of_a_slim_image() {
    let code = r#"
import json, os, shutil, subprocess
os.chdir("/tmp")
def sh(line):
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()
print(json.dumps([
    sh("echo 1 2 | awk '{print $2}'"), sh("echo x | nawk '{print $1 NR}'"),
    sh("echo one > a; tar -czf a.tgz a; rm a; tar -xzf a.tgz; cat a; gzip a; zcat a.gz; gunzip a.gz; echo two > b; diff a b"),
    sh("echo Zürich | iconv -t latin1 | wc -c"), sh("getent passwd 1000 | cut -d: -f1"), sh("locale -a"),
    sh("find /etc -name os-release | xargs basename"), sh("echo abc | sed s/b/x/ | grep -c axc"), sh("hostname | wc -l"),
    sh("openssl version | cut -d' ' -f1"), sh("getconf PAGESIZE"), sh("ldd /usr/bin/python3 | grep -c 'not found'"),
    sh("which which awk sh no-such"), sh("head -3 /etc/shells | tail -2"), [name for name in ("env", "xargs", "cmp", "bash", "date", "sort") if not shutil.which(name)],
]))
"#;
    let expected = json!([
        "2",
        "x1",
        "one\none\n1c1\n< one\n---\n> two",
        "7",
        "mecapy",
        "C\nC.utf8\nPOSIX",
        "os-release",
        "1",
        "1",
        "OpenSSL",
        "4096",
        "0",
        "/usr/bin/which\n/usr/bin/awk\n/usr/bin/sh",
        "/usr/bin/sh\n/bin/bash",
        [],
    ]);
    for python in PYTHONS {
        let (base, name) = (format!("python-{python}-slim"), format!("case-programs:{python}"));
        let seen = on_base(&base, &name, code, None);
        assert_eq!(seen, expected, "{python}: {seen:#}");
    }
}

#[test]
fn a_base_of_debians_python_has_at_most_60_megabytes_without_bytecode() {
    let (gantry, scratch) = (shared(), tempfile::tempdir().unwrap());
    let names: Vec<String> = serde_json::from_str(&gantry.ok(["base", "ls", "--json"])).unwrap();
    // Those with wheels have the layer of the one without.
    let names = names
        .iter()
        .filter(|name| !name.ends_with("-numpy") && !name.ends_with("-scipy"));
    let mut sizes = Vec::new();
    for name in names {
        let report = scratch.path().join(name);
        let done = gantry.gantry(["base", "build", name, "--report", report.to_str().unwrap()]);
        // What Debian has is within reach; an archive of an interpreter need not be.
        if done.code == 4 && done.stderr.contains(&format!("the interpreter of base {name}")) {
            eprintln!("not measured: {name}: {}", done.stderr);
            continue;
        }
        assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        // The bottom one; on it lies its bytecode.
        let base = &report["layers"][0];
        assert!(base["reason"].as_str().unwrap().starts_with("base "), "{base}");
        sizes.push((name, base["unpacked_bytes"].as_u64().unwrap()));
    }
    assert!(
        sizes.len() >= 4,
        "3.11 and 3.13, each with a shell and without: {sizes:?}"
    );
    // An interpreter with OpenSSL, SQLite and more in itself is 20 MB larger than Debian's.
    let most = |name: &str| match name.starts_with("python-3.12") {
        true => 80_000_000,
        false => 60_000_000,
    };
    let is_small = |(name, size): &(&String, u64)| (30_000_000..=most(name)).contains(size);
    assert!(sizes.iter().all(is_small), "{sizes:?}");
}

#[test]
fn python_knows_the_directory_of_its_packages() {
    let code = r#"
import json, os, site, six, sys, sysconfig
where = os.path.dirname(six.__file__)
print(json.dumps([
    where, where in sys.path, site.getsitepackages()[0] == where,
    [sysconfig.get_path(name) == where for name in ("purelib", "platlib")],
    [sysconfig.get_path(name) for name in ("scripts", "data", "stdlib")],
    # Its bytecode is used, and says the name that it was imported by.
    os.path.exists(six.__cached__), six.with_metaclass.__code__.co_filename == six.__file__,
    os.path.realpath(where),
]))
"#;
    for python in PYTHONS {
        let (base, name) = (format!("python-{python}"), format!("case-site:{python}"));
        let seen = on_base(&base, &name, code, Some("six==1.16.0\n"));
        let expected = json!([
            format!("/opt/py/lib/python{python}/site-packages"),
            true,
            true,
            [true, true],
            ["/opt/py/bin", "/opt/py", format!("/usr/lib/python{python}")],
            true,
            true,
            "/opt/py/site",
        ]);
        assert_eq!(seen, expected);
    }
}
