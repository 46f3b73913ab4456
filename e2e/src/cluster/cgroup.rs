//! Control groups: who belongs to a cluster, in cgroup v1 and v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The group of a cluster in every hierarchy. Node processes are in the sub-group `node`, pods below `kubepods`.
#[derive(Clone, Debug)]
pub struct Group {
    name: String,
    /// The mount points of the hierarchies: one with cgroup v2, one for each controller and maybe that one with v1.
    hierarchies: Vec<PathBuf>,
    /// The hierarchy that lists all processes of the group.
    tracking: PathBuf,
}

impl Group {
    /// The group called `name`, which need not exist yet.
    pub fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        let (v1, v2): (Vec<_>, Vec<_>) = mounts.lines().filter_map(parse_mount).partition(|mount| !mount.v2);
        // In a hybrid set-up the v2 hierarchy has no controllers and the v1 hierarchies are what counts. Of those, the
        // pids hierarchy takes processes without any set-up, other than cpuset.
        let pids = v1.iter().find(|mount| mount.controllers.iter().any(|controller| controller == "pids"));
        let tracking = if v1.is_empty() { v2.first() } else { pids };
        let tracking = tracking.context("there is no cgroup v2 and no pids hierarchy of cgroup v1")?.path.clone();
        Ok(Self {
            name: name.into(),
            hierarchies: v1.into_iter().chain(v2).map(|mount| mount.path).collect(),
            tracking,
        })
    }

    /// Makes the group in all hierarchies, with the sub-group for node processes.
    pub fn create(&self) -> Result<()> {
        self.enable_controllers();
        for hierarchy in &self.hierarchies {
            let path = hierarchy.join(&self.name);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let node = self.tracking.join(&self.name).join("node");
        fs::create_dir_all(&node).with_context(|| node.display().to_string())
    }

    /// With cgroup v2 a group has the controllers that its parent passes on, and the kubelet wants all of them. With v1
    /// the file does not exist. A controller that cannot be had is for the kubelet to judge.
    fn enable_controllers(&self) {
        let controllers = fs::read_to_string(self.tracking.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            let _ = fs::write(self.tracking.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }

    /// A process that writes its number here becomes a node process of the group.
    pub fn node_procs(&self) -> PathBuf {
        self.tracking.join(&self.name).join("node/cgroup.procs")
    }

    /// All processes of the group and the groups below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = vec![];
        for hierarchy in &self.hierarchies {
            for directory in descendants(&hierarchy.join(&self.name)) {
                let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                pids.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills every process of the group, waits until they are gone and removes the group.
    pub fn destroy(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Processes that are being born are caught by the next round.
            let alive: Vec<_> = self.processes();
            if alive.is_empty() && self.remove_groups() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "processes {alive:?} of control group {} do not die", self.name);
            for pid in alive.into_iter().filter_map(Pid::from_raw) {
                // It may have died by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether no group is left. A group whose last process has just died may still be busy.
    fn remove_groups(&self) -> bool {
        for hierarchy in &self.hierarchies {
            // Children come after their parents in the list.
            for directory in descendants(&hierarchy.join(&self.name)).iter().rev() {
                drop(fs::remove_dir(directory));
            }
        }
        self.hierarchies.iter().all(|hierarchy| !hierarchy.join(&self.name).exists())
    }
}

struct Mount {
    path: PathBuf,
    v2: bool,
    controllers: Vec<String>,
}

/// A line of mountinfo, see proc(5): `36 35 98:0 /root /mount/point options - type source super-options`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let path = PathBuf::from(mount.split(' ').nth(4)?);
    let mut filesystem = filesystem.split(' ');
    let v2 = match filesystem.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let controllers = filesystem.nth(1)?.split(',').map(str::to_owned).collect();
    Some(Mount { path, v2, controllers })
}

/// The directory and all below it, parents first; empty when it does not exist.
fn descendants(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut next = if directory.exists() { vec![directory.to_owned()] } else { vec![] };
    while let Some(directory) = next.pop() {
        let children = fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_directory = |entry: &fs::DirEntry| -> io::Result<bool> { Ok(entry.file_type()?.is_dir()) };
        next.extend(children.filter(|entry| is_directory(entry).unwrap_or(false)).map(|entry| entry.path()));
        found.push(directory);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_names_the_hierarchies() {
        let v1 = "33 27 0:28 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids";
        let mount = parse_mount(v1).unwrap();
        assert_eq!((mount.path.as_path(), mount.v2), (Path::new("/sys/fs/cgroup/pids"), false));
        assert!(mount.controllers.contains(&"pids".into()));
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert!(parse_mount(v2).unwrap().v2);
        assert!(parse_mount("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw").is_none());
    }
}
