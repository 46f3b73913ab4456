//! Replacing members that run an older form of the pool, one at a time and without harm to a build. Pure.
//!
//! 1. One member is *marked*: `status.upgrade.draining`. The dispatcher gives it nothing more, and takes back what it has
//!    not started.
//! 2. When no job is assigned to its pod, by a list that was read after the mark, the pod is deleted.
//! 3. When its replacement takes builds, the next is marked.
//!
//! Everything that must be remembered is in the pool's status, so that another process goes on where one ended. A job
//! that is bound although the mark is there costs time and no build: a pod that is deleted finishes what it has started.

use std::time::Duration;

use buildpools_crds::conditions::Status;
use buildpools_crds::v1alpha1::{BuildPoolStatus, DrainingMember, MemberPhase, PoolUpgrade, std_duration};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::dereference::Observed;
use super::problem::Problem;
use super::reasons::upgrading as reasons;
use super::roster::Member;
use super::{members, roster};

/// Limits of the time after which builds that a replacement waits for are looked at again.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Jobs that are named in a message.
const NAMED: usize = 5;

/// All that a decision depends on.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The members.
    pub members: &'a [Member],
    /// Members that should run.
    pub desired: i32,
    /// What was known before.
    pub before: Option<&'a PoolUpgrade>,
    /// Names of the jobs that are assigned to the marked member, read after the mark.
    pub assigned: &'a [String],
    /// What keeps members that are not ready from being so.
    pub problems: &'a [Problem],
    /// `spec.drainTimeout`.
    pub drain_timeout: Option<Duration>,
    /// The time.
    pub now: Timestamp,
}

/// A member to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of its pod.
    pub pod: String,
    /// UID of its pod.
    pub uid: String,
}

/// What is to be done, and said.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// `status.upgrade`.
    pub upgrade: Option<PoolUpgrade>,
    /// Reason of condition `Upgrading`.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
    /// The pod to delete now.
    pub delete: Option<Target>,
    /// When to look again, although nothing that is watched may change.
    pub look_again: Option<Duration>,
}

impl Step {
    /// Status of condition `Upgrading`.
    pub fn status(&self) -> Status {
        if self.upgrade.is_some() { Status::True } else { Status::False }
    }

    /// Whether it goes on only when somebody does something, or when builds end that take longer than they should.
    pub fn is_held(&self) -> bool {
        [reasons::DRAIN_TIMEOUT, reasons::REPLACEMENT_NOT_READY, reasons::PAUSED].contains(&self.reason)
    }
}

/// The next step of a pool; `None` while it cannot be told which members are outdated, and nothing changes. `objects` is
/// the StatefulSet as it was put, or what stood in the way.
pub fn of(observed: &Observed, objects: Result<&StatefulSet, &[Problem]>, now: Timestamp) -> Option<Step> {
    let none = BuildPoolStatus::default();
    let status = observed.pool.status.as_ref().unwrap_or(&none);
    let before = status.upgrade.as_ref();
    let Ok(set) = objects else {
        return before.map(|before| paused(before, &roster::roster(observed, None, None)));
    };
    if !members::knows_newest(set) {
        return None;
    }
    let found = members::look(set, observed.members(), &observed.events, now);
    let mut members = roster::roster(observed, Some(set), before);
    // What goes because the pool becomes smaller is neither replaced nor waited for.
    members.retain(|member| ordinal(&member.pod).is_some_and(|ordinal| ordinal < found.desired));
    let mut problems = found.problems;
    problems.extend(super::buildkit::too_old(&members));
    Some(decide(&Seen {
        members: &members,
        desired: found.desired,
        before,
        assigned: &observed.assigned,
        problems: &problems,
        drain_timeout: observed.pool.spec.drain_timeout.map(std_duration),
        now,
    }))
}

fn ordinal(pod: &str) -> Option<i32> {
    pod.rsplit('-').next()?.parse().ok()
}

/// The newest form of the pool cannot be had: the marked member goes on with the one it has.
fn paused(before: &PoolUpgrade, members: &[Member]) -> Step {
    let upgrade = PoolUpgrade { draining: None, ..before.clone() };
    let total = members.len();
    let message = format!(
        "{} of {total} members replaced; no other is, because the pool's newest form cannot be had: condition Ready says why",
        before.updated
    );
    Step { upgrade: Some(upgrade), reason: reasons::PAUSED, message, delete: None, look_again: None }
}

/// The next step.
pub fn decide(seen: &Seen<'_>) -> Step {
    let outdated = seen.members.iter().filter(|member| member.outdated && !member.is_ending());
    let outdated: Vec<&Member> = outdated.collect();
    if seen.before.is_none() && outdated.is_empty() {
        return up_to_date();
    }
    let roll = Roll { seen, outdated };
    let marked = seen.before.and_then(|before| before.draining.as_ref());
    let marked = marked.and_then(|mark| Some((mark, seen.members.iter().find(|member| member.uid == mark.uid)?)));
    match marked {
        Some((mark, member)) if member.is_ending() => {
            let message = format!("{} is being stopped", member.pod);
            roll.step(Some(mark.clone()), reasons::REPLACING, &message)
        }
        Some((mark, member)) if member.outdated => roll.drain(mark, member),
        // Gone, or of the newest form again.
        _ => roll.next(),
    }
}

fn up_to_date() -> Step {
    Step {
        upgrade: None,
        reason: reasons::UP_TO_DATE,
        message: "all members are of the newest form of the pool".to_owned(),
        delete: None,
        look_again: None,
    }
}

