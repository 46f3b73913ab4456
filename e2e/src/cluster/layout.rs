//! Names, directories and addresses of a cluster.

use std::env;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// Name of a cluster when nothing else is said.
pub const DEFAULT_NAME: &str = "buildpools";
/// The registry's name for pods and for the node.
pub const REGISTRY_HOST: &str = "registry.buildpools.test";
/// The git server's name for pods and for the node.
pub const GIT_HOST: &str = "git.buildpools.test";
/// Port of the registry.
pub const REGISTRY_PORT: u16 = 5000;
/// Port of the registry's token server.
pub const TOKEN_PORT: u16 = 5001;
/// Port of the API server.
pub const API_PORT: u16 = 6443;

/// How many clusters fit into the benchmarking range 198.18.0.0/15 (RFC 2544), 8192 addresses each.
const SLOTS: u8 = 16;

/// Where everything of one cluster is.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The cluster's name, a DNS label.
    pub name: String,
    /// What survives clusters: tools, images, test CA.
    pub cache: PathBuf,
    /// The cluster's own directory, removed with it.
    pub dir: PathBuf,
}

impl Layout {
    /// The layout of the cluster called `name`, by the environment: `BUILDPOOLS_CACHE` (default
    /// `$XDG_CACHE_HOME/buildpools` or `~/.cache/buildpools`) and `BUILDPOOLS_STATE` (default `/var/lib/buildpools-e2e`).
    pub fn new(name: &str) -> Result<Self> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            (1..=30).contains(&name.len()) && name.chars().all(label) && !name.starts_with('-') && !name.ends_with('-'),
            "cluster name {name:?}: at most 30 lower-case letters, digits and inner dashes"
        );
        let state = directory("BUILDPOOLS_STATE").unwrap_or_else(|| "/var/lib/buildpools-e2e".into());
        let cache = match directory("BUILDPOOLS_CACHE") {
            Some(cache) => cache,
            None => match (directory("XDG_CACHE_HOME"), directory("HOME")) {
                (Some(cache), _) => cache.join("buildpools"),
                (None, Some(home)) => home.join(".cache/buildpools"),
                (None, None) => bail!("set BUILDPOOLS_CACHE, XDG_CACHE_HOME or HOME"),
            },
        };
        Ok(Self { name: name.into(), cache, dir: state.join(name) })
    }

    /// Links to all tools.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools/bin")
    }

    /// A tool's program.
    pub fn tool(&self, program: &str) -> PathBuf {
        self.tools().join(program)
    }

    /// The `PATH` of the cluster's processes.
    pub fn search_path(&self) -> String {
        let path = env::var("PATH").unwrap_or_default();
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{path}", self.tools().display())
    }

    /// Certificate of the test CA, which all clusters of one cache share, as images trust it.
    pub fn ca_cert(&self) -> PathBuf {
        self.cache.join("ca/ca.crt")
    }

    /// Key of the test CA.
    pub fn ca_key(&self) -> PathBuf {
        self.cache.join("ca/ca.key")
    }

    /// A configuration file.
    pub fn config(&self, file: &str) -> PathBuf {
        self.dir.join("config").join(file)
    }

    /// A key or certificate of this cluster.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.dir.join("pki").join(file)
    }

    /// A process's log.
    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    /// Sockets and pid files.
    pub fn run(&self, file: &str) -> PathBuf {
        self.dir.join("run").join(file)
    }

    /// What a process keeps.
    pub fn data(&self, file: &str) -> PathBuf {
        self.dir.join("data").join(file)
    }

    /// The cluster administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The API server's audit log.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("logs/audit.log")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.run("containerd.sock")
    }

    /// The node's network namespace, as `ip netns` names it.
    pub fn netns(&self) -> String {
        format!("buildpools-{}", self.name)
    }

    /// The node's end of the connection is `eth0`, the host's has this name. It fits an interface name's 15 bytes and
    /// follows from the cluster's name, so that a leftover is found without any state.
    pub fn host_interface(&self) -> String {
        let digest = Sha256::digest(&self.name);
        format!("bp-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
    }

    /// The control group of all processes of the cluster, below the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("buildpools-{}", self.name)
    }

    /// The addresses of the cluster, once [`Layout::take_slot`] has chosen them.
    pub fn addresses(&self) -> Result<Addresses> {
        let path = self.dir.join("slot");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Addresses::of_slot(text.trim().parse().with_context(|| path.display().to_string())?)
    }

    /// Chooses addresses that no other cluster and no interface of the host has.
    pub fn take_slot(&self, host_addresses: &str) -> Result<Addresses> {
        let _lock = self.lock("slots")?;
        let state = self.dir.parent().context("the state directory has a parent")?;
        let mut taken = vec![];
        for entry in fs::read_dir(state)?.flatten().filter(|entry| entry.path() != self.dir) {
            if let Ok(slot) = fs::read_to_string(entry.path().join("slot")) {
                taken.push(slot.trim().to_owned());
            }
        }
        for slot in 0..SLOTS {
            let addresses = Addresses::of_slot(slot)?;
            if !taken.contains(&slot.to_string()) && !host_addresses.contains(&format!(" {}/", addresses.host)) {
                fs::write(self.dir.join("slot"), slot.to_string())?;
                return Ok(addresses);
            }
        }
        bail!("{SLOTS} clusters are there already; `cluster down --name …` removes one")
    }

    /// Waits for a lock shared by all processes with this cache and holds it until the file is dropped.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.cache.join("locks").join(name);
        let lock = || {
            fs::create_dir_all(self.cache.join("locks"))?;
            let file = File::create(&path)?;
            file.lock()?;
            std::io::Result::Ok(file)
        };
        lock().with_context(|| path.display().to_string())
    }

    /// Serialises what changes this cluster.
    pub fn lock_cluster(&self) -> Result<File> {
        self.lock(&format!("cluster-{}", self.name))
    }
}

