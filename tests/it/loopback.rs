//! Runs with `--network loopback`: servers and clients of one run. What it does not reach is in `egress.rs`, in the small
//! internet there.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::common::port::ClosedPort;
use crate::common::{function, shared, Done};
use serde_json::Value;

const LOOPBACK: [&str; 2] = ["--network", "loopback"];

fn run(name: &str, code: &str, requirements: Option<&str>, args: &[&str]) -> (Done, Value) {
    shared().build(function(code, requirements).path(), name);
    shared().run_with_outcome(&[&LOOPBACK[..], args, &[name]].concat())
}

#[test]
fn servers_of_both_families_answer_clients_of_the_run() {
    let code = r#"
import asyncio, http.server, socket, threading, urllib.request
from multiprocessing.managers import BaseManager

class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer")
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
for host in ("127.0.0.1", "localhost", socket.gethostname()):
    print(urllib.request.urlopen(f"http://{host}:{server.server_port}/").read())
server.shutdown()

async def echo(host):
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    server = await asyncio.start_server(serve, host, 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"over {host}\n".encode())
    line = await reader.readline()
    server.close()
    return line
for host in ("127.0.0.1", "::1"):
    print(asyncio.run(echo(host)))

manager = BaseManager(address=("127.0.0.1", 0), authkey=b"key")
manager.start()
print(manager.address[0])
manager.shutdown()
"#;
    let (done, outcome) = run("loopback:servers", code, None, &[]);
    let expected = "b'answer'\nb'answer'\nb'answer'\nb'over 127.0.0.1\\n'\nb'over ::1\\n'\n127.0.0.1\n";
    assert_eq!((done.code, done.stdout.as_str()), (0, expected), "{}", done.stderr);
    assert_eq!(outcome["limits"]["network"], "loopback");
    assert_eq!(outcome["enforced"]["network"], "enforced");
}

#[test]
fn a_notebook_runs_with_a_kernel_of_its_own() {
    let code = r#"
import nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
NotebookClient(notebook, kernel_name="python3", timeout=600).execute()
print(notebook.cells[0].outputs[0].text.strip())
"#;
    let requirements = "nbclient\nnbformat\nipykernel\n";
    let limits = ["--pids", "128", "--timeout", "600s"];
    let (done, _) = run("loopback:notebook", code, Some(requirements), &limits);
    assert_eq!((done.code, done.stdout.as_str()), (0, "42\n"), "{}", done.stderr);
}

#[test]
fn the_loopback_of_the_host_and_of_other_runs_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let abstract_name = format!("gantry-loopback-{port}");
    let local = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    let code = r#"
import errno, os, socket, sys
def word(family, address):
    with socket.socket(family) as connection:
        return errno.errorcode.get(connection.connect_ex(address), "ok")
port, name = int(sys.argv[1]), sys.argv[2]
print(word(socket.AF_INET, ("127.0.0.1", port)), word(socket.AF_UNIX, "\0" + name))
# The same port is free here, and a run beside this one has it, too.
server = socket.create_server(("0.0.0.0", port))
print(word(socket.AF_INET, ("127.0.0.1", port)))
"#;
    let name = "loopback:host";
    shared().build(function(code, None).path(), name);
    let done = shared().run(&["--network", "loopback", name, &port.to_string(), &abstract_name]);
    assert_eq!(done.stdout, "ECONNREFUSED ECONNREFUSED\nok\n", "{}", done.stderr);
    // The positive twin: both are there for whoever is on the host.
    for connected in [
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop),
        std::os::unix::net::UnixStream::connect_addr(&local.local_addr().unwrap()).map(drop),
    ] {
        connected.unwrap();
    }
}

#[test]
fn nobody_outside_reaches_a_server_of_the_run() {
    let code = r#"
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("up", flush=True)
sys.stdin.read()
"#;
    // Nobody on the host listens at it.
    let port = ClosedPort::new();
    let name = "loopback:server";
    shared().build(function(code, None).path(), name);
    let mut command = shared().command();
    command.args([
        "run",
        "--allow-degraded",
        crate::common::DEGRADED,
        "-i",
        "--network",
        "loopback",
        name,
        port.number(),
    ]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let reached = std::net::TcpStream::connect(&port.host);
    assert!(reached.is_err(), "{reached:?}");
    child.stdin.take().unwrap().write_all(b"end").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_machine_may_forbid_it_and_egress_is_something_else() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config.toml");
    std::fs::write(&config, "[run]\nloopback_allowed = false\n").unwrap();
    let (done, _) = shared().try_python("loopback:plain", "print(1)\n", &[]);
    assert_eq!(done.stdout, "1\n");
    let config = config.to_str().unwrap();
    let refused = shared().gantry(["--config", config, "run", "--network", "loopback", "loopback:plain"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("loopback_allowed"), "{}", refused.stderr);
    let both = [
        "--network",
        "loopback",
        "--egress",
        "service.example.org:80",
        "loopback:plain",
    ];
    let refused = shared().run(&both);
    assert_eq!(refused.code, 125);
    assert!(
        refused.stderr.contains("needs the network as well"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_doctor_tries_it() {
    let done = shared().gantry(["doctor", "--json"]);
    let diagnosis: Value =
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stderr));
    let evidence = diagnosis["promises"]["network"]["evidence"].as_str().unwrap();
    for says in ["127.0.0.1: went through", "to another address: Network is unreachable"] {
        assert!(evidence.contains(says), "{evidence}");
    }
    assert_eq!(diagnosis["promises"]["network"]["level"], "enforced");
}
