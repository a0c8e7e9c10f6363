//! The distribution's registry on a free port of this machine, without TLS.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};

/// Ended when it is dropped.
pub struct Registry {
    server: Child,
    folder: PathBuf,
    port: String,
    requests: Arc<AtomicUsize>,
}

impl Registry {
    /// An empty one, whose files are below `folder`.
    pub fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
            folder.join("data").display()
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (tell, told) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(server.stdout.take().unwrap()),
            Box::new(server.stderr.take().unwrap()),
        ];
        for stream in streams {
            let (requests, tell) = (Arc::clone(&requests), tell.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some(rest) = line.split("listening on 127.0.0.1:").nth(1) {
                        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                        let _ = tell.send(port);
                    }
                    if line.contains(" /v2/") && line.contains(" HTTP/1.1\" ") {
                        requests.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let port = told.recv().unwrap();
        let this = Self {
            server,
            folder: folder.to_owned(),
            port,
            requests,
        };
        let known = format!("[[registry]]\nhost = \"localhost:{}\"\nplain_http = true\n", this.port);
        fs::write(this.config(), known).unwrap();
        this
    }

    /// The configuration of a gantry that knows it.
    pub fn config(&self) -> PathBuf {
        self.folder.join("gantry.toml")
    }

    /// The whole name of an image there.
    pub fn name(&self, image: &str) -> String {
        format!("localhost:{}/bench/{image}", self.port)
    }

    /// How many requests it answered.
    pub fn requests(&self) -> usize {
        // Its log is written behind the answer.
        std::thread::sleep(std::time::Duration::from_millis(200));
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of its blobs.
    pub fn bytes(&self) -> u64 {
        let mut open = vec![self.folder.join("data/docker/registry/v2/blobs")];
        let mut bytes = 0;
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let meta = entry.metadata().unwrap();
                match meta.is_dir() {
                    true => open.push(entry.path()),
                    false => bytes += meta.len(),
                }
            }
        }
        bytes
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
