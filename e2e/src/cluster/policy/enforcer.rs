//! The process that watches and loads. A pod that is being made waits here until its rules are loaded.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::plugin::{Request, Verb};
use super::snapshot::Snapshot;
use super::{nft, rules};
use crate::fixtures::shutdown::Stop;

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How to reach the API server
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Where the network plugin asks
    #[arg(long)]
    pub socket: PathBuf,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the API server cannot be watched, or the rules cannot be loaded.
pub async fn run(options: Options) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let mut stop = Stop::catch()?;
    let state = Arc::new(State::default());
    let (namespaces, pods, policies) = (
        follow::<Namespace>(&client, &state),
        follow::<Pod>(&client, &state),
        follow::<NetworkPolicy>(&client, &state),
    );
    tokio::try_join!(namespaces.wait_until_ready(), pods.wait_until_ready(), policies.wait_until_ready())?;
    let work = async {
        let mut loaded = String::new();
        loop {
            // Before the objects are read, so that what comes meanwhile is looked at again.
            let changed = state.changed.notified();
            let starting = state.starting();
            let uids: Vec<_> = pods.state().iter().filter_map(|pod| pod.uid()).collect();
            let snapshot = Snapshot::of(
                namespaces.state().iter().map(AsRef::as_ref),
                pods.state().iter().map(AsRef::as_ref),
                policies.state().iter().map(AsRef::as_ref),
                &starting,
            );
            let text = nft::render(&rules::rules(&snapshot));
            if text != loaded {
                nft::load(&text).await?;
                loaded = text;
            }
            // Pods that are known, and whose address was.
            let ready = starting.into_iter().filter(|(uid, _)| uids.contains(uid)).collect();
            state.loaded.send_replace(ready);
            changed.await;
        }
    };
    let doors = serve(&options.socket, &state);
    info!("NetworkPolicies are enforced");
    tokio::select! {
        done = work => done,
        done = doors => done,
        () = stop.told() => Ok(()),
    }
}

#[derive(Default)]
struct State {
    changed: Notify,
    /// Address by the pod's UID, as the network plugin says: a pod's status has it later.
    addresses: Mutex<BTreeMap<String, (String, Ipv4Addr)>>,
    /// Of those, the ones whose rules are loaded.
    loaded: watch::Sender<BTreeMap<String, Ipv4Addr>>,
}

impl State {
    fn starting(&self) -> BTreeMap<String, Ipv4Addr> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.iter().map(|(uid, (_, address))| (uid.clone(), *address)).collect()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, (String, Ipv4Addr)>)) {
        change(&mut self.addresses.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

/// Keeps all objects of a kind.
fn follow<K>(client: &Client, state: &Arc<State>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let objects = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    let state = state.clone();
    tokio::spawn(reflector::reflector(writer, objects).for_each(move |event| {
        match event {
            Ok(_) => state.changed.notify_one(),
            Err(error) => warn!("watching {} is interrupted: {error}", K::kind(&())),
        }
        std::future::ready(())
    }));
    store
}

async fn serve(socket: &Path, state: &Arc<State>) -> Result<()> {
    // Of an earlier process.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
    loop {
        let (stream, _) = listener.accept().await?;
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &state).await {
                warn!("{error:#}");
            }
        });
    }
}

/// Answers when it is done.
async fn answer(mut stream: UnixStream, state: &State) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    let Request { verb, sandbox, pod, address } = serde_json::from_str(&line)?;
    match (verb, address) {
        (Verb::Add, Some(address)) => {
            state.change(|all| drop(all.insert(pod.clone(), (sandbox, address))));
            let mut loaded = state.loaded.subscribe();
            loaded.wait_for(|ready| ready.get(&pod) == Some(&address)).await?;
        }
        // The address of a sandbox that was replaced meanwhile is another.
        _ => state.change(|all| all.retain(|_, (of, _)| *of != sandbox)),
    }
    stream.write_all(b"done\n").await?;
    Ok(())
}
