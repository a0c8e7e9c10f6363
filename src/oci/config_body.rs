//! What an image says about the process it is for: user, environment, command, directory.
//!
//! A run takes the environment, the command and the directory as they are, and always has one user of its own whatever
//! `User` says (1000 in the sandbox). A `User` that is neither a name nor a number of the kernel's is refused all the same:
//! other tools make root of some of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::check;
use super::ParseImageError;

/// Longest name of a user or group; shadow's tools stop at 32, LDAP's names are longer.
const MAX_NAME: usize = 255;
/// Directories of the kernel: a process that starts in one of them may hold on to what is outside of the image.
const KERNEL: [&str; 3] = ["proc", "sys", "dev"];

/// The execution defaults of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfigBody {
    /// `uid[:gid]` or a name.
    #[serde(rename = "User", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `NAME=value` strings.
    #[serde(rename = "Env", default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Prefix of the command.
    #[serde(rename = "Entrypoint", default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Default command or its arguments.
    #[serde(rename = "Cmd", default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Where the command starts.
    #[serde(rename = "WorkingDir", default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Labels, in key order.
    #[serde(rename = "Labels", default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Refuses what no process can be started with.
pub(super) fn check_process(document: &'static str, body: &ImageConfigBody) -> Result<(), ParseImageError> {
    let user = body.user.as_deref().unwrap_or_default();
    let expected = "a name or a number below 4294967295, and after a colon the same for a group";
    check(document, "config.User", is_user(user), user, expected)?;
    for entry in body.env.iter().flatten() {
        let is_variable = entry.split_once('=').is_some_and(|(name, _)| !name.is_empty()) && is_text(entry);
        check(document, "config.Env", is_variable, entry, "NAME=value without a NUL")?;
    }
    for (field, words) in [("config.Entrypoint", &body.entrypoint), ("config.Cmd", &body.cmd)] {
        for word in words.iter().flatten() {
            check(document, field, is_text(word), word, "words without a NUL")?;
        }
    }
    let directory = body.working_dir.as_deref().unwrap_or_default();
    let expected = "a directory of the image, without a NUL";
    check(
        document,
        "config.WorkingDir",
        is_directory(directory),
        directory,
        expected,
    )
}

fn is_text(text: &str) -> bool {
    !text.contains('\0')
}

/// Empty, or `user[:group]`.
fn is_user(text: &str) -> bool {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    text.is_empty() || (is_name_or_id(user) && group.is_none_or(is_name_or_id))
}

fn is_name_or_id(text: &str) -> bool {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The last number means "leave it as it is" to the kernel.
        return text.parse::<u32>().is_ok_and(|id| id != u32::MAX);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let mut bytes = text.bytes();
    // POSIX, "User Name", and the `$` that Samba's machine accounts end in.
    text.len() <= MAX_NAME
        && bytes.next().is_some_and(is_plain)
        && bytes.all(|byte| is_plain(byte) || matches!(byte, b'-' | b'$' | b'@'))
}

/// Empty, or not below a directory of the kernel. Links of the image may still lead there: the sandbox has nothing open
/// that could be reached so.
fn is_directory(text: &str) -> bool {
    let mut components: Vec<&str> = Vec::new();
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            other => components.push(other),
        }
    }
    is_text(text) && !components.first().is_some_and(|first| KERNEL.contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_a_number_of_the_kernel() {
        for text in [
            "",
            "0",
            "1000",
            "1000:1000",
            "nobody",
            "www-data:www-data",
            "65532:nonroot",
            "_apt",
            "4294967294",
            "a.b",
            "01000",
            "machine$",
        ] {
            assert!(is_user(text), "{text}");
        }
        for text in [
            "4294967296:-1",
            "4294967295",
            "0:4294967296",
            "-1",
            "+0",
            ":",
            ":0",
            "0:",
            "0:0:0",
            " 0",
            "0 ",
            "root\n",
            "a/b",
            "\0",
            "18446744073709551616",
        ] {
            assert!(!is_user(text), "{text:?}");
        }
    }

    #[test]
    fn a_process_starts_in_a_directory_of_the_image() {
        for text in ["", "/", "/app", "app", "/home/proc", "/process"] {
            assert!(is_directory(text), "{text}");
        }
        for text in [
            "/proc/self/fd/7",
            "//proc/1/cwd",
            "/app/../proc/self",
            "./proc",
            "/sys",
            "/dev/fd",
            "/a\0b",
        ] {
            assert!(!is_directory(text), "{text:?}");
        }
    }
}
