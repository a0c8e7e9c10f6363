//! What functions need of the system: libraries and programs of Debian, named in `packages.txt`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::base::OWN_CACHE;
use super::{assert_prints, case, case_with, directory, prints};
use crate::bases::{hex, Key, Server};
use crate::common::{done, function, shared, tool, Done};

/// What VTK needs to start.
const ROOM: &[&str] = &["--memory", "2g"];

#[test]
fn gmsh_has_its_libraries_and_the_build_nothing_to_warn_of() {
    prints("gmsh-box", "True\n");
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let case = directory("gmsh-box");
    shared().ok(["build", case.to_str().unwrap(), "--report", report.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["warnings"], serde_json::json!([]));
    let packages = report["system_packages"].as_array().unwrap();
    let find = |name: &str| packages.iter().find(|package| package["name"] == name).unwrap();
    assert_eq!(find("libgl1")["requested"], true);
    assert_eq!(find("libx11-6")["requested"], false);
    let layers = report["layers"].as_array().unwrap();
    let at = |reason: &str| {
        layers
            .iter()
            .position(|layer| layer["reason"].as_str().unwrap().starts_with(reason))
    };
    assert!(
        at("base") < at("system packages") && at("system packages") < at("wheel"),
        "{layers:#?}"
    );
    assert!(layers.iter().all(|layer| layer["reused"] == true), "{layers:#?}");
}

#[test]
fn graphviz_draws() {
    prints("graphviz-dot", "2 True\nb'\\x89PNG'\n");
}

#[test]
fn numbers_are_written_as_in_france() {
    prints("french-locale", "1\u{202f}234,50\n");
}

#[test]
fn a_report_has_its_pages() {
    assert_prints(&case("weasyprint-pages"), "b'%PDF-' 2\n");
}

#[test]
fn a_plate_has_its_hole() {
    assert_prints(&case_with("cadquery-plate", &[], ROOM).0, "562.3 7\n");
}

/// No machine that a function runs on has a screen or graphics hardware: Mesa draws in memory.
#[test]
fn a_sphere_is_drawn_without_a_screen() {
    assert_prints(
        &case_with("pyvista-picture", &[], ROOM).0,
        "vtkOSOpenGLRenderWindow (80, 120, 3) True\n",
    );
}

#[test]
fn a_film_is_written_and_read() {
    assert_prints(&case("ffmpeg-film"), "h264 320 25\n");
}

#[test]
fn a_function_is_alone_in_its_world_of_mpi() {
    assert_prints(&case("mpi-alone"), "Open MPI v4.1.4 0 1 [3]\n");
}

/// Besides `find_library`, the whole list is what ldconfig would write.
#[test]
fn libraries_of_packages_are_found_by_name() {
    assert_prints(&case("cairosvg-picture"), "libcairo.so.2 (80, 60)\n");
    let ask =
        "from ctypes.util import find_library\nprint(find_library('cairo'), find_library('blas'), find_library('z'))\n";
    let dir = asking(&format!("{ask}{OWN_CACHE}"), "libcairo2\nlibblas3\n");
    shared().build(dir.path(), "case-loader:1");
    let done = shared().run(&["case-loader:1"]);
    assert_prints(&done, "libcairo.so.2 libblas.so.3 libz.so.1\n[true, [], 0]\n");
}

/// A function that asks for `packages`.
fn asking(code: &str, packages: &str) -> tempfile::TempDir {
    let dir = function(code, None);
    fs::write(dir.path().join("packages.txt"), packages).unwrap();
    dir
}

#[test]
fn what_may_not_be_asked_for_is_refused_by_line_before_anything_is_fetched() {
    for (packages, code, says) in [
        (
            "libgl1\n\nnmap\n",
            3,
            "packages.txt, line 3: nmap is not among the packages that [system]",
        ),
        ("graphvis\n", 3, "did you mean graphviz?"),
        ("locales\n", 3, "take locales-all"),
        (
            "libgl1=1.6.0-1\n",
            1,
            "packages.txt, line 1: \"libgl1=1.6.0-1\": versions are not taken",
        ),
        ("--reinstall libgl1\n", 1, "options are not taken"),
        ("https://example.org/a.deb\n", 1, "are not taken"),
    ] {
        let dir = asking("print(1)\n", packages);
        let done = shared().gantry(["build", dir.path().to_str().unwrap()]);
        assert_eq!(done.code, code, "{}", done.stderr);
        assert!(done.stderr.contains(says), "{says:?} is not in:\n{}", done.stderr);
    }
}

/// A package that is made here.
#[derive(Default)]
struct Deb<'a> {
    /// Lines of its control file.
    fields: &'a str,
    /// Path and contents.
    files: &'a [(&'a str, &'a str)],
    /// Path of a set-id file among them.
    set_id: Option<&'a str>,
    /// Path and target.
    link: Option<(&'a str, &'a str)>,
    postinst: Option<&'a str>,
}

