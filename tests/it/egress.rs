//! Runs with egress: what they reach, and that they reach nothing else.
//!
//! Reaching something needs an internet with known answers. The tests make a small one of two network namespaces, in
//! which gantry runs as it is: nothing in it is switched off or replaced.

mod tls;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{function, shared, Done, DEGRADED};
use serde_json::{json, Value};

const PROBE: &str = include_str!("egress/probe.py");

/// What a command in the small internet did.
struct Seen {
    done: Done,
    /// Connections to the neighbour, as `address:port`.
    far: Vec<String>,
    /// Connections to the machine gantry runs on.
    near: Vec<String>,
    /// The outcome of the run.
    outcome: Value,
}

/// Runs `command`, with its arguments and environment, on a machine of the small internet.
fn in_small_internet(command: &Command) -> Seen {
    in_internet_of(command, None)
}

/// As there, with https at port 8444 of the neighbour, when `tls` has a key and a certificate.
fn in_internet_of(command: &Command, tls: Option<&str>) -> Seen {
    let scratch = tempfile::tempdir().unwrap();
    if let Some(tls) = tls {
        fs::write(scratch.path().join("tls.pem"), tls).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/egress/internet.sh");
    let mut wrapped = Command::new("unshare");
    wrapped
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(script)
        .arg(scratch.path())
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = crate::common::done(wrapped.output().unwrap());
    let lines = |name: &str| {
        let text = fs::read_to_string(scratch.path().join(name)).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    Seen {
        done,
        far: lines("far"),
        near: lines("near"),
        outcome: Value::Null,
    }
}

/// Runs `code` in the sandbox, in the small internet.
fn run(name: &str, code: &str, args: &[&str]) -> Seen {
    let gantry = shared();
    gantry.build(function(code, None).path(), name);
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let mut command = gantry.command();
    command
        .args(["run", "--allow-degraded", DEGRADED, "--report"])
        .arg(&report)
        .args(args)
        .arg(name);
    let mut seen = in_small_internet(&command);
    let outcome = fs::read(&report).unwrap_or_else(|error| panic!("no outcome: {error}; {}", seen.done.stderr));
    seen.outcome = serde_json::from_slice(&outcome).unwrap();
    seen
}

/// What came of connecting to each of `targets` from a run with egress to `egress`.
fn reached(name: &str, egress: &[&str], targets: &[&str]) -> (Vec<String>, Seen) {
    let probe = format!("PROBE={}", targets.join(" "));
    let mut args = vec!["--env", &probe, "--network", "egress"];
    args.extend(egress.iter().flat_map(|entry| ["--egress", entry]));
    let seen = run(name, PROBE, &args);
    let answers = serde_json::from_str(&seen.done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", seen.done.stdout, seen.done.stderr));
    (answers, seen)
}

#[test]
fn listed_hosts_are_reached_by_name_and_by_address_and_nothing_else_is() {
    let egress = ["service.example.org:8080", "second.example.org:8443", "11.0.0.1:8443"];
    let expectations = [
        ("service.example.org:8080", "11.0.0.1:8080"),
        ("SERVICE.example.org:8080", "11.0.0.1:8080"),
        ("second.example.org:8443", "11.0.0.1:8443"),
        ("11.0.0.1:8443", "11.0.0.1:8443"),
        // A port that is listed for others only, then one that nobody lists (Landlock).
        ("service.example.org:8443", "ECONNREFUSED"),
        ("11.0.0.1:8080", "ECONNREFUSED"),
        ("service.example.org:9", "EACCES"),
        // Other hosts, other addresses, the neighbour's and this machine's own.
        ("mixed.example.org:8080", "no such name"),
        ("www.service.example.org:8080", "no such name"),
        ("10.9.9.9:8080", "ENETUNREACH"),
        ("169.254.169.254:8080", "ENETUNREACH"),
        ("11.0.0.2:8080", "ENETUNREACH"),
        ("127.0.0.1:8080", "ECONNREFUSED"),
        ("localhost:8080", "ECONNREFUSED"),
    ];
    let (answers, seen) = reached("egress:listed", &egress, &expectations.map(|(target, _)| target));
    assert_eq!(answers, expectations.map(|(_, answer)| answer), "{}", seen.done.stderr);
    assert_eq!((seen.done.code, seen.done.stderr.as_str()), (0, ""));
    assert_eq!(
        seen.far,
        ["11.0.0.1:8080", "11.0.0.1:8080", "11.0.0.1:8443", "11.0.0.1:8443"]
    );
    assert_eq!(seen.near, Vec::<String>::new());
    let page = include_str!("../../docs/functions.md");
    assert!(page.contains("`Connection refused`, `Network is unreachable`, or `Permission denied` from `connect`"));
    assert_eq!(seen.outcome["enforced"]["network"], "enforced");
    let (_, plain) = shared().try_python("egress:plain", "print(1)\n", &[]);
    let fields = |outcome: &Value| outcome.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&seen.outcome), fields(&plain), "egress adds no field");
}

#[test]
fn a_name_of_a_private_an_own_or_a_metadata_address_is_refused_and_said_once() {
    let hosts = ["private", "metadata", "loopback", "own", "secondary"].map(|name| format!("{name}.example.org:8080"));
    let hosts = hosts.each_ref().map(String::as_str);
    let thrice: Vec<&str> = hosts.iter().flat_map(|host| [*host; 3]).collect();
    let (answers, seen) = reached("egress:refused", &hosts, &thrice);
    assert_eq!(answers, ["ECONNRESET"; 15]);
    assert_eq!(
        (seen.far.len(), seen.near.len()),
        (0, 0),
        "{:?} {:?}",
        seen.far,
        seen.near
    );
    let expected = [
        "gantry: egress to loopback.example.org:8080: refused, for its address 127.0.0.1 is loopback",
        "gantry: egress to metadata.example.org:8080: refused, for its address 169.254.169.254 is link-local or metadata",
        "gantry: egress to own.example.org:8080: refused, for its address 11.0.0.2 is of this machine",
        "gantry: egress to private.example.org:8080: refused, for its address 10.9.9.9 is private",
        "gantry: egress to secondary.example.org:8080: refused, for its address 11.0.0.3 is of this machine",
    ];
    assert_eq!(seen.done.stderr.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_refused_could_be_reached_without_the_sandbox() {
    // The positive twin: the same probe on the same machine, so the tests above can fail.
    let scratch = tempfile::tempdir().unwrap();
    let script = scratch.path().join("probe.py");
    fs::write(&script, PROBE).unwrap();
    let targets = [
        "10.9.9.9:8080",
        "169.254.169.254:8080",
        "127.0.0.1:8080",
        "11.0.0.2:8080",
        "11.0.0.3:8080",
    ];
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(script)
        .env("PROBE", targets.join(" "))
        .env("PATH", "/usr/bin:/bin");
    let seen = in_small_internet(&command);
    assert_eq!(
        seen.done.stdout.trim(),
        json!(targets).to_string().replace(",", ", "),
        "{}",
        seen.done.stderr
    );
    assert_eq!((seen.far.len(), seen.near.len()), (2, 3));
}

#[test]
fn a_name_that_changes_its_address_is_judged_each_time() {
    let rebind = "rebind.example.org:8080";
    let (answers, seen) = reached("egress:rebind", &[rebind], &[rebind; 4]);
    assert_eq!(answers, ["11.0.0.1:8080", "ECONNRESET", "11.0.0.1:8080", "ECONNRESET"]);
    assert_eq!(seen.far, ["11.0.0.1:8080"; 2]);
    assert!(seen.done.stderr.contains("10.9.9.9 is private"), "{}", seen.done.stderr);
}

#[test]
fn of_several_addresses_the_public_one_is_taken() {
    let (answers, seen) = reached("egress:mixed", &["mixed.example.org:8443"], &["mixed.example.org:8443"]);
    assert_eq!(answers, ["11.0.0.1:8443"]);
    assert_eq!(seen.far, ["11.0.0.1:8443"]);
}

#[test]
fn large_transfers_arrive_whole_and_each_direction_ends_by_itself() {
    let code = r#"
import hashlib, os, socket, threading
sent = os.urandom(1 << 20) * 16
connection = socket.create_connection(('service.example.org', 8080))
def send():
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
with connection.makefile('rb') as stream:
    stream.readline()
    received = stream.read()
print(received == sent, len(received))
"#;
    let args = ["--network", "egress", "--egress", "service.example.org:8080"];
    let seen = run("egress:large", code, &args);
    assert_eq!(seen.done.stdout, "True 16777216\n", "{}", seen.done.stderr);
}

#[test]
fn open_connections_do_not_delay_the_end_of_a_run() {
    let code = r#"
import os, socket
open_ones = [socket.create_connection(('service.example.org', 8080)) for _ in range(20)]
# This one never gets an answer: gantry is still trying.
trying = socket.create_connection(('silent.example.org', 8080))
for connection in open_ones:
    connection.recv(1)
os._exit(7)
"#;
    let args = [
        "--network",
        "egress",
        "--egress",
        "service.example.org:8080",
        "--egress",
        "silent.example.org:8080",
    ];
    let seen = run("egress:open", code, &args);
    assert_eq!(seen.done.code, 7, "{}", seen.done.stderr);
    let teardown = seen.outcome["phases_ms"]["teardown"].as_f64().unwrap();
    // An attempt to connect takes 10 s.
    assert!(teardown < 5000.0, "{teardown} ms");
}

#[test]
fn only_tcp_over_ipv4_has_sockets_and_nothing_can_be_bound() {
    let code = r#"
import ctypes, errno, json, os, socket
def errno_of(call):
    try:
        call()
        return 0
    except socket.gaierror:
        return 'no such name'
    except OSError as error:
        return errno.errorcode[error.errno]
def sock(*kind):
    return lambda: socket.socket(*kind).close()
tcp = lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
print(json.dumps({
    'tcp': errno_of(sock(socket.AF_INET, socket.SOCK_STREAM)),
    'unix datagrams': errno_of(sock(socket.AF_UNIX, socket.SOCK_DGRAM)),
    'unix pair': errno_of(lambda: socket.socketpair()),
    'udp': errno_of(sock(socket.AF_INET, socket.SOCK_DGRAM)),
    'raw': errno_of(sock(socket.AF_INET, socket.SOCK_RAW, 1)),
    'ping': errno_of(sock(socket.AF_INET, socket.SOCK_DGRAM, 1)),
    'mptcp': errno_of(sock(socket.AF_INET, socket.SOCK_STREAM, 262)),
    'sctp': errno_of(sock(socket.AF_INET, socket.SOCK_STREAM, 132)),
    'tcp6': errno_of(sock(socket.AF_INET6, socket.SOCK_STREAM)),
    'udp6': errno_of(sock(socket.AF_INET6, socket.SOCK_DGRAM)),
    'netlink': errno_of(sock(socket.AF_NETLINK, socket.SOCK_RAW)),
    'packet': errno_of(sock(socket.AF_PACKET, socket.SOCK_RAW)),
    'vsock': errno_of(sock(40, socket.SOCK_STREAM)),
    'alg': errno_of(sock(38, socket.SOCK_SEQPACKET)),
    'inet pair': errno_of(lambda: socket.socketpair(socket.AF_INET)),
    'bind': errno_of(lambda: tcp().bind(('127.0.0.1', 8081))),
    'bind listed': errno_of(lambda: tcp().bind(('127.0.0.1', 8080))),
    'fast open': errno_of(lambda: tcp().sendto(b'x', 0x20000000, ('127.77.0.1', 8080))),
    'tls of the kernel': errno_of(lambda: tcp().setsockopt(6, 31, b'tls')),
    'unlisted name': errno_of(lambda: socket.getaddrinfo('other.example.org', 80)),
    'listed name': sorted({entry[4][0] for entry in socket.getaddrinfo('service.example.org', 80)}),
    'write hosts': errno_of(lambda: open('/etc/hosts', 'a')),
    'hosts': open('/etc/hosts').read(),
    'interfaces': [line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:]],
    'passwd': os.path.exists('/etc/passwd'),
}))
"#;
    let args = ["--network", "egress", "--egress", "service.example.org:8080"];
    let (done, _) = shared().try_python("egress:sockets", code, &args);
    let seen: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stderr));
    let unsupported = "EAFNOSUPPORT";
    assert_eq!(
        seen,
        json!({
            "tcp": 0, "unix datagrams": 0, "unix pair": 0,
            "udp": unsupported, "raw": unsupported, "ping": unsupported, "mptcp": unsupported, "sctp": unsupported,
            "tcp6": unsupported, "udp6": unsupported, "netlink": unsupported, "packet": unsupported,
            "vsock": unsupported, "alg": unsupported, "inet pair": unsupported,
            "bind": "EACCES", "bind listed": "EACCES", "fast open": "EPERM", "tls of the kernel": "EPERM",
            "unlisted name": "no such name", "listed name": ["127.77.0.1"], "write hosts": "EROFS",
            "hosts": "127.0.0.1 localhost\n127.0.0.1 sandbox\n127.77.0.1 service.example.org\n",
            "interfaces": ["lo"], "passwd": true,
        })
    );
}

