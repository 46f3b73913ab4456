//! Pools and their members, as the watches tell of them.

use jiff::Timestamp;
use tracing::warn;

use super::World;
use crate::dispatch::nodes::Standing;
use crate::dispatch::view::{Gone, Key, Member, Pool};
use crate::kube_ext::listing::Change;

impl World {
    pub(super) fn see_pool(&mut self, change: Change<Pool>, now: Timestamp) {
        match change {
            Change::Begin => self.listed_pools.begin(),
            Change::Has(key, pool) => {
                self.listed_pools.has(&key);
                let known = self.state(&key, now).snapshot.pool.clone();
                let pool = pool.unwrap_or_else(|error| {
                    warn!(namespace = key.0, pool = key.1, error, "a BuildPool cannot be read");
                    // It exists, so its jobs wait. With what was known of it, or else without a slot.
                    known.clone().unwrap_or_else(Pool::unreadable)
                });
                // Members report in the pool's status: nothing to decide anew.
                if known.as_ref() != Some(&pool) {
                    self.routes.has_pool(&key);
                    self.put_pool(&key, Some(pool), now);
                }
            }
            Change::Complete => {
                let known = self.pools.iter().filter(|(_, state)| state.snapshot.pool.is_some()).map(|(key, _)| key);
                for key in self.listed_pools.gone(known) {
                    self.drop_pool(&key, now);
                }
            }
            Change::Gone(key, _) => self.drop_pool(&key, now),
        }
    }

    fn drop_pool(&mut self, key: &Key, now: Timestamp) {
        if self.pools.contains_key(key) {
            self.routes.lost_pool(key);
            self.put_pool(key, None, now);
        }
    }

    fn put_pool(&mut self, key: &Key, pool: Option<Pool>, now: Timestamp) {
        let snapshot = &mut self.state(key, now).snapshot;
        for (uid, member) in &mut snapshot.members {
            member.closed = pool.as_ref().and_then(|pool| pool.closed.get(uid)).cloned();
        }
        snapshot.set_pool(pool, now);
        self.dirty.insert(key.clone());
        self.pool_changed(key);
    }

    pub(super) fn see_pod(&mut self, change: Change<Option<(Key, Member)>>, now: Timestamp) {
        match change {
            Change::Begin => self.listed_pods.begin(),
            Change::Has(key, member) => {
                self.listed_pods.has(&key);
                match member {
                    Ok(Some((pool, member))) => self.put_pod(key, pool, member, now),
                    Ok(None) => self.drop_pod(&key, None),
                    Err(error) => warn!(namespace = key.0, pod = key.1, error, "a pod cannot be read"),
                }
            }
            Change::Complete => {
                for key in self.listed_pods.gone(self.pods.keys()) {
                    self.drop_pod(&key, None);
                }
            }
            Change::Gone(key, last) => self.drop_pod(&key, last.flatten().map(|(_, member)| member)),
        }
    }

    fn put_pod(&mut self, key: Key, pool: Key, member: Member, now: Timestamp) {
        if self.pods.get(&key).is_some_and(|known| (&known.0, &known.1) != (&pool, &member.uid)) {
            // A StatefulSet's pods come again under the same name.
            self.drop_pod(&key, None);
        }
        self.pods.insert(key, (pool.clone(), member.uid.clone()));
        let member = Member { standing: self.nodes.standing(&member.node), ..member };
        let snapshot = &mut self.state(&pool, now).snapshot;
        let closed = snapshot.pool.as_ref().and_then(|pool| pool.closed.get(&member.uid)).cloned();
        let member = Member { closed, ..member };
        if snapshot.members.get(&member.uid) != Some(&member) {
            snapshot.members.insert(member.uid.clone(), member);
            self.dirty.insert(pool);
        }
    }

    pub(super) fn see_node(&mut self, change: Change<Standing>) {
        if let Change::Has((_, node), Err(error)) = &change {
            warn!(node, error, "a Node cannot be read");
        }
        let Self { nodes, pools, dirty, .. } = self;
        if !nodes.see(change) {
            return;
        }
        for (key, state) in pools {
            for member in state.snapshot.members.values_mut().filter(|member| !member.deleted) {
                let standing = nodes.standing(&member.node);
                if member.standing != standing {
                    member.standing = standing;
                    dirty.insert(key.clone());
                }
            }
        }
    }

    fn drop_pod(&mut self, key: &Key, last: Option<Member>) {
        let Some((pool, uid)) = self.pods.remove(key) else { return };
        let Some(state) = self.pools.get_mut(&pool) else { return };
        if let Some(known) = state.snapshot.members.remove(&uid) {
            // Kept until no job is assigned to it, because it knows why it went.
            let last = last.filter(|last| last.uid == uid).unwrap_or(known);
            let gone = Gone::absent(&last.pod);
            state.snapshot.members.insert(uid, last.deleted(gone));
            self.dirty.insert(pool);
        }
    }
}
