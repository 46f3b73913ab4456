//! Where the benchmarks run: in the node's namespaces, with a directory of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use buildpools_buildkit::Daemon;
use k8s_openapi::api::core::v1::Pod;

use crate::fixtures::token;
use crate::harness::Environment;

/// Whose login the benchmarks use, on every side.
pub const USER: &str = "alice";

/// Where the kubelet keeps pods, as the node sees it.
const PODS: &str = "/var/lib/kubelet/pods";
/// The emptyDir with the daemon's socket.
const SOCKET_VOLUME: &str = "socket";

/// A directory that ends with the benchmarks.
pub struct Site {
    directory: PathBuf,
}

impl Site {
    /// Makes the directory and checks that this process is in the node.
    ///
    /// # Errors
    /// When the names of the cluster do not resolve here, as they do in the node.
    pub async fn new(environment: &Environment) -> anyhow::Result<Self> {
        let registry = &environment.cluster.registry;
        let addresses = tokio::net::lookup_host(registry).await.with_context(|| {
            format!("{registry} is not known here: the benchmarks run in the node, start them with `make bench`")
        })?;
        drop(addresses);
        let directory = std::env::temp_dir().join(format!("buildpools-bench-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self { directory })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file of the directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// The socket of the daemon in this pod, by a path that is short enough for a socket's address (108 bytes).
    ///
    /// # Errors
    /// When it cannot be linked.
    pub fn socket(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        let uid = pod.metadata.uid.as_deref().context("a pod has a UID")?;
        let link = self.path(uid);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(socket_volume(uid), &link).with_context(|| link.display().to_string())?;
        }
        Ok(link.join("buildkitd.sock"))
    }

    /// The daemon in this pod.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn daemon(&self, pod: &Pod) -> anyhow::Result<Daemon> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        Ok(Daemon::connect_until(self.socket(pod)?, deadline).await?)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}

/// The emptyDir with the daemon's socket of the pod with this UID, as the node sees it.
pub fn socket_volume(uid: &str) -> PathBuf {
    Path::new(PODS).join(uid).join("volumes/kubernetes.io~empty-dir").join(SOCKET_VOLUME)
}

/// A docker configuration with the benchmarks' login.
pub fn docker_config(environment: &Environment) -> String {
    let auth = format!("{USER}:{}", token::Config::password(USER));
    let auth = base64::prelude::BASE64_STANDARD.encode(auth);
    serde_json::json!({"auths": {&environment.cluster.registry: {"auth": auth}}}).to_string()
}
