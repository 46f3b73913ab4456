//! What the kernel says of a process, and the audit log of its requests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

use crate::control_plane::{OPERATOR, OPERATOR_NAMESPACE};

/// Clock ticks per second: `USER_HZ`, which is 100 on every architecture that Linux runs containers on.
const TICKS: f64 = 100.0;

/// Processor time that a process has used, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage(u64);

impl Usage {
    /// Until now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat"))?).context("/proc/PID/stat is not understood")
    }

    /// Fields 14 and 15, see proc(5). The second is the name in parentheses, which may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self(user + system))
    }

    /// Thousandths of a core since then.
    pub fn mcore_since(self, before: Self, time: Duration) -> f64 {
        self.millis_since(before) / time.as_secs_f64()
    }

    /// Milliseconds since then.
    pub fn millis_since(self, before: Self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let ticks = self.0.saturating_sub(before.0) as f64;
        ticks / TICKS * 1000.0
    }
}

/// Memory of a process, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now.
    pub resident: f64,
    /// Of that, what is not a page of a file, such as the program itself.
    pub anonymous: f64,
    /// Resident at most.
    pub peak: f64,
}

/// Memory of a process.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).with_context(|| format!("/proc/PID/status has no {name}"))
    };
    Ok(Memory { resident: field("VmRSS")?, anonymous: field("RssAnon")?, peak: field("VmHWM")? })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    impersonated_user: Option<User>,
    object_ref: Option<ObjectRef>,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

/// The operator's requests since then by kind (`patch buildjobs/status`) and how many; those about its lease are left
/// out.
///
/// # Errors
/// When the log cannot be read.
pub fn requests(log: &Path, since: Timestamp) -> Result<Vec<(String, usize)>> {
    let directory = log.parent().context("the audit log lies in a directory")?;
    let mut requests = BTreeMap::<String, usize>::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // The API server keeps older parts beside it under its name with a time.
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("audit")) {
            for line in BufReader::new(File::open(&path)?).lines() {
                if let Some(request) = request(&line?, since) {
                    *requests.entry(request).or_default() += 1;
                }
            }
        }
    }
    Ok(requests.into_iter().collect())
}

fn request(line: &str, since: Timestamp) -> Option<String> {
    let user = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}");
    // Most lines are about somebody else: they are not worth a parser.
    if !line.contains(&user) {
        return None;
    }
    let entry: Entry = serde_json::from_str(line).ok()?;
    let object = entry.object_ref?;
    let is_wanted = entry.impersonated_user.is_some_and(|is| is.username == user)
        && entry.stage == "ResponseComplete"
        && entry.request_received_timestamp >= since
        && object.resource != "leases";
    let subresource = if object.subresource.is_empty() { String::new() } else { format!("/{}", object.subresource) };
    is_wanted.then(|| format!("{} {}{subresource}", entry.verb, object.resource))
}

/// How many of the requests are of this sort.
pub fn count(requests: &[(String, usize)], what: fn(&str) -> bool) -> usize {
    requests.iter().filter(|(request, _)| what(request)).map(|(_, count)| *count).sum()
}

/// Whether a request is a write.
pub fn is_write(request: &str) -> bool {
    !["get ", "list ", "watch "].iter().any(|read| request.starts_with(read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 3 0 12345 1000 200";
        let usage = Usage::parse(stat).unwrap();
        assert_eq!(usage, Usage(100));
        let mcore = Usage(160).mcore_since(usage, Duration::from_mins(2));
        assert!((mcore - 5.0).abs() < 1e-9, "{mcore}");
        let Memory { resident, anonymous, peak } = memory(std::process::id()).unwrap();
        assert!(anonymous > 0.0 && resident >= anonymous && peak >= resident);
        assert!(Usage::of(std::process::id()).is_ok());
    }

    #[test]
    fn only_the_operators_requests_count() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let line = |user: &str, verb: &str, resource: &str, stage: &str, time: &str| {
            let text = json!({
                "stage": stage, "verb": verb, "user": {"username": "admin"}, "impersonatedUser": {"username": user},
                "objectRef": {"resource": resource, "subresource": "status"}, "requestReceivedTimestamp": time,
            });
            request(&text.to_string(), since)
        };
        let (operator, done) = ("system:serviceaccount:buildpools-system:buildpools-operator", "ResponseComplete");
        let (now, before) = ("2026-01-01T00:00:01.000000Z", "2025-12-31T23:59:59.000000Z");
        let patch = line(operator, "patch", "buildjobs", done, now).unwrap();
        assert_eq!(patch, "patch buildjobs/status");
        assert!(is_write(&patch) && !is_write("list pods"));
        assert_eq!(line("somebody", "patch", "buildjobs", done, now), None);
        assert_eq!(line(operator, "update", "leases", done, now), None);
        assert_eq!(line(operator, "patch", "buildjobs", "ResponseStarted", now), None);
        assert_eq!(line(operator, "patch", "buildjobs", done, before), None);
    }
}
