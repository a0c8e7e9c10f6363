//! A server of this machine's own Python, for what the real ones do not do on demand.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// What every script begins with: `made_wheel(name, version, files, *requires)` is the name and the bytes of a wheel of
/// `files`, path -> bytes.
const WHEELS: &str = r#"
import base64, hashlib, io, zipfile
def made_wheel(name, version, files, *requires):
    out, info = io.BytesIO(), f"{name.replace('-', '_')}-{version}.dist-info/"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    files = {**files, info + "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        info + "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    def record(path, data):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        return f"{path},sha256={digest},{len(data)}\n"
    files[info + "RECORD"] = ("".join(record(*file) for file in files.items()) + info + "RECORD,,\n").encode()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in files.items(): archive.writestr(path, data)
    return info.removesuffix(".dist-info/") + "-py3-none-any.whl", out.getvalue()
"#;

/// A server that is stopped when this is dropped.
pub struct Server {
    child: Child,
    /// Its port on 127.0.0.1.
    pub port: String,
    scratch: tempfile::TempDir,
}

impl Server {
    /// Starts `script` with the path of its log and `args`; it prints its port once it listens.
    pub fn python<S: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = S>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command
            .arg("-c")
            .arg(format!("{WHEELS}{script}"))
            .arg(scratch.path().join("log"))
            .args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let port = port.trim().to_owned();
        Self { child, port, scratch }
    }

    /// What it has written down.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
