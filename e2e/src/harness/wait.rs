//! Waiting for conditions. No test sleeps: it watches an object until a predicate holds.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::Api;
use kube::runtime::watcher::{self, watch_object};
use serde::de::DeserializeOwned;

/// How long a test waits for something that should happen within seconds. Generous: machines differ, and a test that
/// waits for a condition loses no time by it.
pub const SOON: Duration = Duration::from_mins(1);

/// How long a test waits for a whole build, with the start of a member.
pub const BUILD: Duration = Duration::from_mins(3);

/// Watches the object until the predicate holds; the predicate sees `None` while the object does not exist.
///
/// # Errors
/// When `limit` has passed: the error has the object as it was last seen.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    mut predicate: impl FnMut(Option<&K>) -> bool,
) -> anyhow::Result<Option<K>>
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + serde::Serialize + Send + 'static,
{
    let mut last: Option<K> = None;
    let watch = async {
        let mut stream = watch_object(api.clone(), name).boxed();
        loop {
            match stream.try_next().await {
                Ok(Some(object)) => {
                    last = object;
                    if predicate(last.as_ref()) {
                        return Ok(());
                    }
                }
                Ok(None) => anyhow::bail!("the watch of {name} ended"),
                // The API server may be away for a moment: tests stop parts of the cluster.
                Err(watcher::Error::InitialListFailed(_) | watcher::Error::WatchStartFailed(_)) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => tracing::debug!(%error, name, "watch"),
            }
        }
    };
    if let Ok(result) = tokio::time::timeout(limit, watch).await {
        return result.map(|()| last);
    }
    let seen = match &last {
        Some(object) => serde_yaml::to_string(object)?,
        None => "it does not exist".to_owned(),
    };
    anyhow::bail!("{name}: waited {limit:?} in vain: {what}; last seen:\n{seen}")
}

/// Runs `probe` every 100 ms until it gives a value, for what cannot be watched (files, processes).
///
/// # Errors
/// When `limit` has passed, or the probe fails.
pub async fn poll<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