struct Roll<'a> {
    seen: &'a Seen<'a>,
    outdated: Vec<&'a Member>,
}

impl Roll<'_> {
    /// The marked member: it is deleted when no job is assigned to it.
    fn drain(&self, mark: &DrainingMember, member: &Member) -> Step {
        let jobs = self.seen.assigned;
        let pod = &member.pod;
        if jobs.is_empty() {
            let step = self.step(Some(mark.clone()), reasons::REPLACING, &format!("{pod} is being stopped"));
            return Step { delete: Some(Target { pod: pod.clone(), uid: member.uid.clone() }), ..step };
        }
        let drained = Duration::try_from(self.seen.now.duration_since(mark.since.0)).unwrap_or_default();
        let builds = if jobs.len() == 1 { "1 build".to_owned() } else { format!("{} builds", jobs.len()) };
        let names = named(jobs);
        let since = mark.since.0;
        let over = self.seen.drain_timeout.filter(|timeout| drained >= *timeout);
        let (reason, message) = match over {
            Some(timeout) => (
                reasons::DRAIN_TIMEOUT,
                format!(
                    "{pod} has not finished {builds} ({names}) within drainTimeout ({}), since {since}; it is replaced when \
                     they have ended: wait, or cancel them (spec.cancel of the BuildJob)",
                    text(timeout)
                ),
            ),
            None => (reasons::DRAINING, format!("{pod} finishes {builds} ({names}) since {since}")),
        };
        let until_over =
            self.seen.drain_timeout.map(|timeout| timeout.saturating_sub(drained)).filter(|it| !it.is_zero());
        let look = (drained / 10).clamp(LOOK.0, LOOK.1).min(until_over.unwrap_or(LOOK.1));
        Step { look_again: Some(look), ..self.step(Some(mark.clone()), reason, &message) }
    }

    /// No member is marked: which is next, if one may be.
    fn next(&self) -> Step {
        let Self { outdated, .. } = self;
        // One that takes no builds is worth nothing as it is: it does not wait for others.
        let useless = |member: &&&Member| {
            matches!(member.phase, MemberPhase::Pending | MemberPhase::Starting | MemberPhase::Unsupported)
        };
        if let Some(member) = outdated.iter().find(useless) {
            return self.mark(member);
        }
        if let Some(awaited) = self.awaited() {
            return self.wait(&awaited);
        }
        // The idlest, and of equals the last.
        let least = |member: &&&Member| (member.phase == MemberPhase::Unreachable, member.builds);
        match outdated.iter().rev().min_by_key(least) {
            Some(member) => self.mark(member),
            None => up_to_date(),
        }
    }

    fn mark(&self, member: &Member) -> Step {
        let mark = DrainingMember {
            pod: member.pod.clone(),
            uid: member.uid.clone(),
            since: Time(Timestamp::from_second(self.seen.now.as_second()).unwrap_or(self.seen.now)),
        };
        let message = format!("{} gets no new builds", member.pod);
        // Its jobs are to be read after the mark was written, so not now.
        Step { look_again: Some(Duration::ZERO), ..self.step(Some(mark), reasons::DRAINING, &message) }
    }

    /// The member of the newest form, or on its way to it, that does not take builds yet.
    fn awaited(&self) -> Option<String> {
        let Seen { members, desired, .. } = self.seen;
        let newest = members.iter().filter(|member| !member.outdated || member.is_ending());
        let missing = usize::try_from(*desired).is_ok_and(|desired| members.len() < desired);
        let awaited = newest.filter(|member| !member.proven).map(|member| member.pod.clone()).next();
        awaited.or_else(|| missing.then(|| "a member that is missing".to_owned()))
    }

    fn wait(&self, awaited: &str) -> Step {
        let (reason, message) = if self.seen.problems.is_empty() {
            (reasons::REPLACING, format!("waits for {awaited} to become ready"))
        } else {
            let why: Vec<String> = self.seen.problems.iter().map(ToString::to_string).collect();
            let rest = if self.outdated.is_empty() { "" } else { "; the others stay as they are until that is mended" };
            (reasons::REPLACEMENT_NOT_READY, format!("{awaited} does not become ready: {}{rest}", why.join("; ")))
        };
        self.step(None, reason, &message)
    }

    fn step(&self, draining: Option<DrainingMember>, reason: &'static str, message: &str) -> Step {
        let Seen { members, desired, before, now, .. } = self.seen;
        let updated = members.iter().filter(|member| !member.outdated && member.proven).count();
        let begun = || Time(Timestamp::from_second(now.as_second()).unwrap_or(*now));
        let upgrade = PoolUpgrade {
            started_at: before.map_or_else(begun, |before| before.started_at.clone()),
            updated: i32::try_from(updated).unwrap_or(i32::MAX),
            outdated: i32::try_from(self.outdated.len()).unwrap_or(i32::MAX),
            draining,
        };
        let message = format!("{updated} of {desired} members replaced; {message}");
        Step { upgrade: Some(upgrade), reason, message, delete: None, look_again: None }
    }
}

/// The first few.
pub(super) fn named(jobs: &[String]) -> String {
    let mut names = jobs.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if jobs.len() > NAMED {
        names.push_str(", …");
    }
    names
}

/// `1h 30m`.
fn text(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}

#[cfg(test)]
mod tests;
