//! Which member a build goes to: rendezvous hashing, so that the same project finds its warm cache again.
//!
//! Each member has a score for each cache key; the key's home is the member with the highest. A member that comes or
//! goes moves only the keys whose highest score it has. The hash is of the pod's *name*, because the cache volume
//! follows the name, and does not change with the program's version.
//!
//! The load is bounded: a home that is full passes the build on to the key's next member, and a member with more than a
//! few builds does not get far above the mean while others have room.

use std::cmp::Reverse;

use sha2::{Digest as _, Sha256};

/// Most that a member may have of the mean load, while another has a slot.
pub const LOAD_FACTOR: f64 = 1.25;

/// Builds up to which a member is not called overloaded whatever the others have: with so few the mean says nothing, and
/// a warm cache is worth more than an even load.
pub const FEW: usize = 8;

/// A member, and how full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Name of the pod.
    pub pod: &'a str,
    /// [`stable_hash`] of that name.
    pub hash: u64,
    /// Whether it takes builds at once.
    pub ready: bool,
    /// Whether it may get another build, if it has a slot.
    pub open: bool,
    /// Builds that it has.
    pub builds: usize,
    /// Builds that it may have.
    pub slots: usize,
}

impl Candidate<'_> {
    /// Whether another build may go there.
    pub fn has_slot(&self) -> bool {
        self.open && self.builds < self.slots
    }
}

/// A hash of a text that stays the same over versions and machines.
pub fn stable_hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// How well a member suits a key.
pub fn score(key: u64, member: u64) -> u64 {
    // Both are hashes already: what is left is to mix them (the finaliser of MurmurHash3).
    let mut mixed = key ^ member.rotate_left(32);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// Most builds that one of so many members may have when all have so many together.
pub fn limit(builds: usize, members: usize, slots: usize) -> usize {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let share = (LOAD_FACTOR * builds as f64 / members.max(1) as f64).ceil() as usize;
    share.max(FEW).min(slots)
}

/// The member for a build with this cache key: of those with a slot the best suited that is not overloaded, a ready one
/// if there is one. Its index.
pub fn choose(key: u64, members: &[Candidate<'_>]) -> Option<usize> {
    [true, false].into_iter().find_map(|ready| {
        let class = || members.iter().enumerate().filter(move |(_, member)| member.ready == ready);
        let builds = class().map(|(_, member)| member.builds).sum::<usize>() + 1;
        let count = class().count();
        class()
            .filter(|(_, member)| member.has_slot())
            .max_by_key(|(_, member)| {
                let fits = member.builds < limit(builds, count, member.slots);
                // If all that have a slot are above the bound, the least loaded is next to it.
                let load = if fits { 0 } else { member.builds };
                (fits, Reverse(load), score(key, member.hash), Reverse(member.pod))
            })
            .map(|(index, _)| index)
    })
}

#[cfg(test)]
#[path = "placement_tests.rs"]
pub(super) mod tests;
