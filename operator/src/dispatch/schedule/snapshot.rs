//! All that a decision about one pool may depend on, and the indexes that make deciding cheap: the cost of a plan is that
//! of the jobs that have a slot and of those that may get one, not that of all that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::{SignedDuration, Timestamp};

use super::notice::Notices;
use super::order::{Place, Queue, Shares, Ticket};
use super::usage::Usage;
use super::{Claim, Hold, Plan, retry};
use crate::dispatch::job::Job;
use crate::dispatch::view::{Key, Member, Pool};

/// What the API's times of creation are true to.
const WHOLE_SECOND: SignedDuration = SignedDuration::from_secs(1);

/// What is known of one pool.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Namespace and name of the pool. The name is empty for the jobs of a namespace that have no pool.
    pub key: Key,
    /// The pool, if it exists.
    pub pool: Option<Pool>,
    /// Since when it is known not to exist.
    pub missing_since: Option<Timestamp>,
    /// Its members by pod UID, also those that are gone while a job is assigned to them.
    pub members: BTreeMap<String, Member>,
    /// Members that have just turned a job down, and until when they get no other.
    pub declined: BTreeMap<String, Timestamp>,
    /// What the pool's groups have used.
    pub usage: Usage,
    pub(super) jobs: HashMap<Arc<str>, Entry>,
    /// Jobs about which nothing can be decided now, by UID.
    pub(super) held: BTreeMap<Arc<str>, Hold>,
    /// Bound and Running, by age.
    pub(super) assigned: BTreeSet<Place>,
    /// Those that may get a slot now.
    pub(super) queue: Queue,
    /// When to look at single jobs.
    pub(super) looks: BTreeSet<(Timestamp, Arc<str>)>,
    pub(super) notices: Notices,
}

/// A job, and where it stands in the indexes.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub job: Job,
    pub group: String,
    /// Since when it waits, as far as this process has seen.
    pub since: Timestamp,
    /// When it entered the queue: finer than the API's whole seconds, if that was seen.
    pub entered: Timestamp,
    /// When it was told why it waits.
    pub told_at: Option<Timestamp>,
    ticket: Option<Ticket>,
    look: Option<Timestamp>,
}

impl Snapshot {
    /// A pool of which nothing is known yet.
    pub fn new(key: Key, now: Timestamp) -> Self {
        Self { key, missing_since: Some(now), ..Self::default() }
    }

    /// The job with this UID.
    pub fn job(&self, uid: &str) -> Option<&Job> {
        self.jobs.get(uid).map(|entry| &entry.job)
    }

