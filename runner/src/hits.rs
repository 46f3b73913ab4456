//! Which steps of a build were in the cache.

use std::collections::BTreeMap;

use buildpools_buildkit::{Event, EventKind};

/// Steps of Dockerfiles that builds have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// All of them.
    pub steps: i64,
    /// Those whose result was in the cache.
    pub cached: i64,
}

/// The steps of one build.
#[derive(Debug, Default)]
pub struct Hits(BTreeMap<usize, bool>);

impl Hits {
    /// Takes an event of the build. Only steps of the Dockerfile count: loading its parts and exporting the image are
    /// done each time. So is FROM, which the daemon never calls cached, whether it pulls or not. A step that failed was
    /// not in the cache; one that was stopped is unknown.
    pub fn take(&mut self, event: &Event) {
        if !is_instruction(&event.step.name) {
            return;
        }
        match event.kind {
            EventKind::Cached => drop(self.0.insert(event.step.number, true)),
            EventKind::Done { .. } | EventKind::Failed { .. } => drop(self.0.entry(event.step.number).or_insert(false)),
            _ => {}
        }
    }

    /// Adds the build to a total; returns whether that changes it.
    pub fn add_to(&self, total: &mut Total) -> bool {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        total.steps = total.steps.saturating_add(count(self.0.len()));
        total.cached = total.cached.saturating_add(count(self.0.values().filter(|cached| **cached).count()));
        !self.0.is_empty()
    }
}

/// `[2/3] RUN make`, `[build 2/3] RUN make`, and not `[1/3] FROM x`, `[internal] load build context` or `exporting to
/// image`.
fn is_instruction(name: &str) -> bool {
    let Some((position, what)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else { return false };
    if what.starts_with("FROM ") {
        return false;
    }
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    position.rsplit(' ').next().and_then(|last| last.split_once('/')).is_some_and(|(n, of)| number(n) && number(of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildpools_buildkit::Step;

    #[test]
    fn instructions_count_once() {
        let mut hits = Hits::default();
        let failed = || EventKind::Failed { error: "exit code: 1".into() };
        for (number, name, kind) in [
            (1, "[internal] load build definition from Dockerfile", EventKind::Done { seconds: 0.0 }),
            (2, "[1/3] FROM busybox", EventKind::Done { seconds: 0.0 }),
            (3, "[build 2/3] RUN make", EventKind::Cached),
            // Loading what was cached.
            (3, "[build 2/3] RUN make", EventKind::Done { seconds: 1.0 }),
            (4, "[linux/amd64 3/3] RUN test", failed()),
            (5, "[4/4] RUN never", EventKind::Canceled),
            (6, "exporting to image", EventKind::Done { seconds: 0.1 }),
            (7, "[auth] a/b:pull token for registry", EventKind::Done { seconds: 0.1 }),
        ] {
            hits.take(&Event { step: Step { number, name: name.into() }, kind });
        }
        let mut total = Total { steps: 10, cached: 5 };
        assert!(hits.add_to(&mut total));
        assert_eq!(total, Total { steps: 12, cached: 6 });
        assert!(!Hits::default().add_to(&mut total));
    }
}
