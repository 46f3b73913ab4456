//! A disk of a given size: an ext4 image, mounted on the node and offered as a volume. The cluster's own volumes are
//! directories, which have no size.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use buildpools_e2e::cluster::{Layout, node};
use buildpools_e2e::harness::Tenant;
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

/// Goes with the value; its volume goes when it was released.
pub struct Disk {
    /// Storage class that only this disk has.
    pub class: String,
    layout: Layout,
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// A disk of so many MiB, with so many inodes.
    pub fn new(tenant: &Tenant, mebibytes: u64, inodes: Option<u32>) -> anyhow::Result<Self> {
        let layout = Layout::new(&tenant.environment.cluster.name)?;
        let volumes = &tenant.environment.cluster.volumes;
        let class = format!("disk-{}", tenant.namespace);
        let disk = Self { image: volumes.join(format!("{class}.img")), mount: volumes.join(&class), class, layout };
        std::fs::create_dir_all(&disk.mount)?;
        std::fs::File::create(&disk.image)?.set_len(mebibytes << 20)?;
        let mut make = Command::new("mkfs.ext4");
        make.arg("-qF");
        if let Some(inodes) = inodes {
            make.args(["-N", &inodes.to_string()]);
        }
        run(make.arg(&disk.image))?;
        run(node::command(&disk.layout, "mount")?.args(["-o", "loop"]).arg(&disk.image).arg(&disk.mount))?;
        Ok(disk)
    }

    /// Offers it to this claim and no other.
    pub async fn offer(&self, tenant: &Tenant, claim: &str, size: &str) -> anyhow::Result<()> {
        let client = &tenant.environment.client;
        let nodes: Api<Node> = Api::all(client.clone());
        let name = nodes.list(&ListParams::default()).await?.items.pop().and_then(|node| node.metadata.name);
        let here = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [name.context("a node")?]}]);
        let volume = json!({
            "metadata": {"name": self.class},
            "spec": {
                "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": self.class,
                "persistentVolumeReclaimPolicy": "Retain", "local": {"path": self.mount},
                "claimRef": {"namespace": tenant.namespace, "name": claim},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": here}]}},
            },
        });
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        volumes.create(&PostParams::default(), &serde_json::from_value(volume)?).await?;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The member may still use it: the mount goes with its last user, and the loop device with the mount.
        let unmounted =
            node::command(&self.layout, "umount").and_then(|mut umount| run(umount.arg("-l").arg(&self.mount)));
        if let Err(error) = unmounted {
            eprintln!("{}: {error:#}", self.mount.display());
        }
        let _ = std::fs::remove_file(&self.image);
        let kubectl = self.layout.tool("kubectl");
        let delete = ["delete", "persistentvolume", &self.class, "--wait=false", "--ignore-not-found"];
        if let Err(error) = run(Command::new(kubectl).env("KUBECONFIG", self.layout.kubeconfig()).args(delete)) {
            eprintln!("{error:#}");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
