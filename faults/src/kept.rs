//! Processes that end when they are dropped, and with this process whatever kills it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use buildpools_e2e::cluster::Layout;
use buildpools_e2e::cluster::process::{self, Process};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A running process. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Kept {
    process: Process,
    /// Parent of the process: the kernel sends the death signal when the *thread* ends that has made the child.
    parent: Option<JoinHandle<()>>,
}

impl Kept {
    /// Starts `program` with nothing but these variables in its environment; its output goes to the log of that name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        layout: &Layout,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.env_clear().env("PATH", layout.search_path()).envs(variables.iter().copied());
        let (sender, started) = mpsc::channel();
        let (layout, name) = (layout.clone(), name.to_owned());
        let parent = std::thread::Builder::new().name(format!("parent of {name}")).spawn(move || {
            let spawned = process::spawn(&layout, &name, &mut command);
            let pid = spawned.as_ref().ok().and_then(pid);
            // Whoever asked is waiting.
            let _ = sender.send(spawned);
            if let Some(pid) = pid {
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        })?;
        let process = started.recv().context("the thread that starts processes ended")??;
        Ok(Self { process, parent: Some(parent) })
    }

    /// What is known of the process: number, log, whether it runs.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends a signal. A process that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        // Its number is its own until it is waited for, and whoever waits is our thread.
        if let Some(pid) = pid(&self.process).filter(|_| !self.has_ended()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.parent.as_ref().is_none_or(JoinHandle::is_finished) || !self.process.is_alive()
    }

    /// Waits for its end.
    pub fn wait(mut self) {
        self.join();
    }

    /// Ends it at once.
    pub fn kill(self) {
        drop(self);
    }

    fn join(&mut self) {
        if let Some(parent) = self.parent.take() {
            let _ = parent.join();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.parent.is_some() {
            self.signal(Signal::KILL);
            self.join();
        }
    }
}

fn pid(process: &Process) -> Option<Pid> {
    i32::try_from(process.pid).ok().and_then(Pid::from_raw)
}
