//! Secrets that tell whom they were taken from.

use std::collections::BTreeMap;

use buildpools_e2e::cluster::outside::CREDENTIALS;

/// Secrets by whom they belong to.
pub struct Canaries(BTreeMap<String, String>);

impl Canaries {
    pub fn new() -> Self {
        let kinds = ["neighbour", "other", "login", "other-login", "daemon"];
        let canary = |kind: &&str| ((*kind).to_owned(), format!("canary-{kind}-{:016x}", rand::random::<u64>()));
        let mut all: BTreeMap<String, String> = kinds.iter().map(canary).collect();
        all.insert("metadata".to_owned(), CREDENTIALS.to_owned());
        Self(all)
    }

    pub fn of(&self, kind: &str) -> &str {
        &self.0[kind]
    }

    /// Whose secret a line has.
    pub fn kind(&self, line: &str) -> Option<&str> {
        if line.ends_with(" token") {
            return Some("token");
        }
        self.0.iter().find(|(_, canary)| line.contains(*canary)).map(|(kind, _)| kind.as_str())
    }

    /// Whose secrets are in a text, but for the neighbour's, which the profile may allow.
    pub fn forbidden<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.0.iter().filter(|(kind, canary)| *kind != "neighbour" && text.contains(*canary));
        found.map(|(kind, _)| kind.as_str())
    }
}
