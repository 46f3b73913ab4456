//! Whose turn it is: the waiting jobs of a pool, in the order in which they get slots.
//!
//! 1. The level (`spec.priority`) with the highest *effective* priority: its own, and one more for each whole minute
//!    since a job of it got a slot last, or since its oldest job waits, whichever is later. So no level starves.
//! 2. In it the group with the least use of the pool for its weight, in whole seconds; so groups that have used the same
//!    but for fractions are served by age, and a group whose use has decayed to nothing is not passed over for ever.
//! 3. In it the oldest job.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

/// Place by age: creation, then name (namespace is the same), then UID.
pub type Place = (Timestamp, Arc<str>, Arc<str>);

/// Where a job stands in a [`Queue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its level.
    pub priority: i32,
    /// Its group; empty for all in a pool without groups.
    pub group: String,
    /// Its age.
    pub place: Place,
}

/// Waiting jobs, by level, group and age.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    levels: BTreeMap<i32, Level>,
    /// When a job of a level got a slot last. At most as many as there are priorities.
    served: BTreeMap<i32, Timestamp>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Level {
    groups: HashMap<String, BTreeSet<Place>>,
    /// The first of each group.
    heads: BTreeSet<Place>,
}

/// What groups have used, and what they are due.
pub trait Shares {
    /// Build-seconds of a group so far.
    fn used(&self, group: &str) -> f64;
    /// Weight of a group, at least 1.
    fn weight(&self, group: &str) -> f64;
    /// Build-seconds that one job is expected to take.
    fn estimate(&self) -> f64;
}

impl Queue {
    /// Adds a job. Adding it again changes nothing.
    pub fn insert(&mut self, ticket: Ticket) {
        let level = self.levels.entry(ticket.priority).or_default();
        let group = level.groups.entry(ticket.group).or_default();
        let head = group.first().cloned();
        if group.insert(ticket.place.clone()) {
            self.len += 1;
            if head.as_ref().is_none_or(|head| ticket.place < *head) {
                head.map(|head| level.heads.remove(&head));
                level.heads.insert(ticket.place);
            }
        }
    }

    /// Takes a job out.
    pub fn remove(&mut self, ticket: &Ticket) {
        let Some(level) = self.levels.get_mut(&ticket.priority) else { return };
        let Some(group) = level.groups.get_mut(&ticket.group) else { return };
        if !group.remove(&ticket.place) {
            return;
        }
        self.len -= 1;
        if level.heads.remove(&ticket.place) {
            level.heads.extend(group.first().cloned());
        }
        if group.is_empty() {
            level.groups.remove(&ticket.group);
        }
        if level.groups.is_empty() {
            self.levels.remove(&ticket.priority);
        }
    }

    /// A job of a level got a slot.
    pub fn served(&mut self, priority: i32, now: Timestamp) {
        self.served.insert(priority, now);
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the job that waits longest was created.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.levels.values().filter_map(|level| level.heads.first()).map(|place| place.0).min()
    }

    /// The jobs in the order in which they get slots, if they all got them now. Taking the first few costs little.
    pub fn order<'a>(&'a self, shares: &'a dyn Shares, now: Timestamp) -> Order<'a> {
        let rank = |(priority, level): (&i32, &'a Level)| {
            let waiting = level.heads.first().map_or(now, |place| place.0);
            let since = self.served.get(priority).map_or(waiting, |served| waiting.max(*served));
            let minutes = now.duration_since(since).as_mins().max(0);
            Rank { priority: *priority, effective: minutes.saturating_add((*priority).into()), level, turns: None }
        };
        Order { ranks: self.levels.iter().map(rank).collect(), used: HashMap::new(), shares }
    }
}

/// The order of a [`Queue`]. It counts each job that it has named as one that got a slot.
pub struct Order<'a> {
    ranks: Vec<Rank<'a>>,
    used: HashMap<&'a str, f64>,
    shares: &'a dyn Shares,
}

struct Rank<'a> {
    priority: i32,
    effective: i64,
    level: &'a Level,
    turns: Option<BinaryHeap<Reverse<Turn<'a>>>>,
}

/// The next job of one group.
struct Turn<'a> {
    share: u64,
    place: &'a Place,
    group: &'a str,
    rest: std::collections::btree_set::Iter<'a, Place>,
}

impl PartialEq for Turn<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn<'_> {}

impl PartialOrd for Turn<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.share, self.place).cmp(&(other.share, other.place))
    }
}

/// A job in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next<'a> {
    /// Its level.
    pub priority: i32,
    /// Its group.
    pub group: &'a str,
    /// Its age.
    pub place: &'a Place,
}

impl<'a> Order<'a> {
    fn share(&mut self, group: &'a str) -> u64 {
        let used = *self.used.entry(group).or_insert_with(|| self.shares.used(group));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds, saturating")]
        let share = (used / self.shares.weight(group).max(1.0)) as u64;
        share
    }

    fn turns(&mut self, level: &'a Level) -> BinaryHeap<Reverse<Turn<'a>>> {
        let turn = |(group, places): (&'a String, &'a BTreeSet<Place>)| {
            let mut rest = places.iter();
            let place = rest.next()?;
            Some(Reverse(Turn { share: self.share(group), place, group, rest }))
        };
        level.groups.iter().filter_map(turn).collect()
    }

    fn next_of(&mut self, turns: &mut BinaryHeap<Reverse<Turn<'a>>>) -> Option<(&'a str, &'a Place)> {
        loop {
            let Reverse(mut turn) = turns.pop()?;
            let share = self.share(turn.group);
            if share > turn.share {
                // The group has got slots since, in this level or another.
                turn.share = share;
                turns.push(Reverse(turn));
                continue;
            }
            let (group, place) = (turn.group, turn.place);
            *self.used.entry(group).or_default() += self.shares.estimate();
            if let Some(place) = turn.rest.next() {
                turns.push(Reverse(Turn { share: self.share(group), place, ..turn }));
            }
            return Some((group, place));
        }
    }
}

impl<'a> Iterator for Order<'a> {
    type Item = Next<'a>;

    fn next(&mut self) -> Option<Next<'a>> {
        loop {
            let best = self.ranks.iter().enumerate().max_by_key(|(_, rank)| (rank.effective, rank.priority))?.0;
            let (level, turns) = (self.ranks[best].level, self.ranks[best].turns.take());
            let mut turns = turns.unwrap_or_else(|| self.turns(level));
            let Some((group, place)) = self.next_of(&mut turns) else {
                self.ranks.swap_remove(best);
                continue;
            };
            let rank = &mut self.ranks[best];
            rank.turns = Some(turns);
            rank.effective = rank.priority.into();
            return Some(Next { priority: rank.priority, group, place });
        }
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
