//! What a watch says, and its lists: what a complete one did not have is gone.

use std::collections::HashSet;

use kube::Resource;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::watcher::Event;

/// Namespace and name of an object; the namespace is empty where it has none.
pub type Key = (String, String);

/// Key of an object.
pub fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// A change of the objects of one kind.
#[derive(Debug)]
pub enum Change<T> {
    /// A complete list begins.
    Begin,
    /// The object is there. Or it is there and cannot be read, which must not stop the watch.
    Has(Key, Result<T, String>),
    /// The list is complete: what it did not have is gone.
    Complete,
    /// The object is gone; what it was last, if that can be read.
    Gone(Key, Option<T>),
}

impl<T> Change<T> {
    /// From a watch that guards against objects that cannot be read.
    pub fn of<K: Resource>(
        event: Event<DeserializeGuard<K>>,
        has: impl FnOnce(K) -> T,
        gone: impl FnOnce(K) -> T,
    ) -> Self {
        match event {
            Event::Init => Self::Begin,
            Event::InitDone => Self::Complete,
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key(object.meta());
                Self::Has(key, object.0.map(has).map_err(|invalid| invalid.error))
            }
            Event::Delete(object) => Self::Gone(key(object.meta()), object.0.ok().map(gone)),
        }
    }
}

/// How far the lists of one kind are.
#[derive(Debug, Default)]
pub struct Listing {
    /// Whether one was complete.
    pub synced: bool,
    /// What the list that is being received has had so far.
    seen: Option<HashSet<Key>>,
}

impl Listing {
    /// A list begins.
    pub fn begin(&mut self) {
        self.seen = Some(HashSet::new());
    }

    /// The object is there.
    pub fn has(&mut self, key: &Key) {
        if let Some(seen) = &mut self.seen {
            seen.insert(key.clone());
        }
    }

    /// The list is complete. Returns what was in it.
    pub fn complete(&mut self) -> HashSet<Key> {
        self.synced = true;
        self.seen.take().unwrap_or_default()
    }

    /// The list is complete. Returns what is known and was not in it.
    pub fn gone<'a>(&mut self, known: impl Iterator<Item = &'a Key>) -> Vec<Key> {
        let seen = self.complete();
        known.filter(|key| !seen.contains(*key)).cloned().collect()
    }
}