#[test]
fn a_run_with_loopback_reaches_nothing_of_the_small_internet() {
    let expectations = [
        ("127.0.0.1:8080", "ECONNREFUSED"),
        ("localhost:8080", "ECONNREFUSED"),
        ("sandbox:8080", "ECONNREFUSED"),
        ("0.0.0.0:8080", "ECONNREFUSED"),
        ("11.0.0.1:8080", "ENETUNREACH"),
        ("11.0.0.2:8080", "ENETUNREACH"),
        ("11.0.0.3:8080", "ENETUNREACH"),
        ("10.9.9.9:8080", "ENETUNREACH"),
        ("169.254.169.254:8080", "ENETUNREACH"),
        ("service.example.org:8080", "no such name"),
        ("www.service.example.org:8080", "no such name"),
    ];
    let targets = expectations.map(|(target, _)| target);
    let probe = format!("PROBE={}", targets.join(" "));
    let seen = run("egress:loopback", PROBE, &["--env", &probe, "--network", "loopback"]);
    let answers: Vec<String> = serde_json::from_str(&seen.done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", seen.done.stdout, seen.done.stderr));
    assert_eq!(answers, expectations.map(|(_, answer)| answer));
    assert_eq!((seen.far, seen.near), (Vec::new(), Vec::new()));
    assert_eq!(seen.outcome["enforced"]["network"], "enforced");
}

#[test]
fn with_loopback_only_tcp_has_sockets() {
    let code = r#"
import errno, json, socket
def errno_of(call):
    try:
        call()
        return 0
    except OSError as error:
        return errno.errorcode[error.errno]
def sock(*kind):
    return lambda: socket.socket(*kind).close()
tcp = lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
def option(family, level, name, value=1):
    def set_option():
        with socket.socket(family) as one:
            one.setsockopt(level, name, value)
    return set_option
print(json.dumps({
    'tcp': errno_of(sock(socket.AF_INET, socket.SOCK_STREAM)),
    'tcp6': errno_of(sock(socket.AF_INET6, socket.SOCK_STREAM)),
    'unix pair': errno_of(lambda: socket.socketpair()),
    'udp': errno_of(sock(socket.AF_INET, socket.SOCK_DGRAM)),
    'udp6': errno_of(sock(socket.AF_INET6, socket.SOCK_DGRAM)),
    'raw': errno_of(sock(socket.AF_INET, socket.SOCK_RAW, 1)),
    'raw6': errno_of(sock(socket.AF_INET6, socket.SOCK_RAW, 58)),
    'ping': errno_of(sock(socket.AF_INET, socket.SOCK_DGRAM, 1)),
    'mptcp': errno_of(sock(socket.AF_INET, socket.SOCK_STREAM, 262)),
    'sctp': errno_of(sock(socket.AF_INET6, socket.SOCK_STREAM, 132)),
    'netlink': errno_of(sock(socket.AF_NETLINK, socket.SOCK_RAW)),
    'packet': errno_of(sock(socket.AF_PACKET, socket.SOCK_RAW)),
    'vsock': errno_of(sock(40, socket.SOCK_STREAM)),
    'alg': errno_of(sock(38, socket.SOCK_SEQPACKET)),
    'inet pair': errno_of(lambda: socket.socketpair(socket.AF_INET)),
    'low port': errno_of(lambda: tcp().bind(('127.0.0.1', 80))),
    'address of others': errno_of(lambda: tcp().bind(('192.0.2.1', 8080))),
    'both families': errno_of(option(socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)),
    'multicast': errno_of(option(socket.AF_INET, 0, 35, b'x' * 8)),
    'tls of the kernel': errno_of(option(socket.AF_INET, 6, 31, b'tls')),
    'filter of packets': errno_of(option(socket.AF_INET, 1, 26, b'x' * 16)),
    'interfaces': [line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:]],
}))
"#;
    let (done, _) = shared().try_python("egress:loopback-sockets", code, &["--network", "loopback"]);
    let seen: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stderr));
    let invalid = "EINVAL";
    assert_eq!(
        seen,
        json!({
            "tcp": 0, "tcp6": 0, "unix pair": 0, "both families": 0,
            "udp": invalid, "udp6": invalid, "raw": invalid, "raw6": invalid, "ping": invalid,
            "mptcp": invalid, "sctp": invalid, "netlink": invalid, "packet": invalid,
            "vsock": invalid, "alg": invalid, "inet pair": "EAFNOSUPPORT",
            "low port": "EACCES", "address of others": "EADDRNOTAVAIL", "multicast": "EPERM",
            "tls of the kernel": "EPERM", "filter of packets": "EPERM", "interfaces": ["lo"],
        })
    );
}

