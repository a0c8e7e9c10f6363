//! What the maintainer scripts of a package would do when it is installed for the first time. None is run: one that does
//! something which nobody has looked at makes its package refused, as what it would have made is missed later.
//!
//! A script is read as lines. Known are: what debhelper generated, the frame of a script (`case "$1" in`, tests,
//! messages), what has no effect on a first installation, `ldconfig`, and `update-alternatives --install`, whose links
//! are made here. Conditions are not evaluated, so that every command counts.

use super::alternatives::Alternative;

/// What debhelper generates for services, triggers, menus and upgrades: nothing of it makes a file of the image that a
/// program reads.
const GENERATED: [&str; 15] = [
    "dh_installdeb",
    "dh_makeshlibs",
    "dh_installinit",
    "dh_installsystemd",
    "dh_installtmpfiles",
    "dh_installsystemduser",
    "dh_systemd_enable",
    "dh_systemd_start",
    "dh_installmenu",
    "dh_installmime",
    "dh_installxfonts",
    "dh_icons",
    "dh_python3",
    "dh_python3-ply",
    "dh_installudev",
];
/// Whose generated lines are read like all others.
const READ: &str = "dh_installalternatives";
const BEGIN: &str = "# Automatically added by ";
const END: &str = "# End automatically added section";

/// Lines that stand for themselves.
const FRAME: [&str; 18] = [
    "", "then", "else", "fi", "esac", ";;", ":", "true", "exit", "exit 0", "exit 1", "set -e", "set -u", "set -eu",
    "set -ex", "set +e", "ldconfig", "}",
];
/// Commands that change nothing when a package is installed for the first time.
const IDLE: [&str; 3] = [
    "dpkg-maintscript-helper ",
    "update-alternatives --remove ",
    "update-alternatives --remove-all ",
];

/// What dpkg calls scripts with (policy 6.5).
const CALLS: [&str; 13] = [
    "*",
    "install",
    "upgrade",
    "configure",
    "reconfigure",
    "triggered",
    "remove",
    "deconfigure",
    "failed-upgrade",
    "abort-install",
    "abort-upgrade",
    "abort-remove",
    "abort-deconfigure",
];

/// The alternatives that `script` installs.
///
/// # Errors
/// The first line that is not known.
pub(super) fn read_script(script: &str) -> Result<Vec<Alternative>, String> {
    let first = script.lines().next().unwrap_or_default();
    let shell = first
        .strip_prefix("#!")
        .map(|command| command.split_whitespace().next().unwrap_or_default());
    if !matches!(
        shell,
        Some("/bin/sh" | "/bin/bash" | "/bin/dash" | "/usr/bin/sh" | "/usr/bin/bash")
    ) {
        return Err(shown(first));
    }
    let joined = script.replace("\\\n", " ");
    let mut alternatives = Vec::new();
    let mut is_generated = false;
    for line in joined.lines().map(str::trim) {
        if let Some(tool) = line.strip_prefix(BEGIN) {
            let tool = tool.split('/').next().unwrap_or_default();
            is_generated = GENERATED.contains(&tool);
            if !is_generated && tool != READ {
                return Err(shown(line));
            }
        } else if line == END {
            is_generated = false;
        } else if is_generated || is_harmless(line) {
        } else if let Some(alternative) = Alternative::parse(line) {
            alternatives.push(alternative);
        } else {
            return Err(shown(line));
        }
    }
    Ok(alternatives)
}

/// For `fuzz/`: reads `script`; the links of its alternatives lie where packages may install.
pub(crate) fn read_fuzzed_script(script: &str) {
    for alternative in read_script(script).unwrap_or_default() {
        let followers = alternative.followers.iter().flat_map(|(link, _, path)| [link, path]);
        for path in followers.chain([&alternative.link, &alternative.path]) {
            let is_plain = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
            assert!(path.starts_with('/') && is_plain, "{path:?}");
        }
    }
}

fn shown(line: &str) -> String {
    line.chars().take(120).collect()
}

