//! The readiness probe: a file that exists while the runner is ready.
//!
//! It lies in the runner container's own file system and not beside the daemon's socket: RUN steps can reach that
//! directory (design decision 11). There is no listener, because RUN steps share the pod's network.

use std::path::{Path, PathBuf};

/// The file. `/tmp` of the runner container is not shared with any other.
const FILE: &str = "/tmp/buildpools-ready";

/// What the exec probe asks.
pub fn is_ready() -> bool {
    Path::new(FILE).exists()
}

/// The conditions of readiness of this process, and the file.
#[derive(Debug)]
pub struct Probe {
    file: PathBuf,
    instance: String,
    daemon: bool,
    watching: bool,
    stopping: bool,
}

impl Probe {
    /// Not ready, and neither is a process that ran before in this pod: its file is removed.
    pub fn new(instance: &str) -> Self {
        Self::at(PathBuf::from(FILE), instance)
    }

    fn at(file: PathBuf, instance: &str) -> Self {
        let probe = Self { file, instance: instance.to_owned(), daemon: false, watching: false, stopping: false };
        probe.write();
        probe
    }

    /// The daemon answers, or does not.
    pub fn daemon(&mut self, answers: bool) {
        self.daemon = answers;
        self.write();
    }

    /// The jobs are watched, or not any more.
    pub fn watching(&mut self, synced: bool) {
        self.watching = synced;
        self.write();
    }

    /// No more jobs are taken.
    pub fn stopping(&mut self) {
        self.stopping = true;
        self.write();
    }

    fn write(&self) {
        let ready = self.daemon && self.watching && !self.stopping;
        let result = if ready {
            std::fs::write(&self.file, &self.instance)
        } else {
            match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        if let Err(error) = result {
            tracing::error!(%error, file = %self.file.display(), "cannot report readiness");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_daemon_and_watch_and_not_stopping() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ready");
        std::fs::write(&file, "the process before").unwrap();
        let mut probe = Probe::at(file.clone(), "instance");
        assert!(!file.exists(), "the file of an earlier process is removed");
        probe.daemon(true);
        assert!(!file.exists());
        probe.watching(true);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "instance");
        probe.daemon(false);
        assert!(!file.exists());
        probe.daemon(true);
        assert!(file.exists());
        probe.stopping();
        assert!(!file.exists());
        probe.daemon(true);
        assert!(!file.exists());
    }
}
