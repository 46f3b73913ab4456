//! What others may know of a running cluster.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Layout;
use super::layout::{GIT_HOST, REGISTRY_HOST, REGISTRY_PORT, TOKEN_PORT};
use crate::fixtures::token;
use crate::fixtures::write_atomically;

/// A running cluster, as its `cluster.json` describes it. Host names in it resolve in pods and on the node; from the host
/// all of them are at `node_ip`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInfo {
    /// The cluster's name, which is the node's too.
    pub name: String,
    /// The cluster's directory.
    pub dir: PathBuf,
    /// The node: API server, registry, token and git server listen here.
    pub node_ip: Ipv4Addr,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The registry as image names have it: `registry.buildpools.test:5000`.
    pub registry: String,
    /// Where the registry keeps its images.
    pub registry_storage: PathBuf,
    /// The token server: `https://registry.buildpools.test:5001/token`.
    pub token_url: String,
    /// The token server's configuration, read at each request: `fixtures::token::Config::write` changes it.
    pub token_config: PathBuf,
    /// The token server's log of requests, for `fixtures::token::log::read`.
    pub token_log: PathBuf,
    /// The token server's users with their passwords.
    pub users: BTreeMap<String, String>,
    /// The git server: `https://git.buildpools.test`.
    pub git_url: String,
    /// The git server's repositories, for `fixtures::git::publish`.
    pub git_root: PathBuf,
    /// The users of repositories below `/private` of the git server, for `fixtures::git::write_htpasswd`.
    pub git_htpasswd: PathBuf,
    /// Certificate of the CA of registry, token and git server (PEM).
    pub ca: PathBuf,
    /// The API server's audit log, level Metadata, one JSON object in a line.
    pub audit_log: PathBuf,
    /// Programs of the cluster: kubectl, ctr, crane, buildctl and the others.
    pub tools: PathBuf,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// containerd's persistent data.
    pub containerd_root: PathBuf,
    /// The kubelet's data; the node sees it as `/var/lib/kubelet`. Its mounts exist in the node's namespace only.
    pub kubelet_root: PathBuf,
    /// The dynamic volumes.
    pub volumes: PathBuf,
    /// The processes' logs, `<process>.log`.
    pub logs: PathBuf,
}

impl ClusterInfo {
    /// The cluster that this layout leads to.
    pub fn of(layout: &Layout) -> Result<Self> {
        let registry = format!("{REGISTRY_HOST}:{REGISTRY_PORT}");
        let users = token::Config::demo(&registry).users;
        Ok(Self {
            name: layout.name.clone(),
            dir: layout.dir.clone(),
            node_ip: layout.addresses()?.node,
            kubeconfig: layout.kubeconfig(),
            registry,
            registry_storage: layout.data("registry"),
            token_url: format!("https://{REGISTRY_HOST}:{TOKEN_PORT}/token"),
            token_config: layout.config("token.yaml"),
            token_log: layout.log("token"),
            users: users.into_iter().map(|(name, user)| (name, user.password)).collect(),
            git_url: format!("https://{GIT_HOST}"),
            git_root: layout.data("git"),
            git_htpasswd: layout.config("git.htpasswd"),
            ca: layout.ca_cert(),
            audit_log: layout.audit_log(),
            tools: layout.tools(),
            containerd_socket: layout.containerd_socket(),
            containerd_root: layout.data("containerd"),
            kubelet_root: layout.data("kubelet"),
            volumes: layout.data("volumes"),
            logs: layout.dir.join("logs"),
        })
    }

    /// The running cluster called `name`; an error when it was not started.
    pub fn load(name: &str) -> Result<Self> {
        let path = Self::path(&Layout::new(name)?);
        let text =
            fs::read(&path).with_context(|| format!("{}: start the cluster with `make cluster`", path.display()))?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes `cluster.json`.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = Self::path(layout);
        write_atomically(&path, &serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())
    }

    fn path(layout: &Layout) -> PathBuf {
        layout.dir.join("cluster.json")
    }

    /// A program of the cluster.
    pub fn tool(&self, program: &str) -> PathBuf {
        self.tools.join(program)
    }

    /// The log of a process: `kubelet`, `kube-apiserver`, …
    pub fn log(&self, process: &str) -> PathBuf {
        Path::new(&self.logs).join(format!("{process}.log"))
    }
}
