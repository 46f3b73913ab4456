//! Slots of the members of a pool, as a plan gives them away.

use std::collections::HashMap;

use jiff::Timestamp;

use super::placement::{self, Candidate, stable_hash};
use super::snapshot::Snapshot;
use super::{Claim, Hold, Plan, out_of_memory};
use crate::dispatch::job::Job;
use crate::dispatch::view::Member;

/// Members that take builds, and what they have.
pub(super) struct Slots<'a> {
    members: Vec<&'a Member>,
    candidates: Vec<Candidate<'a>>,
    by_uid: HashMap<&'a str, usize>,
}

/// A slot that was found.
pub(super) struct Slot<'a> {
    pub member: &'a Member,
    /// Why there.
    pub reason: &'static str,
}

impl<'a> Slots<'a> {
    pub fn of(snapshot: &'a Snapshot, now: Timestamp, plan: &mut Plan) -> Self {
        let slots =
            snapshot.pool.as_ref().filter(|pool| pool.deleting.is_none()).map_or(0, |pool| pool.builds_per_member);
        let members: Vec<&Member> = snapshot.members.values().filter(|member| member.takes_builds()).collect();
        let mut all = Self {
            candidates: members
                .iter()
                .map(|member| Candidate {
                    pod: &member.pod,
                    hash: stable_hash(&member.pod),
                    ready: member.ready,
                    open: snapshot.declined.get(&member.uid).is_none_or(|until| plan.reached(*until, now)),
                    builds: 0,
                    slots,
                })
                .collect(),
            by_uid: members.iter().enumerate().map(|(index, member)| (member.uid.as_str(), index)).collect(),
            members,
        };
        for entry in snapshot.assigned_entries() {
            if let Some(uid) = entry.job.status.assigned_to.as_deref() {
                all.take(uid, entry.job.alone());
            }
        }
        for (uid, hold) in &snapshot.held {
            if let (Hold::Writing(Claim::Slot(member)), Some(job)) = (hold, snapshot.job(uid))
                && job.status.assigned_to.is_none()
            {
                // What the bind amends is not in the job's status before it is acknowledged.
                all.take(member, job.alone() || out_of_memory(snapshot, job).is_some());
            }
        }
        all
    }

    /// Whether any build may get a slot.
    pub fn any(&self) -> bool {
        self.candidates.iter().any(Candidate::has_slot)
    }

    /// Whether a ready member other than this one has a slot; that one.
    pub fn better_than(&self, uid: &str, key: u64) -> Option<&'a Member> {
        let mut others = self.candidates.clone();
        if let Some(own) = self.by_uid.get(uid) {
            others[*own].open = false;
        }
        let member = self.members[placement::choose(key, &others)?];
        member.ready.then_some(member)
    }

    /// A job has, or gets, a slot of the member with this UID.
    pub fn take(&mut self, uid: &str, alone: bool) {
        if let Some(candidate) = self.by_uid.get(uid).and_then(|index| self.candidates.get_mut(*index)) {
            candidate.builds += 1;
            candidate.open &= !alone;
        }
    }

    /// Finds a slot for a job and takes it.
    pub fn find(&mut self, job: &Job, alone: bool) -> Option<Slot<'a>> {
        let found = if alone { self.find_alone(job) } else { self.find_warm(job) };
        let (index, reason) = found?;
        self.candidates[index].builds += 1;
        self.candidates[index].open &= !alone;
        Some(Slot { member: self.members[index], reason })
    }

    fn find_warm(&self, job: &Job) -> Option<(usize, &'static str)> {
        let index = placement::choose(job.cache_key, &self.candidates)?;
        let score = |member: &Candidate<'_>| placement::score(job.cache_key, member.hash);
        let home = self.candidates.iter().map(score).max() == self.candidates.get(index).map(score);
        Some((index, if home { "Home" } else { "HomeTaken" }))
    }

    /// An empty member. If there is none, the one with the fewest builds is kept free for the job: it gets nothing else
    /// until the job ran there.
    fn find_alone(&mut self, job: &Job) -> Option<(usize, &'static str)> {
        let fewest = |member: &(usize, &Candidate<'_>)| {
            let score = placement::score(job.cache_key, member.1.hash);
            (member.1.builds, !member.1.ready, std::cmp::Reverse(score))
        };
        let open = self.candidates.iter().enumerate().filter(|(_, member)| member.open);
        let (index, member) = open.min_by_key(fewest)?;
        if member.builds == 0 && member.has_slot() {
            return Some((index, "Alone"));
        }
        self.candidates[index].open = false;
        None
    }
}