#[test]
fn without_egress_there_is_no_socket_no_thread_and_no_word_to_the_network() {
    let gantry = shared();
    let code = r#"
import errno, socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
except OSError as error:
    print(errno.errorcode[error.errno])
"#;
    gantry.build(function(code, None).path(), "egress:none");
    let scratch = tempfile::tempdir().unwrap();
    let calls = |more: &[&str]| {
        let log = scratch.path().join("calls");
        let plain = gantry.command();
        let mut command = Command::new("strace");
        command
            .args(["-f", "-e", "trace=clone,clone3,socket,epoll_create1", "-o"])
            .arg(&log)
            .arg(plain.get_program())
            .args(["run", "--allow-degraded", DEGRADED])
            .args(more)
            .arg("egress:none")
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let stdout = crate::common::tool(&mut command);
        (stdout, fs::read_to_string(log).unwrap())
    };
    // Python makes an epoll of its own, so of that call only gantry's own lines count.
    let made = |log: &str, call: &str| {
        let gantry = log.split_whitespace().next().unwrap();
        log.lines()
            .filter(|line| call != "epoll_create1" || line.starts_with(gantry))
            .any(|line| line.contains(call))
    };
    let (stdout, without) = calls(&[]);
    assert_eq!(stdout, "EAFNOSUPPORT\n");
    for call in ["CLONE_THREAD", "AF_NETLINK", "epoll_create1"] {
        assert!(!made(&without, call), "{without}");
    }
    // The positive twin: the same look at a run with egress sees all of them.
    let (_, with) = calls(&["--network", "egress", "--egress", "service.example.org:8080"]);
    for call in ["CLONE_THREAD", "AF_NETLINK", "epoll_create1"] {
        assert!(made(&with, call), "{with}");
    }
}

