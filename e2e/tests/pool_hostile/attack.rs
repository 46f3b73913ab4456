//! One file of `e2e/hostile`: what its head says, and what is wrong with what came of it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use buildpools_crds::v1alpha1::{BuildJobStatus, JobPhase, PoolProfile};
use buildpools_e2e::cluster::layout;

use super::canaries::Canaries;
use super::log;

/// One file of `e2e/hostile`.
#[derive(Clone, Debug)]
pub struct Attack {
    pub name: String,
    pub dockerfile: String,
    ends: Ends,
    /// What it may see or do outside of itself, in its own pool.
    shared: BTreeSet<String>,
    pub mode: Option<String>,
    /// Repository that is the context. The Dockerfile is in the job all the same.
    pub repository: Option<String>,
    /// Path in the context that is the Dockerfile instead.
    pub path: Option<String>,
    /// Image that is pushed.
    pub output: Option<String>,
}

#[derive(Clone, Debug)]
enum Ends {
    Succeeded,
    /// With this text in the message, or in the last lines of the step that failed.
    Failed(String),
}

impl Ends {
    fn read(line: &str) -> anyhow::Result<Self> {
        match line.split_once(' ') {
            None if line == "Succeeded" => Ok(Self::Succeeded),
            Some(("Failed", text)) if !text.contains(".*") => Ok(Self::Failed(text.to_owned())),
            _ => bail!("ends: {line}: neither Succeeded nor Failed with a text"),
        }
    }

    fn is(&self, status: &BuildJobStatus) -> bool {
        let failure = status.failure.iter();
        let mut texts = failure.flat_map(|failure| [&failure.message].into_iter().chain(&failure.log_tail));
        match self {
            Self::Succeeded => status.phase == JobPhase::Succeeded,
            Self::Failed(text) => status.phase == JobPhase::Failed && texts.any(|said| said.contains(text)),
        }
    }
}

impl Attack {
    fn read(path: &Path, profile: PoolProfile) -> anyhow::Result<Self> {
        let dockerfile = std::fs::read_to_string(path)?;
        let line = |key: &str| {
            let found = dockerfile.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(key));
            found.map(|value| value.trim().to_owned()).with_context(|| format!("{}: no line {key}", path.display()))
        };
        line("tries:")?;
        let shared = line(&format!("{profile:?}:"))?;
        ensure!(!shared.is_empty(), "{}: {profile:?}: say nothing", path.display());
        let words = shared.split_whitespace().filter(|word| *word != "nothing").map(str::to_owned).collect();
        let ends = line(&format!("ends {profile:?}:")).or_else(|_| line("ends:"))?;
        Ok(Self {
            name: path.file_stem().and_then(|name| name.to_str()).context("a name")?.to_owned(),
            ends: Ends::read(&ends).with_context(|| path.display().to_string())?,
            shared: words,
            mode: line("mode=").ok(),
            repository: line("context:").ok(),
            path: line("dockerfile:").ok(),
            output: line("output:").ok(),
            dockerfile,
        })
    }

    pub fn all(profile: PoolProfile) -> anyhow::Result<Vec<Self>> {
        let directory = layout::repository().join("e2e/hostile");
        let mut paths: Vec<_> = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"));
        paths.sort();
        paths.iter().map(|path| Self::read(path, profile)).collect()
    }

    /// What is wrong with how it ended and with what it printed.
    pub fn judge(&self, status: &BuildJobStatus, lines: &str, canaries: &Canaries) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        if !self.ends.is(status) {
            wrong.push(format!("it ended {:?} ({:?}), not {:?}", status.phase, status.failure, self.ends));
        }
        if status.attempts.len() != 1 {
            wrong.push(format!("it took {} attempts: {:?}", status.attempts.len(), status.attempts));
        }
        let said: Vec<&str> = lines.lines().filter_map(log::said).collect();
        let tried = said.iter().filter_map(|line| line.strip_prefix("TRIED ")?.parse::<u32>().ok()).any(|n| n > 0);
        if status.phase == JobPhase::Succeeded && !tried {
            wrong.push("it did not say that it tried".to_owned());
        }
        let mut shared = BTreeSet::new();
        for line in said {
            if line.starts_with("ESCAPED") {
                wrong.push(line.to_owned());
            } else if let Some(rest) = line.strip_prefix("SHARED ") {
                shared.extend(rest.split_whitespace().next().map(str::to_owned));
            } else if line.starts_with("LEAK ") {
                match canaries.kind(line) {
                    Some("neighbour") => {
                        shared.insert("canary".to_owned());
                    }
                    Some(kind) => wrong.push(format!("{kind}: {line}")),
                    // Its own arguments, or what another attack printed.
                    None => {}
                }
            }
        }
        // Wherever it stands: in the status, in a line that is none of ours.
        let status = serde_json::to_value(status)?;
        let everything = format!("{lines}{status}");
        wrong.extend(
            canaries.forbidden(&everything).map(|kind| format!("the canary of {kind} is in its log or status")),
        );
        wrong.extend(log::codes(&status).into_iter().map(|text| format!("its status has codes: {text:?}")));
        if shared != self.shared {
            wrong.push(format!("of its own pool it got {shared:?}, and {:?} is published", self.shared));
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_can_be_read() {
        for profile in [PoolProfile::Rootless, PoolProfile::UserNamespace] {
            assert!(Attack::all(profile).unwrap().len() >= 50);
        }
    }

    #[test]
    fn what_an_attack_gets_is_noticed() {
        let attacks = Attack::all(PoolProfile::UserNamespace).unwrap();
        let attack = attacks.iter().find(|attack| attack.name == "cache-mount").unwrap();
        let canaries = Canaries::new();
        let status = serde_json::json!({"phase": "Succeeded", "attempts": [
            {"number": 1, "pod": "p", "podUid": "u", "ref": "r", "startedAt": "2026-01-01T00:00:00.000000Z"},
        ]});
        let status = serde_json::from_value(status).unwrap();
        let wrong = |said: &str| {
            let published = format!("[a] #7 0.1 LEAK /shared {}\n[a] #7 0.2 ", canaries.of("neighbour"));
            attack.judge(&status, &format!("{published}{said}"), &canaries).unwrap()
        };
        assert!(wrong("TRIED 1").is_empty(), "{:?}", wrong("TRIED 1"));
        for said in ["TRIED 0", "tried", "TRIED 1\n[a] #7 0.3 ESCAPED x", "TRIED 1\n[a] #7 0.3 SHARED process 1"] {
            assert_eq!(wrong(said).len(), 1, "{said}");
        }
        for kind in ["daemon", "other", "login", "other-login", "metadata"] {
            assert_eq!(wrong(&format!("TRIED 1\n[a] #7 0.3 x{}", canaries.of(kind))).len(), 1, "{kind}");
        }
    }

    #[test]
    fn an_end_is_named() {
        for vague in [".*", "Failed", "Failed .*", "Succeeded .*", ""] {
            assert!(Ends::read(vague).is_err(), "{vague}");
        }
        assert!(Ends::read("Failed it is not allowed").is_ok());
    }
}