/// An archive of packages made here, whose index is signed.
struct Archive {
    server: Server,
    key: Key,
    scratch: tempfile::TempDir,
    packages: String,
}

impl Archive {
    fn new(more: &str) -> Self {
        let archive = Self {
            server: Server::new(),
            key: Key::new(),
            scratch: tempfile::tempdir().unwrap(),
            packages: String::new(),
        };
        let config = format!(
            "[base]\nmirror = \"http://{0}\"\nsecurity_mirror = \"http://{0}\"\nkeyring = {1:?}\n{more}",
            archive.server.address,
            archive.key.0.path().join("keys.gpg")
        );
        fs::write(archive.config(), config).unwrap();
        archive
    }

    fn config(&self) -> PathBuf {
        self.scratch.path().join("config.toml")
    }

    fn add(&mut self, name: &str, deb: &Deb<'_>) {
        let tree = self.scratch.path().join(name);
        let write = |path: &Path, text: &str, mode: u32| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let paragraph = format!(
            "Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: x\nDescription: x\n{}",
            deb.fields
        );
        write(&tree.join("DEBIAN/control"), &paragraph, 0o644);
        for (path, text) in deb.files {
            write(
                &tree.join(path),
                text,
                if deb.set_id == Some(path) { 0o4755 } else { 0o755 },
            );
        }
        if let Some((path, target)) = deb.link {
            fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, tree.join(path)).unwrap();
        }
        if let Some(script) = deb.postinst {
            write(&tree.join("DEBIAN/postinst"), script, 0o755);
        }
        let built = self.scratch.path().join(format!("{name}.deb"));
        tool(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "-Zxz", "-b"])
                .arg(&tree)
                .arg(&built),
        );
        let (bytes, path) = (fs::read(built).unwrap(), format!("pool/main/{name}.deb"));
        let (size, hash) = (bytes.len(), hex(&bytes));
        self.packages += &format!("{paragraph}Filename: {path}\nSize: {size}\nSHA256: {hash}\n\n");
        self.server.put(&path, bytes);
    }

    fn publish(&self) {
        self.server.publish(&self.key, "bookworm", self.packages.as_bytes());
        self.server.publish(&self.key, "bookworm-security", b"");
    }

    fn build(&self, dir: &Path, more: &[&str]) -> Done {
        let mut command = shared().command();
        command.arg("--config").arg(self.config()).arg("build").arg(dir);
        done(command.args(more).output().unwrap())
    }
}

const ALL: &str = "[system]\nallow_all = true\n";

/// Builds a function that asks for `name`, the package `deb` alone; it is refused, and `says` why.
fn refuses(name: &str, deb: &Deb<'_>, code: i32, says: &[&str]) {
    let mut archive = Archive::new(ALL);
    archive.add(name, deb);
    archive.publish();
    let done = archive.build(asking("print(1)\n", name).path(), &[]);
    assert_eq!(done.code, code, "{}", done.stderr);
    for says in says {
        assert!(done.stderr.contains(says), "{says:?} is not in:\n{}", done.stderr);
    }
}