fn directory(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The repository's root, which holds the Dockerfile and the recipes of tools and images.
pub fn repository() -> &'static Path {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().unwrap_or(e2e)
}

/// The address plan of one cluster: 8192 addresses that start at `base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The host's end of the connection to the node.
    pub host: Ipv4Addr,
    /// The node.
    pub node: Ipv4Addr,
    /// Prefix length of the network of those two.
    pub node_prefix: u8,
    /// Everything of the cluster.
    pub all: String,
    /// Services.
    pub services: String,
    /// The API server's service: the first of them.
    pub api_service: Ipv4Addr,
    /// The DNS service: the tenth, as is custom.
    pub dns_service: Ipv4Addr,
    /// Pods.
    pub pods: String,
}

impl Addresses {
    fn of_slot(slot: u8) -> Result<Self> {
        ensure!(slot < SLOTS, "there is no slot {slot}");
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + u32::from(slot) * 8192;
        let at = |offset: u32| Ipv4Addr::from(base + offset);
        Ok(Self {
            host: at(1),
            node: at(2),
            node_prefix: 24,
            all: format!("{}/19", at(0)),
            services: format!("{}/21", at(2048)),
            api_service: at(2048 + 1),
            dns_service: at(2048 + 10),
            pods: format!("{}/20", at(4096)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_stay_in_the_benchmarking_range() {
        let first = Addresses::of_slot(0).unwrap();
        assert_eq!((first.host, first.all.as_str()), (Ipv4Addr::new(198, 18, 0, 1), "198.18.0.0/19"));
        assert_eq!((first.services.as_str(), first.pods.as_str()), ("198.18.8.0/21", "198.18.16.0/20"));
        let last = Addresses::of_slot(SLOTS - 1).unwrap();
        assert_eq!((last.all.as_str(), last.pods.as_str()), ("198.19.224.0/19", "198.19.240.0/20"));
        assert!(Addresses::of_slot(SLOTS).is_err());
    }

    #[test]
    fn names_are_labels() {
        for name in ["", "-a", "a-", "A", "a.b", "a/b", &"a".repeat(31)] {
            assert!(Layout::new(name).is_err(), "{name:?}");
        }
        let layout = Layout::new("a-1").unwrap();
        assert!(layout.host_interface().len() <= 15);
        assert_ne!(layout.host_interface(), Layout::new("a-2").unwrap().host_interface());
    }
}