#[test]
fn mistakes_are_refused_before_anything_starts() {
    let gantry = shared();
    let cases: [(&[&str], &str); 9] = [
        (&["--egress", "service.example.org:80"], "needs the network as well"),
        (
            &["--network", "none", "--egress", "service.example.org:80"],
            "needs the network as well",
        ),
        (&["--network", "egress"], "at least one"),
        (&["--network", "egress", "--egress", "localhost:80"], "localhost"),
        (&["--network", "egress", "--egress", "127.0.0.1:80"], "loopback"),
        (&["--network", "egress", "--egress", "169.254.169.254:80"], "metadata"),
        (&["--network", "egress", "--egress", "service.example.org"], "HOST:PORT"),
        (&["--network", "egress", "--egress", "service.example.org:0"], "port"),
        (&["--network", "all"], "none, loopback or egress"),
    ];
    for (args, says) in cases {
        let done = gantry.run(&[args, &["egress:nothing"]].concat());
        assert_eq!(done.code, 125, "{args:?}");
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }
    let many: Vec<String> = (0..65)
        .map(|number| format!("--egress=h{number}.example.org:80"))
        .collect();
    let mut args = vec!["--network", "egress"];
    args.extend(many.iter().map(String::as_str));
    args.push("egress:nothing");
    assert!(gantry.run(&args).stderr.contains("at most 64"));
}

