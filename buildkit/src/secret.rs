//! Bytes that must not be shown.

use std::fmt;

/// Bytes that `Debug` and `Display` never show. Reading them takes an explicit [`Secret::expose`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Text that is a secret, such as a password or a token.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SecretText(String);

impl SecretText {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Replaces known secret values, and the user part of any URL, in text that is about to leave the process.
#[derive(Clone, Default)]
pub(crate) struct Scrubber(Vec<String>);

/// Values shorter than this are not searched for: replacing every "a" would make a message unreadable, and this
/// crate itself never writes a secret into a message, so only text of others is at stake.
const SHORTEST: usize = 4;

impl Scrubber {
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut values: Vec<String> =
            values.into_iter().filter(|value| value.len() >= SHORTEST).map(str::to_owned).collect();
        // The longest first, so that a value that contains another is replaced as a whole.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.dedup();
        Self(values)
    }

    pub(crate) fn scrub(&self, text: &str) -> String {
        let mut text = scrub_url_users(text);
        for value in &self.0 {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), "[secret]");
            }
        }
        text
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrubber({} values)", self.0.len())
    }
}

/// `https://user:token@host/` becomes `https://[secret]@host/`.
fn scrub_url_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let authority = after.find(|c: char| c == '/' || c.is_whitespace() || "\"'`<>?#".contains(c));
        let authority = &after[..authority.unwrap_or(after.len())];
        rest = after;
        if let Some(at) = authority.rfind('@') {
            // `ssh://git@host` and the like name a user, not a secret.
            if authority[..at].contains(':') || before.ends_with("http://") || before.ends_with("https://") {
                out.push_str("[secret]");
                rest = &after[at..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", SecretText::new("hunter2")), "[secret] [secret] [secret]");
        assert_eq!(secret.expose(), b"hunter2");
    }

    #[test]
    fn scrubs_values_and_url_users() {
        let scrubber = Scrubber::new(["hunter2", "hunter2-longer", "abc"]);
        for (text, expected) in [
            ("password hunter2-longer, hunter2.", "password [secret], [secret]."),
            ("abc is too short to search for", "abc is too short to search for"),
            ("fetch https://me:tok@git.test/a.git?x=1 failed", "fetch https://[secret]@git.test/a.git?x=1 failed"),
            ("https://token@git.test", "https://[secret]@git.test"),
            ("ssh://git@git.test/a and git@git.test:a", "ssh://git@git.test/a and git@git.test:a"),
            ("see https://a.test/x@y and http://b.test", "see https://a.test/x@y and http://b.test"),
            ("ends with https://", "ends with https://"),
        ] {
            assert_eq!(scrubber.scrub(text), expected);
        }
        assert_eq!(format!("{scrubber:?}"), "Scrubber(2 values)");
    }
}
