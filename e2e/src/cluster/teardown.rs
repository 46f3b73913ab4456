//! Removes every trace of a cluster, whatever state it is in.

use std::fs;
use std::io;

use anyhow::{Context as _, Result};

use super::cgroup::Group;
use super::steps::Step;
use super::{Layout, network};

/// Removes the cluster; nothing happens when there is none.
pub fn down(layout: &Layout) -> Result<()> {
    let _lock = layout.lock_cluster()?;
    let step = Step::new(format!("{} removed", layout.name));
    remove(layout)?;
    step.done();
    Ok(())
}

/// The processes first: the mount namespaces, and with them all mounts, end with the last of them. Nothing here relies on
/// what a cluster has written down, so it works after any crash.
pub(super) fn remove(layout: &Layout) -> Result<()> {
    Group::new(&layout.cgroup())?.destroy()?;
    network::destroy(layout)?;
    match fs::remove_dir_all(&layout.dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", layout.dir.display()))
        }
        _ => Ok(()),
    }
}