    /// All jobs, in no order.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|entry| &entry.job)
    }

    /// When a job entered the queue.
    pub fn entered(&self, uid: &str) -> Option<Timestamp> {
        self.jobs.get(uid).map(|entry| entry.entered)
    }

    /// Why nothing can be decided about a job.
    pub fn hold_of(&self, uid: &str) -> Option<&Hold> {
        self.held.get(uid)
    }

    /// Jobs that wait for a slot, and since when the first of them.
    pub fn waiting(&self) -> (usize, Option<Timestamp>) {
        (self.queue.len(), self.queue.oldest())
    }

    /// Slots of the members that take builds.
    pub fn slots(&self) -> usize {
        let usable = self.members.values().filter(|member| member.takes_builds()).count();
        usable * self.pool.as_ref().filter(|pool| pool.deleting.is_none()).map_or(0, |pool| pool.builds_per_member)
    }

    /// Slots that are taken or waited for.
    pub fn load(&self) -> usize {
        let writing = self.held.values().filter(|hold| matches!(hold, Hold::Writing(Claim::Slot(_))));
        self.assigned.len() + self.queue.len() + writing.count()
    }

    /// Slots that nobody has and that nobody here waits for.
    pub fn spare(&self) -> usize {
        self.slots().saturating_sub(self.load())
    }

    /// Takes in a job, new or changed.
    pub fn put(&mut self, job: Job, now: Timestamp) {
        let uid = job.uid.clone();
        let old = self.take(&uid);
        if let Some(old) = &old {
            self.charge(old, &job, now);
        }
        let pending = job.status.phase == JobPhase::Pending;
        let since = match &old {
            Some(old) if pending && old.job.status.phase == JobPhase::Pending => old.since,
            Some(_) if pending => now,
            _ => job.queued(),
        };
        let entered = match &old {
            Some(old) if pending && old.job.status.phase == JobPhase::Pending => old.entered,
            None if now.duration_since(job.queued()) >= WHOLE_SECOND => job.queued(),
            _ => now,
        };
        let told_at = match &old {
            Some(old) if old.job.told() == job.told() => old.told_at,
            _ => job.told().map(|_| now),
        };
        let group = self.group(&job.labels);
        let entry = Entry { job, group, since, entered, told_at, ticket: None, look: None };
        self.jobs.insert(uid.clone(), entry);
        self.index(&uid, Some(now), now);
    }

    /// Forgets a job.
    pub fn remove(&mut self, uid: &str, now: Timestamp) -> Option<Job> {
        let entry = self.take(uid)?;
        self.charge_until(&entry, now);
        self.held.remove(uid);
        Some(entry.job)
    }

    /// Hands a job over to another pool's snapshot.
    pub fn hand_over(&mut self, uid: &str) -> Option<Job> {
        self.held.remove(uid);
        self.take(uid).map(|entry| entry.job)
    }

    /// Nothing more is decided about a job until it is released, or that time has come.
    pub fn hold(&mut self, uid: &Arc<str>, hold: Hold, now: Timestamp) {
        let look = if let Hold::Until(when) = hold { Some(when) } else { None };
        self.held.insert(uid.clone(), hold);
        self.index(uid, look, now);
    }

    /// A job is looked at again.
    pub fn release(&mut self, uid: &str, now: Timestamp) {
        if let Some((uid, _)) = self.held.remove_entry(uid) {
            self.index(&uid, Some(now), now);
        }
    }

    /// The pool has come, changed or gone: every job is looked at again.
    pub fn set_pool(&mut self, pool: Option<Pool>, now: Timestamp) {
        self.missing_since = if pool.is_some() { None } else { Some(now) };
        if let Some(share) = pool.as_ref().and_then(|pool| pool.fair_share.as_ref()) {
            self.usage.set_half_life(share.half_life, now);
        }
        self.pool = pool;
        self.notices.moved();
        let uids: Vec<Arc<str>> = self.jobs.keys().cloned().collect();
        for uid in uids {
            let group = self.job(&uid).map(|job| self.group(&job.labels)).unwrap_or_default();
            if let Some(entry) = self.jobs.get_mut(&uid) {
                entry.group = group;
            }
            self.index(&uid, Some(now), now);
        }
    }

    /// A job got a slot.
    pub fn served(&mut self, uid: &str, now: Timestamp) {
        if let Some(entry) = self.jobs.get(uid) {
            self.queue.served(entry.job.priority, now);
            self.notices.moved();
        }
    }

    /// Brings everything up to this time that time alone changes, and forgets what nothing depends on any more.
    pub fn advance(&mut self, now: Timestamp) {
        self.declined.retain(|_, until| *until > now);
        let over = |hold: &Hold| matches!(hold, Hold::Until(until) if *until <= now);
        let over: Vec<Arc<str>> = self.held.iter().filter(|(_, hold)| over(hold)).map(|(uid, _)| uid.clone()).collect();
        for uid in over {
            self.release(&uid, now);
        }
        let due = self.looks.iter().take_while(|(when, _)| *when <= now);
        let due: Vec<(Timestamp, Arc<str>)> = due.cloned().collect();
        for (when, uid) in due {
            if self.jobs.get(&uid).is_some_and(|entry| entry.ticket.is_none()) {
                self.index(&uid, Some(when), now);
            }
        }
        if self.members.values().any(|member| member.deleted) {
            let Self { members, assigned, jobs, .. } = self;
            let assigned = assigned.iter().filter_map(|place| jobs.get(&place.2));
            let used: HashSet<&str> = assigned.filter_map(|entry| entry.job.status.assigned_to.as_deref()).collect();
            members.retain(|uid, member| !member.deleted || used.contains(uid.as_str()));
        }
    }

    /// Takes over when to look next.
    pub fn apply(&mut self, plan: &Plan) {
        for (uid, look) in &plan.looked {
            self.look(uid, *look);
        }
        if let Some(round) = plan.round {
            self.notices = round;
        }
    }

    /// When to look at all again, whatever happens.
    pub fn next_look(&self) -> Option<Timestamp> {
        self.looks.first().map(|(when, _)| *when)
    }

    /// Whether nothing is known that would have to be kept.
    pub fn is_empty(&self) -> bool {
        self.pool.is_none() && self.members.is_empty() && self.jobs.is_empty()
    }

    /// The group of a job with these labels.
    pub fn group(&self, labels: &BTreeMap<String, String>) -> String {
        let share = self.pool.as_ref().and_then(|pool| pool.fair_share.as_ref());
        share.and_then(|share| labels.get(&share.label)).cloned().unwrap_or_default()
    }

    /// A job by age, oldest first, of those that have a slot.
    pub(super) fn assigned_entries(&self) -> impl Iterator<Item = &Entry> {
        self.assigned.iter().filter_map(|place| self.jobs.get(&place.2))
    }

    /// What the groups have used, with what runs now.
    pub(super) fn ledger(&self, now: Timestamp) -> Ledger<'_> {
        let mut ledger = Ledger { snapshot: self, running: HashMap::new(), estimate: self.usage.estimate(), now };
        let writing = self.held.iter().filter(|(_, hold)| matches!(hold, Hold::Writing(Claim::Slot(_))));
        let writing = writing.filter_map(|(uid, _)| self.jobs.get(uid));
        for entry in self.assigned_entries() {
            // At least what is expected: a build that has just begun is as much of a claim as one to come.
            let expected = elapsed(&entry.job, now).max(ledger.estimate);
            *ledger.running.entry(&entry.group).or_default() += expected;
        }
        for entry in writing.filter(|entry| entry.job.status.assigned_to.is_none()) {
            *ledger.running.entry(&entry.group).or_default() += ledger.estimate;
        }
        ledger
    }

    /// Takes a job out of all indexes.
    fn take(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.jobs.remove(uid)?;
        if let Some(ticket) = &entry.ticket {
            self.queue.remove(ticket);
            self.notices.moved();
        }
        if let Some(look) = entry.look {
            self.looks.remove(&(look, entry.job.uid.clone()));
        }
        self.assigned.remove(&entry.job.place());
        Some(entry)
    }

    /// Puts a job where it belongs by phase, hold and time.
    fn index(&mut self, uid: &Arc<str>, look: Option<Timestamp>, now: Timestamp) {
        let Self { jobs, queue, assigned, held, notices, .. } = self;
        let Some(entry) = jobs.get_mut(uid) else { return };
        let job = &entry.job;
        let free = matches!(held.get(uid), None | Some(Hold::Writing(Claim::Turn)));
        let ticket = match job.status.phase {
            JobPhase::Pending if free && !job.deleting => {
                let back = retry::not_before(&job.status, uid).is_none_or(|when| when <= now);
                let ticket = || Ticket { priority: job.priority, group: entry.group.clone(), place: job.place() };
                back.then(ticket)
            }
            JobPhase::Bound | JobPhase::Running => {
                assigned.insert(job.place());
                None
            }
            _ => None,
        };
        if ticket != entry.ticket {
            if let Some(old) = &entry.ticket {
                queue.remove(old);
            }
            if let Some(new) = &ticket {
                queue.insert(new.clone());
                if entry.told_at.is_none() {
                    notices.wanted(entry.since);
                }
            }
            entry.ticket = ticket;
        }
        self.look(uid, look);
    }

    fn look(&mut self, uid: &Arc<str>, look: Option<Timestamp>) {
        let Some(entry) = self.jobs.get_mut(uid) else { return };
        if let Some(old) = entry.look.take() {
            self.looks.remove(&(old, uid.clone()));
        }
        entry.look = look;
        if let Some(new) = look {
            self.looks.insert((new, uid.clone()));
        }
    }

    /// A build has ended for its group's account.
    fn charge(&mut self, old: &Entry, new: &Job, now: Timestamp) {
        if new.status.phase != JobPhase::Running {
            self.charge_until(old, now);
        }
    }

    fn charge_until(&mut self, entry: &Entry, now: Timestamp) {
        if entry.job.status.phase == JobPhase::Running {
            let build = std::time::Duration::from_secs_f64(elapsed(&entry.job, now));
            self.usage.charge(&entry.group, build, now);
        }
    }
}

/// Seconds that a job has been running.
fn elapsed(job: &Job, now: Timestamp) -> f64 {
    let started = job.status.timing.started_at.as_ref().filter(|_| job.status.phase == JobPhase::Running);
    started.map_or(SignedDuration::ZERO, |started| now.duration_since(started.0)).as_secs_f64().max(0.0)
}

/// What the groups of a pool have used.
pub(super) struct Ledger<'a> {
    snapshot: &'a Snapshot,
    running: HashMap<&'a str, f64>,
    estimate: f64,
    now: Timestamp,
}

impl Shares for Ledger<'_> {
    fn used(&self, group: &str) -> f64 {
        self.snapshot.usage.of(group, self.now) + self.running.get(group).copied().unwrap_or(0.0)
    }

    fn weight(&self, group: &str) -> f64 {
        let share = self.snapshot.pool.as_ref().and_then(|pool| pool.fair_share.as_ref());
        share.and_then(|share| share.weights.get(group)).copied().map_or(1.0, f64::from)
    }

    fn estimate(&self) -> f64 {
        self.estimate
    }
}