#[test]
fn a_job_lists_its_egress_and_the_machine_bounds_it() {
    let gantry = shared();
    let code = "print(open('/etc/hosts').read())";
    gantry.build(function(code, None).path(), "egress:job");
    let scratch = tempfile::tempdir().unwrap();
    let (job, config) = (scratch.path().join("job.json"), scratch.path().join("config.toml"));
    let run = |egress: Value, network: &str, allowed: &str| {
        fs::write(
            &job,
            json!({"image": "egress:job", "network": network, "egress": egress}).to_string(),
        )
        .unwrap();
        fs::write(
            &config,
            format!("[run]\nallow_degraded = [\"memory\", \"cpu\"]\n{allowed}\n"),
        )
        .unwrap();
        let (config, job) = (config.to_str().unwrap(), job.to_str().unwrap());
        gantry.gantry(["--config", config, "run", "--job", job])
    };
    let bound = r#"egress_allowed = ["a.example.org:443", "b.example.org:443"]"#;
    let done = run(json!(["a.example.org:443"]), "egress", bound);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("127.77.0.1 a.example.org\n") && !done.stdout.contains("b.example"));
    for (egress, network, says) in [
        (json!(["c.example.org:443"]), "egress", "egress_allowed"),
        (json!(["a.example.org:80"]), "egress", "egress_allowed"),
        (json!(["a.example.org:443"]), "none", "needs the network as well"),
        (json!(["10.0.0.1:443"]), "egress", "private"),
        (json!([]), "egress", "at least one"),
    ] {
        let done = run(egress, network, bound);
        assert_eq!((done.code, done.stdout.as_str()), (125, ""));
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
    }
}

#[test]
fn as_many_listeners_as_can_be_listed_exist() {
    let code = r#"
import socket
for number in range(32):
    for port in (443, 8080):
        socket.create_connection((f'h{number}.example.org', port)).close()
print('connected')
"#;
    let listed: Vec<String> = (0..64)
        .map(|number| format!("--egress=h{}.example.org:{}", number / 2, [443, 8080][number % 2]))
        .collect();
    let mut args = vec!["--network", "egress"];
    args.extend(listed.iter().map(String::as_str));
    let (done, outcome) = shared().try_python("egress:many", code, &args);
    assert_eq!((done.code, done.stdout.as_str()), (0, "connected\n"), "{}", done.stderr);
    assert_eq!(outcome["enforced"]["network"], "enforced");
}
