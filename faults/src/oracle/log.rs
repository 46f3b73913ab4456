//! Everything that happens to the objects of a namespace, in order: what the oracles judge.
//!
//! One watch of each kind serves all namespaces of a control plane; none of them passes through the faults.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lock;

/// What is observed: group, version, kind, plural.
const KINDS: [(&str, &str, &str, &str); 9] = [
    ("buildpools.dev", "v1alpha1", "BuildJob", "buildjobs"),
    ("buildpools.dev", "v1alpha1", "BuildPool", "buildpools"),
    ("", "v1", "Pod", "pods"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "Service", "services"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
];

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It was removed.
    Deleted,
}

/// One version of one object.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was seen.
    pub at: Instant,
    /// Its place in the order of all writes: etcd counts for all kinds together.
    pub version: u64,
    /// What became of it.
    pub change: Change,
    /// Plural of its kind.
    pub resource: &'static str,
    /// Name.
    pub name: String,
    /// The object.
    pub object: Arc<Value>,
}

/// What has happened in one namespace.
#[derive(Debug)]
pub struct Log {
    entries: Mutex<Vec<Entry>>,
    changed: watch::Sender<usize>,
}

impl Default for Log {
    fn default() -> Self {
        Self { entries: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Log {
    fn push(&self, entry: Entry) {
        let mut entries = lock(&self.entries);
        entries.push(entry);
        let count = entries.len();
        drop(entries);
        self.changed.send_replace(count);
    }

    /// All entries in the order of their versions.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = lock(&self.entries).clone();
        entries.sort_by_key(|entry| entry.version);
        entries
    }

    /// Tells of every further entry.
    pub fn subscribe(&self) -> watch::Receiver<usize> {
        self.changed.subscribe()
    }

    /// The objects that are there, by resource and name.
    pub fn live(&self) -> BTreeMap<(&'static str, String), Arc<Value>> {
        let mut live = BTreeMap::new();
        for entry in lock(&self.entries).iter() {
            let key = (entry.resource, entry.name.clone());
            match entry.change {
                Change::Deleted => live.remove(&key),
                Change::Added | Change::Modified => live.insert(key, entry.object.clone()),
            };
        }
        live
    }

    /// One object that is there.
    pub fn get(&self, resource: &str, name: &str) -> Option<Arc<Value>> {
        let entries = lock(&self.entries);
        let last = entries.iter().rev().find(|entry| entry.resource == resource && entry.name == name)?;
        (last.change != Change::Deleted).then(|| last.object.clone())
    }

    /// The version before the last `depth` changes of a kind; that of `since` when there were fewer after it.
    pub fn version_back(&self, resource: &str, depth: usize, since: u64) -> u64 {
        let entries = lock(&self.entries);
        let versions = entries.iter().rev().filter(|entry| entry.resource == resource && entry.version > since);
        versions.map(|entry| entry.version - 1).nth(depth.saturating_sub(1)).unwrap_or(since)
    }

    /// The newest version of all.
    pub fn version(&self) -> u64 {
        lock(&self.entries).iter().map(|entry| entry.version).max().unwrap_or(0)
    }

    /// When something was seen last.
    pub fn last_change(&self) -> Option<Instant> {
        lock(&self.entries).last().map(|entry| entry.at)
    }
}

/// Watches all kinds and sorts what it sees by namespace.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    logs: Arc<Mutex<HashMap<String, Arc<Log>>>>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Observer {
    /// Starts to watch. The watches end with the runtime.
    ///
    /// # Errors
    /// When a first list fails.
    pub async fn start(client: &Client) -> Result<Self> {
        let observer = Self::default();
        let mut begun = JoinSet::new();
        for (group, version, kind, resource) in KINDS {
            let api = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), resource);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &api);
            let observer = observer.clone();
            begun.spawn(async move {
                let list =
                    api.list_metadata(&ListParams::default().limit(1)).await.with_context(|| resource.to_owned())?;
                let from = list.metadata.resource_version.unwrap_or_default();
                tokio::spawn(async move {
                    if let Err(error) = observer.follow(resource, api, from).await {
                        *lock(&observer.broken) = Some(format!("observing {resource}: {error:#}"));
                    }
                });
                anyhow::Ok(())
            });
        }
        while let Some(begun) = begun.join_next().await {
            begun??;
        }
        Ok(observer)
    }

    /// The log of a namespace from now on. To be asked for before anything is made there.
    pub fn log(&self, namespace: &str) -> Arc<Log> {
        lock(&self.logs).entry(namespace.to_owned()).or_default().clone()
    }

    /// Nobody asks for this namespace any more.
    pub fn forget(&self, namespace: &str) {
        lock(&self.logs).remove(namespace);
    }

    /// Why the log has a gap, if it has: nothing can be judged by it any more.
    pub fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }

    async fn follow(&self, resource: &'static str, api: Api<DynamicObject>, mut from: String) -> Result<()> {
        loop {
            let events = match api.watch(&WatchParams::default().timeout(290), &from).await {
                Ok(events) => events,
                Err(kube::Error::Api(status)) => bail!("{status}"),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let (change, object) = match event {
                    Ok(WatchEvent::Added(object)) => (Change::Added, object),
                    Ok(WatchEvent::Modified(object)) => (Change::Modified, object),
                    Ok(WatchEvent::Deleted(object)) => (Change::Deleted, object),
                    Ok(WatchEvent::Bookmark(mark)) => {
                        from = mark.metadata.resource_version;
                        continue;
                    }
                    Ok(WatchEvent::Error(status)) => bail!("{status:?}"),
                    Err(_) => break,
                };
                from = object.metadata.resource_version.clone().unwrap_or_default();
                self.take(resource, change, object)?;
            }
        }
    }

    fn take(&self, resource: &'static str, change: Change, mut object: DynamicObject) -> Result<()> {
        object.metadata.managed_fields = None;
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let Some(log) = lock(&self.logs).get(&namespace).cloned() else { return Ok(()) };
        let version = object.metadata.resource_version.as_deref().unwrap_or_default().parse().context("version")?;
        let name = object.metadata.name.clone().unwrap_or_default();
        let object = Arc::new(serde_json::to_value(object)?);
        log.push(Entry { at: Instant::now(), version, change, resource, name, object });
        Ok(())
    }
}
