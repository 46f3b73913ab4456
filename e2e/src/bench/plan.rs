//! What is to be measured.

use anyhow::ensure;

/// A part of the benchmarks: what is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Builds on a warm member, one at a time.
    Warm,
    /// Fifty jobs at once.
    Queue,
    /// A build of some seconds.
    Long,
    /// Against a bare Kubernetes Job.
    KubeJob,
    /// Cold starts.
    Cold,
}

/// The parts in the order in which they are measured, and the figures of each.
pub const PARTS: [(Part, &[&str]); 5] = [
    (Part::Warm, &["job_minus_buildctl_ms", "dispatch_over_ideal", "dispatch_over_ideal_p99", "writes_per_job"]),
    (Part::Queue, &["writes_per_queued_job"]),
    (Part::Long, &["warm_over_buildctl"]),
    (Part::KubeJob, &["dispatch_over_job"]),
    (Part::Cold, &["cold_member_over_statefulset", "cold_job_over_statefulset"]),
];

/// Names of all figures.
pub fn figures() -> impl Iterator<Item = &'static str> {
    PARTS.iter().flat_map(|(_, figures)| figures.iter().copied())
}

/// How much of each part is measured; none leaves it out.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Rounds on the warm member.
    pub warm: usize,
    /// Queues of fifty jobs.
    pub queue: usize,
    /// Builds of some seconds.
    pub long: usize,
    /// Bare Kubernetes Jobs.
    pub kube_job: usize,
    /// Cold starts of each kind.
    pub cold: usize,
}

impl Rounds {
    fn of(&self, part: Part) -> usize {
        match part {
            Part::Warm => self.warm,
            Part::Queue => self.queue,
            Part::Long => self.long,
            Part::KubeJob => self.kube_job,
            Part::Cold => self.cold,
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    rounds: Rounds,
    only: Option<String>,
}

impl Plan {
    /// All parts, or the one figure of this name.
    ///
    /// # Errors
    /// When there is no such figure, or it was left out.
    pub fn new(rounds: Rounds, only: Option<String>) -> anyhow::Result<Self> {
        let plan = Self { rounds, only };
        if let Some(name) = &plan.only {
            let names = figures().collect::<Vec<_>>().join(", ");
            ensure!(
                plan.parts().next().is_some(),
                "there is no figure {name:?}, or it has no rounds; there are {names}"
            );
        }
        Ok(plan)
    }

    /// The parts that are measured, with their rounds.
    pub fn parts(&self) -> impl Iterator<Item = (Part, usize)> {
        let wanted = PARTS.iter().filter(|(_, figures)| figures.iter().any(|name| self.wants(name)));
        wanted.map(|(part, _)| (*part, self.rounds.of(*part))).filter(|(_, rounds)| *rounds > 0)
    }

    /// Whether this figure is printed.
    pub fn wants(&self, figure: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: Rounds = Rounds { warm: 200, queue: 4, long: 30, kube_job: 30, cold: 0 };

    fn parts(only: Option<&str>) -> anyhow::Result<Vec<(Part, usize)>> {
        Plan::new(ROUNDS, only.map(str::to_owned)).map(|plan| plan.parts().collect())
    }

    #[test]
    fn a_figure_brings_its_part_and_nothing_else() {
        assert_eq!(parts(Some("dispatch_over_ideal_p99")).unwrap(), [(Part::Warm, 200)]);
        assert_eq!(parts(Some("warm_over_buildctl")).unwrap(), [(Part::Long, 30)]);
        let plan = Plan::new(ROUNDS, Some("writes_per_job".to_owned())).unwrap();
        assert!(plan.wants("writes_per_job") && !plan.wants("writes_per_queued_job"));
    }

    #[test]
    fn parts_without_rounds_are_left_out() {
        assert_eq!(parts(None).unwrap().len(), PARTS.len() - 1);
        let error = parts(Some("cold_job_over_statefulset")).unwrap_err().to_string();
        assert!(error.contains("no rounds"), "{error}");
    }

    #[test]
    fn a_wrong_name_says_which_there_are() {
        let error = parts(Some("dispatch")).unwrap_err().to_string();
        assert!(figures().all(|name| error.contains(name)), "{error}");
    }
}
