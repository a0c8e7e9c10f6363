//! Escapes text of images, registries and functions before it reaches a terminal.

/// Replaces control characters, and characters that reorder a line, by visible escapes. Line feeds stay: error texts of
/// several lines are ours to indent.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let reorders = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character == '\n' || !(character.is_control() || reorders) {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn terminal_sequences_become_visible() {
        assert_eq!(
            escape("a\u{1b}[2Jb\r\u{9b}c\u{202e}d\ne"),
            "a\\u{1b}[2Jb\\r\\u{9b}c\\u{202e}d\ne"
        );
    }
}
