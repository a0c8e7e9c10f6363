//! Documents that are no documents, or more of one than anybody needs.

use serde_json::json;

use super::cases::Case;
use super::draft::{config, honest, replaced, Draft, Edit, Says};

fn nested(depth: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
}

/// Puts `text` in front of what an object has.
fn first(text: String) -> Edit {
    Box::new(move |document| document.replacen('{', &format!("{{{text},"), 1))
}

fn manifest_of(manifest: Edit) -> Draft {
    Draft { manifest, ..honest() }
}

fn config_of(config: Edit) -> Draft {
    Draft { config, ..honest() }
}

pub fn documents() -> Vec<Case> {
    let index_json = Says::Text("index.json");
    let index = |index: Edit| Draft { index, ..honest() };
    vec![
        (
            "a config nested 5000 deep",
            "json",
            Says::Config,
            config_of(first(format!("\"x\":{}", nested(5000)))),
        ),
        (
            "a config of lists 100,000 deep",
            "json",
            Says::Config,
            config_of(Box::new(|_| "[".repeat(100_000))),
        ),
        (
            "an index nested 5000 deep",
            "json",
            index_json,
            index(first(format!("\"x\":{}", nested(5000)))),
        ),
        (
            "a config over 4 MiB",
            "too large",
            Says::Config,
            config_of(first(format!("\"x\":\"{}\"", "x".repeat(4 << 20)))),
        ),
        (
            "an index.json over 4 MiB",
            "too large",
            index_json,
            index(first(format!("\"x\":\"{}\"", "x".repeat(4 << 20)))),
        ),
        (
            "a manifest with something after it",
            "json",
            Says::Manifest,
            manifest_of(Box::new(|text| format!("{text}{{}}"))),
        ),
        (
            "a manifest that begins with a byte order mark",
            "json",
            Says::Manifest,
            manifest_of(Box::new(|text| format!("\u{feff}{text}"))),
        ),
        (
            "a manifest that is cut",
            "json",
            Says::Manifest,
            manifest_of(Box::new(|text| text[..text.len() / 2].to_owned())),
        ),
        (
            "an empty manifest",
            "json",
            Says::Manifest,
            manifest_of(Box::new(|_| String::new())),
        ),
        (
            "a manifest that is null",
            "json",
            Says::Manifest,
            manifest_of(Box::new(|_| "null".to_owned())),
        ),
        (
            "a size that is a text",
            "json",
            Says::Manifest,
            manifest_of(replaced("\"size\":", "\"size\":\"7\",\"other\":")),
        ),
        (
            "a size with a fraction",
            "json",
            Says::Manifest,
            manifest_of(replaced("\"size\":", "\"size\":7.5,\"other\":")),
        ),
        (
            "a size that is infinite",
            "json",
            Says::Manifest,
            manifest_of(replaced("\"size\":", "\"size\":1e999,\"other\":")),
        ),
        (
            "a key of a config twice",
            "json",
            Says::Config,
            config_of(replaced("\"User\":", "\"User\":\"0\",\"User\":")),
        ),
        (
            "a command that is no list",
            "json",
            Says::Config,
            config(|config| config["config"]["Cmd"] = json!("/app/x")),
        ),
        (
            "a variable that is a number",
            "json",
            Says::Config,
            config(|config| config["config"]["Env"] = json!([1])),
        ),
        (
            "an escape of half a character",
            "json",
            Says::Config,
            config_of(replaced("\"User\":\"1000\"", "\"User\":\"\\ud800\"")),
        ),
        (
            "a diff id that is a path",
            "json",
            Says::Config,
            config(|config| config["rootfs"]["diff_ids"] = json!(["sha256:../../../../tmp"])),
        ),
    ]
}
