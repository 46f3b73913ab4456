//! A pool with one warm member, and a way past buildpools to its daemon.

use std::path::PathBuf;

use anyhow::Context as _;
use buildpools_buildkit::Daemon;
use buildpools_crds::lifecycle::Member;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::site::Site;
use crate::harness::Tenant;

/// A warm member of a pool that has no other.
pub struct WarmMember {
    /// Its pod.
    pub pod: Pod,
    /// Who it is.
    pub member: Member,
    /// Its daemon.
    pub daemon: Daemon,
    /// The daemon's socket, seen from the node.
    pub socket: PathBuf,
}

impl WarmMember {
    /// The member of the pool of this name, which is made if it is not there, for so many builds at a time.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(tenant: &Tenant, site: &Site, pool: &str, builds: i32) -> anyhow::Result<Self> {
        if tenant.pools().get_opt(pool).await?.is_none() {
            tenant.pool(pool).spec(|spec| spec.scaling.builds_per_member = builds).create_ready().await?;
        }
        let pod = tenant.pods().get(&format!("{pool}-0")).await?;
        let member = Member { pod: pod.name_any(), uid: pod.uid().context("a pod has a UID")? };
        Ok(Self { daemon: site.daemon(&pod).await?, socket: site.socket(&pod)?, member, pod })
    }
}
