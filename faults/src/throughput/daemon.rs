//! A daemon that is done at once, so that nothing but the way to it is measured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use buildpools_buildkit::{Access, Build, BuildError, BuildResult, Event as Progress, HistoryRecord};
use buildpools_runner::daemon::Builder;
use jiff::Timestamp;

use crate::lock;

/// Notes when each Solve arrived and answers at once. All members share it; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Prompt(Arc<Mutex<HashMap<String, Timestamp>>>);

impl Prompt {
    /// Takes a build on, which is its end too.
    pub fn solve(&self, reference: &str) -> BuildResult {
        let now = Timestamp::now();
        let mut received = lock(&self.0);
        received.entry(reference.to_owned()).or_insert(now);
        BuildResult { digest: Some(format!("sha256:{}", "0".repeat(64))) }
    }

    /// When this Ref arrived first.
    pub fn received(&self, reference: &str) -> Option<Timestamp> {
        lock(&self.0).get(reference).copied()
    }
}

impl Builder for Prompt {
    async fn build(
        &self,
        build: &Build,
        _: &Access,
        _: impl FnMut(&Progress) + Send,
    ) -> Result<BuildResult, BuildError> {
        Ok(self.solve(&build.reference))
    }

    async fn history(&self, _: &str) -> Result<Option<HistoryRecord>, BuildError> {
        // Nobody restarts runners here, so nobody asks.
        Ok(None)
    }
}
