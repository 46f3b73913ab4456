//! O2: how often objects were made and removed.

use std::collections::BTreeMap;

use super::log::{Change, Entry};

/// Creations and deletions by resource and name.
pub type Counts = BTreeMap<(&'static str, String, Change), usize>;

/// Counts them. Jobs and pools are the user's doing.
pub fn count(entries: &[Entry]) -> Counts {
    let mut counts = Counts::new();
    for entry in entries.iter().filter(|entry| entry.change != Change::Modified) {
        *counts.entry((entry.resource, entry.name.clone(), entry.change)).or_default() += 1;
    }
    counts
}

/// What was made or removed more often than in the reference run.
pub fn judge(counts: &Counts, reference: &Counts) -> Vec<String> {
    let more = counts.iter().filter(|(what, count)| **count > reference.get(*what).copied().unwrap_or(0));
    more.map(|((resource, name, change), count)| format!("O2: {resource} {name} was {change:?} {count} times"))
        .collect()
}
