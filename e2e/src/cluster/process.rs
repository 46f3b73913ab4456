//! Processes of the node: started so that they outlive this program, known by pid files, watched while they start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Layout, node};
use crate::fixtures::write_atomically;

/// How many lines of a log an error shows.
const TAIL_LINES: usize = 15;

/// A process of the cluster. A pid file is this as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// `kubelet`, `etcd`, …: names the pid file and the log.
    pub name: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: tells it from a later process with its number.
    start_time: u64,
    /// Its output.
    pub log: PathBuf,
}

impl Process {
    /// The process of this name, running or not.
    pub fn load(layout: &Layout, name: &str) -> Result<Self> {
        let path = pid_file(layout, name);
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// All processes that were started, by name.
    pub fn all(layout: &Layout) -> Vec<Self> {
        let entries = fs::read_dir(layout.run("")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_suffix(".pid").map(str::to_owned)
        });
        let mut all: Vec<_> = names.filter_map(|name| Self::load(layout, &name).ok()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// An error with the end of the log when it does not run.
    pub fn check(&self) -> Result<()> {
        if self.is_alive() {
            return Ok(());
        }
        bail!("{} ended; the last lines of {}:\n{}", self.name, self.log.display(), tail(&self.log))
    }
}

/// Starts `program` in the node. It writes to its log, and has no terminal and no part in the fate of this process.
pub fn start<I, S>(layout: &Layout, name: &str, program: &Path, arguments: I) -> Result<Process>
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let group = super::cgroup::Group::new(&layout.cgroup())?;
    let inside = node::command(layout, "setsid")?;
    let mut command = Command::new(inside.get_program());
    command.args(inside.get_args());
    // The process joins the cluster's control group before it becomes what it is to be.
    command.args(["sh", "-c", r#"echo $$ >"$0"; exec "$@""#]).arg(group.node_procs()).arg(program).args(arguments);
    command.env_clear().env("PATH", layout.search_path()).env("HOME", "/root");
    spawn(layout, name, &mut command)
}

/// Starts the command, whose `exec`s must all stay in the one process, and writes the pid file.
pub fn spawn(layout: &Layout, name: &str, command: &mut Command) -> Result<Process> {
    let log = layout.log(name);
    // To append, as a child that opens /dev/stdout anew (nginx) has a position of its own.
    let output = File::options().append(true).create(true).open(&log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let pid = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?.id();
    let start_time = start_time(pid).with_context(|| format!("{name} ended at once, see {}", log.display()))?;
    let process = Process { name: name.into(), pid, start_time, log };
    let path = pid_file(layout, name);
    write_atomically(&path, &serde_json::to_vec(&process)?).with_context(|| path.display().to_string())?;
    Ok(process)
}

/// Waits until `ready` says so; an error of `ready` counts as "not yet" and is shown when the time is over. Fails at once
/// when one of the processes that it depends on ends.
pub async fn wait_until<F>(what: &str, timeout: Duration, processes: &[&Process], mut ready: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<bool>,
{
    let deadline = Instant::now() + timeout;
    loop {
        let answer = ready().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        for process in processes {
            process.check().with_context(|| format!("waiting for {what}"))?;
        }
        if Instant::now() >= deadline {
            let why = answer.err().map(|error| format!(": {error:#}")).unwrap_or_default();
            let logs: Vec<_> =
                processes.iter().map(|p| format!("\n--- {}:\n{}", p.log.display(), tail(&p.log))).collect();
            bail!("{what}: not ready after {timeout:?}{why}{}", logs.concat());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn pid_file(layout: &Layout, name: &str) -> PathBuf {
    layout.run(&format!("{name}.pid"))
}

/// Field 22 of /proc/PID/stat, see proc(5); none when the process is gone or a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_good_for_one_process_only() {
        let pid = std::process::id();
        let own = Process { name: "own".into(), pid, start_time: start_time(pid).unwrap(), log: "log".into() };
        assert!(own.is_alive());
        assert!(!Process { start_time: own.start_time + 1, ..own }.is_alive());
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process =
            Process { name: "z".into(), pid: child.id(), start_time: start_time(child.id()).unwrap(), log: "l".into() };
        assert!(process.is_alive());
        child.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert!(Path::new(&format!("/proc/{}", process.pid)).exists());
        child.wait().unwrap();
    }
}
