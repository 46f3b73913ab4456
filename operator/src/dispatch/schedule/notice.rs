//! What waiting jobs are told: why they wait, and their place in the queue. Cheaply: a job is told once it has waited a
//! moment, and again only when its place has halved or the reason is another, so that n jobs cost O(n log n) writes.

use std::time::Duration;

use buildpools_crds::lifecycle::reasons;
use jiff::Timestamp;

use super::order::Next;
use super::snapshot::{Entry, Snapshot};
use super::{Action, Claim, Decision, Hold, Plan, after, earlier, pending};
use crate::dispatch::job::Job;
use crate::dispatch::view::{Closed, Member};

/// A job that gets its slot sooner than this is not told that it waits: that would cost a write for nothing.
pub const WAIT_GRACE: Duration = Duration::from_secs(2);

/// A job is not told again sooner than this.
pub const TELL_AGAIN: Duration = Duration::from_secs(30);

/// All places are worked out no more often than this when the queue has moved.
const EVERY: Duration = Duration::from_secs(10);

/// And no more often than this when jobs have come.
const PAUSE: Duration = Duration::from_secs(1);

/// Jobs of one pool that are being told at the same time.
const AT_ONCE: usize = 50;

/// When the places of all jobs are worked out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    next: Option<Timestamp>,
    last: Option<Timestamp>,
    moved: bool,
}

impl Notices {
    /// A job has come that waits since then.
    pub(super) fn wanted(&mut self, since: Timestamp) {
        self.next = earlier(self.next, Some(after(since, WAIT_GRACE)));
    }

    /// Places have changed.
    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// When it is time.
    fn when(&self) -> Option<Timestamp> {
        let last = self.last.unwrap_or(Timestamp::MIN);
        let moved = self.moved.then(|| after(last, EVERY));
        earlier(self.next, moved).map(|when| when.max(after(last, PAUSE)))
    }
}

/// Tells the jobs that wait: `passed` were in turn and got no slot, the others come after them.
pub(super) fn tell<'a>(
    snapshot: &'a Snapshot,
    passed: Vec<&'a Entry>,
    rest: impl Iterator<Item = Next<'a>>,
    now: Timestamp,
    plan: &mut Plan,
) {
    if snapshot.queue.is_empty() {
        return;
    }
    let Some(when) = snapshot.notices.when() else { return };
    if !plan.reached(when, now) {
        return;
    }
    let turn = |hold: &&Hold| **hold == Hold::Writing(Claim::Turn);
    let mut under_way = snapshot.held.values().filter(turn).count();
    let mut round = Notices { next: None, last: Some(now), moved: false };
    let rest = rest.filter_map(|next| snapshot.jobs.get(&next.place.2));
    let mut position = 0;
    for entry in passed.into_iter().chain(rest) {
        if plan.is_decided(&entry.job.uid) {
            continue;
        }
        position += 1;
        if snapshot.held.contains_key(&entry.job.uid) {
            continue;
        }
        let wait = Waiting::of(snapshot, position);
        match due(entry, &wait) {
            Some(when) if when <= now && under_way < AT_ONCE => {
                under_way += 1;
                let message = wait.message(snapshot, &entry.job);
                let Waiting { reason, position } = wait;
                let pool = snapshot.pool.as_ref().map(|_| snapshot.key.1.clone());
                let action = Action::Wait { reason, message, pool, position };
                plan.decide(Decision { job: entry.job.clone(), action, reason });
            }
            Some(when) => round.next = earlier(round.next, Some(when)),
            None => {}
        }
    }
    if let Some(when) = round.when() {
        plan.reached(when, now);
    }
    plan.round = Some(round);
}

/// When the job is to be told this; `None` if it need not.
fn due(entry: &Entry, wait: &Waiting) -> Option<Timestamp> {
    let wanted = match (entry.job.told(), wait.position) {
        (Some((told, _)), _) if told != wait.reason => true,
        (Some((_, Some(told))), Some(position)) => position <= told / 2,
        (Some((_, told)), position) => told.is_some() != position.is_some(),
        (None, _) => true,
    };
    let when = match entry.told_at {
        Some(told) => after(told, TELL_AGAIN),
        None => after(entry.since, WAIT_GRACE),
    };
    wanted.then_some(when)
}

/// What a job at this place waits for.
pub(super) struct Waiting {
    pub reason: &'static str,
    pub position: Option<i32>,
}

impl Waiting {
    pub fn of(snapshot: &Snapshot, position: i32) -> Self {
        match &snapshot.pool {
            None => Self { reason: reasons::POOL_NOT_FOUND, position: None },
            Some(pool) if pool.deleting.is_some() => Self { reason: reasons::POOL_NOT_READY, position: None },
            Some(_) if snapshot.members.values().any(Member::takes_builds) => {
                Self { reason: reasons::WAITING_FOR_SLOT, position: Some(position) }
            }
            Some(_) => Self { reason: reasons::POOL_NOT_READY, position: Some(position) },
        }
    }

    /// The same for people.
    pub fn message(&self, snapshot: &Snapshot, job: &Job) -> String {
        let name = &snapshot.key.1;
        let queue = match self.position {
            None if snapshot.pool.is_none() => return pending::no_pool(snapshot, job),
            None => return pending::pool_goes(name),
            Some(1) => "this job is the next".to_owned(),
            Some(2) => "one job is before this one".to_owned(),
            Some(position) => format!("{} jobs are before this one", position - 1),
        };
        let why = match self.reason {
            reasons::POOL_NOT_READY if is_replacing(snapshot) => {
                format!(
                    "the members of BuildPool \"{name}\" that could take builds are being replaced, its condition Upgrading says more"
                )
            }
            reasons::POOL_NOT_READY => {
                format!("no member of BuildPool \"{name}\" can take builds, its condition Ready says why")
            }
            _ if job.alone() => {
                format!("the build ran out of memory and gets a member of BuildPool \"{name}\" for itself")
            }
            _ => format!("all slots of BuildPool \"{name}\" are taken"),
        };
        format!("{why}; {queue}")
    }
}

/// Whether a member takes no builds for nothing but that it is to be replaced.
fn is_replacing(snapshot: &Snapshot) -> bool {
    snapshot.members.values().any(|member| member.closed == Some(Closed::Draining))
}