#[test]
fn what_a_package_needs_comes_along_and_stays_without_the_archive() {
    let mut archive = Archive::new("[system]\nallowed = [\"tool-of-test\"]\n");
    let shell = "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/chosen chosen /usr/bin/tool-of-test 10\n";
    archive.add(
        "tool-of-test",
        &Deb {
            fields:
                "Depends: libc6 (>= 2.30), debconf (>= 0.5) | debconf-2.0, virtual-of-test\nRecommends: unheard-of\n",
            files: &[
                ("usr/bin/tool-of-test", "#!/usr/bin/python3\nprint('tool')\n"),
                ("usr/share/man/man1/x.1", "x"),
                ("etc/tool-of-test.conf", "c"),
            ],
            set_id: Some("usr/bin/tool-of-test"),
            postinst: Some(shell),
            ..Deb::default()
        },
    );
    archive.add(
        "provider-of-test",
        &Deb {
            fields: "Provides: virtual-of-test\n",
            files: &[("usr/lib/provided", "provided")],
            ..Deb::default()
        },
    );
    archive.publish();
    let code = "import os, stat, subprocess\nprint(subprocess.check_output(['chosen'], text=True), open('/usr/lib/provided').read(), oct(stat.S_IMODE(os.stat('/usr/bin/chosen').st_mode)), os.path.exists('/usr/share/man'), open('/etc/tool-of-test.conf').read())\n";
    let dir = asking(code, "tool-of-test\n");
    let first = archive.build(dir.path(), &["--tag", "system:chain"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let run = shared().run(&["system:chain"]);
    assert_eq!(run.stdout, "tool\n provided 0o755 False c\n", "{}", run.stderr);
    // The second build asks nobody; one that must ask fails while the archive is away.
    let asked = archive.server.asked("");
    let again = archive.build(dir.path(), &["--tag", "system:chain"]);
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (0, first.stdout.as_str()),
        "{}",
        again.stderr
    );
    assert_eq!(archive.server.asked(""), asked);
    archive.server.fail("503 Service Unavailable");
    let refused = archive.build(dir.path(), &["--upgrade"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    // Another function may not ask for what comes along with this one.
    let done = archive.build(asking("print(1)\n", "provider-of-test\n").path(), &[]);
    assert_eq!(done.code, 3, "{}", done.stderr);
}

#[test]
fn a_script_that_nobody_has_read_refuses_its_package() {
    let shell = "#!/bin/sh\nset -e\nadduser --system daemon-of-test\n";
    let deb = Deb {
        postinst: Some(shell),
        ..Deb::default()
    };
    refuses(
        "daemon-of-test",
        &deb,
        3,
        &[
            "refuse system package daemon-of-test",
            "postinst",
            "adduser --system daemon-of-test",
        ],
    );
}

#[test]
fn no_file_of_the_base_is_replaced_and_nothing_lies_outside_of_the_system() {
    let says = |path: &str, reason: &str| format!("{path:?}: {reason}");
    for (name, deb, path, reason) in [
        (
            "other-os-release",
            Deb {
                files: &[("usr/lib/os-release", "ID=other\n")],
                ..Deb::default()
            },
            "usr/lib/os-release",
            "the base has something else there",
        ),
        (
            "link-in-place",
            Deb {
                link: Some(("usr/bin/python3", "/etc/passwd")),
                ..Deb::default()
            },
            "usr/bin/python3",
            "the base has something else there",
        ),
        (
            "file-for-directory",
            Deb {
                files: &[("usr/share/zoneinfo", "x")],
                ..Deb::default()
            },
            "usr/share/zoneinfo",
            "the base has something else there",
        ),
        (
            "into-the-code",
            Deb {
                files: &[("app/user_function.py", "x")],
                ..Deb::default()
            },
            "app",
            "packages install nothing there",
        ),
        (
            "into-the-wheels",
            Deb {
                files: &[("opt/py/site/numpy.py", "x")],
                ..Deb::default()
            },
            "opt/py",
            "packages install nothing there",
        ),
    ] {
        refuses(name, &deb, 3, &[&says(path, reason)]);
    }
}

#[test]
fn what_is_not_to_be_had_is_named_with_who_needs_it() {
    let needs = |fields: &'static str| Deb {
        fields,
        ..Deb::default()
    };
    refuses(
        "needs-newer",
        &needs("Depends: libc6 (>= 99)\n"),
        1,
        &["needs-newer needs libc6 (>= 99)", "the base has libc6 2."],
    );
    refuses(
        "needs-nobody",
        &needs("Pre-Depends: unheard-of-library\n"),
        1,
        &[
            "needs-nobody needs unheard-of-library",
            "the archive has no unheard-of-library",
        ],
    );
    refuses(
        "excludes-libc",
        &needs("Conflicts: libc6\n"),
        1,
        &["excludes-libc 1 does not go with libc6"],
    );
    let archive = Archive::new(ALL);
    archive.publish();
    let done = archive.build(asking("print(1)\n", "unheard-of\n").path(), &[]);
    assert!(
        done.code == 1
            && done
                .stderr
                .contains("line 1: Debian bookworm has no package unheard-of"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_base_that_does_not_say_what_it_has_gets_no_packages() {
    let hidden: serde_json::Map<String, Value> = [("var/lib/dpkg".to_owned(), Value::Null)].into_iter().collect();
    let (_scratch, base) = crate::bases::foreign(&Value::Object(hidden), None);
    let dir = asking("print(1)\n", "libgl1\n");
    let done = shared().gantry(["build", dir.path().to_str().unwrap(), "--base", &base]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(
        done.stderr.contains("does not say which Debian packages it has"),
        "{}",
        done.stderr
    );
}
