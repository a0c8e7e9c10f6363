//! A server of this machine's own Python, for what the real ones do not do on demand.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

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
        command.args(["-c", script]).arg(scratch.path().join("log")).args(args);
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