fn is_harmless(line: &str) -> bool {
    if line.starts_with('#') {
        return true;
    }
    // What stands after a label, or ends one.
    let line = line.trim_end_matches(";;").trim_end();
    if FRAME.contains(&line) {
        return true;
    }
    // A command within a command could be any; a quoted backtick is none.
    let line = line.replace("\\`", "");
    let line = line.as_str();
    if line.contains("$(") || line.contains('`') {
        return false;
    }
    is_label(line)
        || is_test(line)
        || matches!(
            line,
            "case \"$1\" in" | "case $1 in" | "case \"${1}\" in" | "case \"${1:-}\" in"
        )
        || (line.starts_with("echo ") && is_one_command(line.trim_end_matches("1>&2").trim_end_matches(">&2")))
        || IDLE.iter().any(|idle| line.starts_with(idle)) && is_one_command(line.trim_end_matches("|| true"))
}

/// Whether nothing but one command and its words stand there.
fn is_one_command(line: &str) -> bool {
    let line = line.replace("\"$@\"", "");
    !line.contains([';', '|', '&', '>', '<'])
}

/// `abort-upgrade|abort-remove)`: what dpkg calls scripts with, and nothing that could be a command.
fn is_label(line: &str) -> bool {
    let label = line.strip_suffix(')').map(|label| label.trim_start_matches('('));
    let is_call = |word: &str| CALLS.contains(&word.trim().trim_matches(['"', '\'']));
    label.is_some_and(|label| label.split('|').all(is_call))
}

/// `if [ "$1" = configure ] && dpkg --compare-versions "$2" lt 2; then`.
fn is_test(line: &str) -> bool {
    let Some(test) = line.strip_prefix("if ").or_else(|| line.strip_prefix("elif ")) else {
        return false;
    };
    let test = test
        .strip_suffix("then")
        .unwrap_or(test)
        .trim_end()
        .trim_end_matches(';')
        .trim_end();
    let parts = test.split("&&").flat_map(|part| part.split("||"));
    let mut parts = parts.map(|part| part.trim().trim_start_matches("! "));
    parts.all(|part| {
        let is_bracket = part.starts_with("[ ") && part.ends_with(" ]");
        let compares = part.starts_with("dpkg --compare-versions ");
        (is_bracket || compares) && !part.contains([';', '&', '|']) && (compares || !part.contains(['>', '<']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_harmless() {
        let script = r#"#!/bin/sh
# a comment
set -e

case "$1" in
    configure)
        if [ "$1" = "configure" ] && [ -z "$2" ]; then
            echo "configured" >&2
        fi
        ldconfig
    ;;
    abort-upgrade|abort-remove|abort-deconfigure)
    ;;
    *)
        echo "postinst called with unknown argument \`$1'" >&2
        exit 1
    ;;
esac
if [ "$1" = "upgrade" ] && dpkg --compare-versions "$2" lt 3.7.1-2~; then
    update-alternatives --remove libblas.so.3 /usr/lib/libblas/libblas.so.3 || true
fi
update-alternatives --install /usr/lib/libblas.so.3 libblas.so.3-x86 \
    /usr/lib/blas/libblas.so.3 10
dpkg-maintscript-helper rm_conffile /etc/x 1.0\~ -- "$@"
# Automatically added by dh_makeshlibs/13
anything at all
# End automatically added section
exit 0
"#;
        let alternatives = read_script(script).unwrap();
        assert_eq!(alternatives.len(), 1);
        assert_eq!(alternatives[0].name, "libblas.so.3-x86");
    }

    #[test]
    fn everything_else_is_named() {
        for line in [
            "adduser --system x",
            "rm -rf /",
            "echo x > /etc/passwd",
            "echo $(rm -rf /) >&2",
            "echo x; rm -rf /",
            "echo x | sh",
            "echo `id`",
            "if [ -x /x ] && rm -rf /; then",
            "if rm -rf /; then",
            "if [ -x /x ]; rm -rf /; then",
            "dpkg-divert --add /bin/sh",
            "dpkg-maintscript-helper x && rm -rf /",
            "update-alternatives --install $LINK x /y 1",
            "update-alternatives --install /a x /y 1; rm -rf /",
            "configure) rm -rf / ;;",
            "(rm)",
            ". /usr/share/debconf/confmodule",
            "# Automatically added by dh_unheard/1",
        ] {
            let script = format!("#!/bin/sh\nset -e\n{line}\n");
            assert_eq!(
                read_script(&script).map_err(|line| line.chars().take(20).collect::<String>()),
                Err(line.chars().take(20).collect()),
                "{line}"
            );
        }
        assert!(read_script("#!/usr/bin/perl\nexit 0;\n").is_err());
        assert!(read_script("exit 0\n").is_err());
    }
}
