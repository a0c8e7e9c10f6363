//! Https of a run: whom it trusts.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::in_internet_of;
use crate::common::{add_layer, function, shared, tool, DEGRADED};

/// An authority, and a server of its: the authority's certificate, then key and certificate of service.example.org.
fn authority() -> (String, String) {
    let scratch = tempfile::tempdir().unwrap();
    let make = |name: &str, subject: &str, more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", subject,
            ])
            .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
            .args(more)
            .current_dir(scratch.path());
        tool(&mut openssl);
    };
    make(
        "ca",
        "/CN=Authority of the test",
        &["-addext", "keyUsage=critical,keyCertSign"],
    );
    let server = "subjectAltName=DNS:service.example.org";
    let more = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", server];
    make(
        "server",
        "/CN=service.example.org",
        &[&more[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat(),
    );
    let read = |name: &str| fs::read_to_string(scratch.path().join(name)).unwrap();
    (read("ca.pem"), read("server.key") + &read("server.pem"))
}

#[test]
fn https_trusts_the_authorities_of_the_base_and_those_of_ssl_cert_file() {
    let (gantry, (authority, server)) = (shared(), authority());
    let code = r#"
import ssl, urllib.error, urllib.request
try:
    print(urllib.request.urlopen("https://service.example.org:8444/", timeout=20).read().decode())
except urllib.error.URLError as error:
    print(error.reason.verify_message if isinstance(error.reason, ssl.SSLCertVerificationError) else error.reason)
"#;
    let dir = function(code, None);
    fs::write(dir.path().join("own.pem"), &authority).unwrap();
    gantry.build(dir.path(), "egress:tls");
    // A base whose bundle has the authority besides the usual ones.
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    let base = format!("oci:{}:base", layout.display());
    gantry.ok(["push", "egress:tls", &base]);
    let bundle = "etc/ssl/certs/ca-certificates.crt";
    let (usual, _) = gantry.try_python("egress:bundle", &format!("print(open('/{bundle}').read())"), &[]);
    // Not all of them: the entries of the layer are an argument.
    let usual = usual.stdout.split_inclusive("-----END CERTIFICATE-----\n").take(20);
    add_layer(
        &layout,
        &json!({ bundle: usual.collect::<String>() + &authority }),
        None,
    );
    gantry.ok([
        "build",
        dir.path().to_str().unwrap(),
        "--base",
        &base,
        "--tag",
        "egress:tls-known",
    ]);
    let fetch = |name: &str, more: &[&str]| {
        let mut command = gantry.command();
        command
            .args(["run", "--allow-degraded", DEGRADED, "--network", "egress"])
            .args(["--egress", "service.example.org:8444"])
            .args(more)
            .arg(name);
        in_internet_of(&command, Some(&server)).done
    };
    let cases: [(&str, &[&str], &str); 3] = [
        ("egress:tls-known", &[], "hello\n"),
        ("egress:tls", &[], "unable to get local issuer certificate\n"),
        ("egress:tls", &["--env", "SSL_CERT_FILE=/app/own.pem"], "hello\n"),
    ];
    for (name, more, says) in cases {
        let done = fetch(name, more);
        assert_eq!(done.stdout, says, "{name} {more:?}: {}", done.stderr);
    }
}
