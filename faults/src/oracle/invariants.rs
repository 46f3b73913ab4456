//! O3: promises that hold at every moment, checked on every version of every object and on what the daemons did.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use buildpools_crds::labels;
use serde_json::Value;

use super::log::{Change, Entry};
use crate::daemon::Solve;

/// Phases in which nothing changes any more.
const TERMINAL: [&str; 3] = ["Succeeded", "Failed", "Cancelled"];

/// How much later than it happened the end of a build may be noted in the record.
const SKEW: Duration = Duration::from_millis(100);

/// What was broken. `stale`: the dispatcher may have decided by an old view, or have given a write up that was
/// carried out later; then only the runner keeps slots from being given away twice.
pub fn judge(entries: &[Entry], solves: &[Solve], stale: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut world = World::default();
    for entry in entries {
        world.see(entry, &mut found);
        if !stale {
            world.is_within_slots(&mut found);
        }
        lost_while_it_ran(entry, solves, &mut found);
    }
    builds(solves, &world, &mut found);
    found.sort();
    found.dedup();
    found
}

#[derive(Default)]
struct World<'a> {
    jobs: BTreeMap<&'a str, &'a Value>,
    /// All pods that there ever were, by UID.
    pods: HashMap<&'a str, &'a Value>,
    /// Slots of a member, by pool.
    slots: HashMap<&'a str, usize>,
    /// UIDs of everything that is or was there.
    uids: HashMap<&'a str, &'a str>,
    /// The pool that a job ran in, by UID of the job.
    pool_of: HashMap<&'a str, String>,
}

impl<'a> World<'a> {
    fn see(&mut self, entry: &'a Entry, found: &mut Vec<String>) {
        let object = &*entry.object;
        let uid = text(&object["metadata"]["uid"]);
        self.uids.insert(uid, &entry.name);
        if entry.change == Change::Added {
            self.is_owned(entry, found);
        }
        match entry.resource {
            "pods" => {
                self.pods.insert(uid, object);
            }
            "buildpools" => {
                let slots = object["spec"]["scaling"]["buildsPerMember"].as_u64().unwrap_or(1);
                let slots = usize::try_from(slots).unwrap_or(usize::MAX);
                let most = self.slots.entry(&entry.name).or_default();
                *most = slots.max(*most);
            }
            "buildjobs" if entry.change == Change::Deleted => {
                self.jobs.remove(uid);
            }
            "buildjobs" => {
                if let Some(before) = self.jobs.insert(uid, object) {
                    step(&entry.name, &before["status"], &object["status"], found);
                }
                self.is_matched(entry, found);
            }
            _ => {}
        }
    }

    /// No member has more jobs than slots.
    fn is_within_slots(&self, found: &mut Vec<String>) {
        let mut assigned: BTreeMap<&str, usize> = BTreeMap::new();
        for job in self.jobs.values() {
            if let Some(pod) = job["status"]["assignedTo"].as_str() {
                *assigned.entry(pod).or_default() += 1;
            }
        }
        for (pod, jobs) in assigned {
            let pool = self.pods.get(pod).map_or("", |pod| text(&pod["metadata"]["labels"][labels::POOL]));
            let slots = self.slots.get(pool).copied().unwrap_or(1);
            if jobs > slots {
                found.push(format!("O3: a member with {slots} slots had {jobs} jobs"));
            }
        }
    }

    /// Every object that a pool makes says whose it is, and that is there.
    fn is_owned(&self, entry: &Entry, found: &mut Vec<String>) {
        if matches!(entry.resource, "buildjobs" | "buildpools") {
            return;
        }
        // What Kubernetes puts into every namespace.
        if entry.object["metadata"]["labels"][labels::POOL].is_null() {
            return;
        }
        let owner = text(&entry.object["metadata"]["ownerReferences"][0]["uid"]);
        if !self.uids.contains_key(owner) {
            found.push(format!("O3: {} {} was made without an owner that exists", entry.resource, entry.name));
        }
    }

    /// A job is assigned to a pod of the pool that it asks for.
    fn is_matched(&mut self, entry: &'a Entry, found: &mut Vec<String>) {
        let status = &entry.object["status"];
        let Some(assigned) = status["assignedTo"].as_str() else { return };
        let wanted = entry.object["spec"]["poolRef"]["name"].as_str().or(status["pool"].as_str()).unwrap_or_default();
        let Some(pod) = self.pods.get(assigned) else {
            found.push(format!("O3: job {} is assigned to {assigned}, which is no pod", entry.name));
            return;
        };
        let pool = text(&pod["metadata"]["labels"][labels::POOL]);
        if pool != wanted || pod["metadata"]["ownerReferences"][0]["kind"] != "StatefulSet" {
            found.push(format!("O3: job {} of pool {wanted} is assigned to a pod of {pool}", entry.name));
        }
        if status["member"] != pod["metadata"]["name"] {
            found.push(format!(
                "O3: job {} is assigned to {}, and says {}",
                entry.name, pod["metadata"]["name"], status["member"]
            ));
        }
        self.pool_of.insert(text(&entry.object["metadata"]["uid"]), wanted.to_owned());
    }
}

/// One write of a job's status.
fn step(job: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    let phase = text(&before["phase"]);
    if TERMINAL.contains(&phase) && before != after {
        found.push(format!("O3: job {job} was {phase} and changed"));
    }
    let attempts = |status: &Value| status["attempts"].as_array().cloned().unwrap_or_default();
    let (old, new) = (attempts(before), attempts(after));
    if new.len() < old.len() {
        found.push(format!("O3: job {job} forgot an attempt"));
    }
    if new.len() > old.len() + 1 {
        found.push(format!("O3: job {job} began two attempts at once"));
    }
    for (index, (old, new)) in old.iter().zip(&new).enumerate() {
        // A result may be made more precise by the operator (out of memory), and is never taken back.
        if !old["result"].is_null() && new["result"].is_null() {
            found.push(format!("O3: job {job} took the result of attempt {} back", index + 1));
        }
    }
    if new.iter().enumerate().any(|(index, attempt)| attempt["number"].as_u64() != Some(index as u64 + 1)) {
        found.push(format!("O3: job {job} has attempts that do not count up"));
    }
    if before["attempt"].as_u64() > after["attempt"].as_u64() {
        found.push(format!("O3: job {job} went from attempt {} to {}", before["attempt"], after["attempt"]));
    }
    let live = new.iter().filter(|attempt| attempt["result"].is_null()).count();
    let running = text(&after["phase"]) == "Running";
    if live > usize::from(running) {
        found.push(format!("O3: job {job} is {} with {live} live attempts", text(&after["phase"])));
    }
    let started = text(&before["phase"]) == "Running" && running && before["runnerInstance"] != after["runnerInstance"];
    if started {
        found.push(format!("O3: job {job} went to another process while it ran"));
    }
    if text(&before["phase"]) == "Running" && text(&after["phase"]) == "Bound" {
        found.push(format!("O3: job {job} was bound while it ran"));
    }
    let assigned = matches!(text(&after["phase"]), "Bound" | "Running");
    if assigned != after["assignedTo"].is_string() {
        found.push(format!("O3: job {job} is {} and assigned to {}", text(&after["phase"]), after["assignedTo"]));
    }
}

/// An attempt has a result only when nothing of it runs any more.
fn lost_while_it_ran(entry: &Entry, solves: &[Solve], found: &mut Vec<String>) {
    if entry.resource != "buildjobs" || entry.change == Change::Deleted {
        return;
    }
    let uid = text(&entry.object["metadata"]["uid"]);
    for attempt in entry.object["status"]["attempts"].as_array().into_iter().flatten() {
        let number = attempt["number"].as_i64();
        let solve = solves.iter().find(|solve| solve.uid == uid && Some(i64::from(solve.attempt)) == number);
        let Some(solve) = solve.filter(|_| !attempt["result"].is_null()) else { continue };
        if solve.end.is_none_or(|end| end > entry.at + SKEW) {
            found.push(format!("O3: attempt {number:?} of job {} had a result while it ran", entry.name));
        }
    }
}

/// What the daemons were asked for.
fn builds(solves: &[Solve], world: &World<'_>, found: &mut Vec<String>) {
    let job = |uid: &str| world.uids.get(uid).map_or(uid.to_owned(), |name| (*name).to_owned());
    for (index, solve) in solves.iter().enumerate() {
        let (uid, attempt) = (&solve.uid, solve.attempt);
        let twice = solves[..index].iter().any(|other| other.uid == *uid && other.attempt == attempt);
        if twice {
            found.push(format!("O3: attempt {attempt} of job {} was solved twice", job(uid)));
        }
        let overlaps = |other: &&Solve| other.end.is_none_or(|end| end > solve.begin);
        let before = || solves[..index].iter().filter(overlaps);
        if before().any(|other| other.uid == *uid) {
            found.push(format!("O3: two attempts of job {} ran at the same time", job(uid)));
        }
        let pool =
            world.pods.get(solve.pod_uid.as_str()).map_or("", |pod| text(&pod["metadata"]["labels"][labels::POOL]));
        let slots = world.slots.get(pool).copied().unwrap_or(1);
        let beside = before().filter(|other| other.pod_uid == solve.pod_uid).count();
        if beside >= slots {
            found.push(format!("O3: {} builds ran on a member with {slots} slots", beside + 1));
        }
        match world.pool_of.get(uid.as_str()) {
            Some(wanted) if wanted == pool => {}
            wanted => found.push(format!("O3: job {} of pool {wanted:?} was built in pool {pool}", job(uid))),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    struct Story {
        entries: Vec<Entry>,
        solves: Vec<Solve>,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            let mut story = Self { entries: vec![], solves: vec![], now: Instant::now() };
            story.add(
                "buildpools",
                "main",
                json!({"metadata": {"uid": "pool"}, "spec": {"scaling": {"buildsPerMember": 1}}}),
            );
            story.pod("main");
            story
        }

        fn add(&mut self, resource: &'static str, name: &str, object: Value) {
            let change = if self.entries.iter().any(|e| e.resource == resource && e.name == name) {
                Change::Modified
            } else {
                Change::Added
            };
            let version = self.entries.len() as u64;
            self.entries.push(Entry {
                // One a second.
                at: self.now + Duration::from_secs(version),
                version,
                change,
                resource,
                name: name.into(),
                object: Arc::new(object),
            });
        }

        fn pod(&mut self, pool: &str) {
            let owner = json!([{"kind": "StatefulSet", "uid": "pool"}]);
            let metadata =
                json!({"name": "main-0", "uid": "pod", "labels": {labels::POOL: pool}, "ownerReferences": owner});
            self.add("pods", "main-0", json!({"metadata": metadata}));
        }

        fn job(&mut self, status: &Value) {
            let spec = json!({"poolRef": {"name": "main"}});
            self.add("buildjobs", "a", json!({"metadata": {"uid": "job"}, "spec": spec, "status": status}));
        }

        fn running(&mut self, instance: &str) {
            self.job(&json!({
                "phase": "Running", "assignedTo": "pod", "member": "main-0", "attempt": 1, "runnerInstance": instance,
                "attempts": [{"number": 1}],
            }));
        }

        fn solve(&mut self, uid: &str, attempt: i32, from: u64, to: u64) {
            let at = |seconds| self.now + Duration::from_secs(seconds);
            let (uid, pod_uid) = (uid.to_owned(), "pod".to_owned());
            let (begin, end) = (at(from), Some(at(to)));
            self.solves.push(Solve { uid, attempt, pod_uid, begin, end, result: String::new() });
        }

        fn found(&self) -> Vec<String> {
            judge(&self.entries, &self.solves, false)
        }
    }

    #[test]
    fn a_good_story_is_without_fault() {
        let mut story = Story::new();
        story.job(&json!({"phase": "Pending"}));
        story.job(&json!({"phase": "Bound", "assignedTo": "pod", "member": "main-0", "attempt": 1}));
        story.running("i");
        story.job(&json!({"phase": "Pending", "attempt": 1, "attempts": [{"number": 1, "result": "DaemonLost"}]}));
        story.job(&json!({
            "phase": "Succeeded", "attempt": 2,
            "attempts": [{"number": 1, "result": "DaemonLost"}, {"number": 2, "result": "Succeeded"}],
        }));
        story.solve("job", 1, 1, 2);
        story.solve("job", 2, 3, 4);
        assert_eq!(story.found(), [""; 0]);
    }

    #[test]
    fn broken_promises_are_found() {
        type Plot = fn(&mut Story);
        let plots: [(&str, Plot); 12] = [
            ("was solved twice", |s| {
                s.solve("job", 1, 1, 2);
                s.solve("job", 1, 3, 4);
            }),
            ("ran at the same time", |s| {
                s.solve("job", 1, 1, 3);
                s.solve("job", 2, 2, 4);
            }),
            ("2 builds ran on a member with 1 slots", |s| {
                s.solve("job", 1, 1, 3);
                s.solve("other", 1, 2, 4);
            }),
            ("was Failed and changed", |s| {
                s.job(&json!({"phase": "Failed", "attempts": [{"number": 1, "result": "Internal"}], "attempt": 1}));
                s.job(&json!({"phase": "Pending", "attempts": [{"number": 1, "result": "Internal"}], "attempt": 1}));
            }),
            ("went to another process", |s| s.running("j")),
            ("forgot an attempt", |s| s.job(&json!({"phase": "Pending", "attempt": 1}))),
            ("live attempts", |s| s.job(&json!({"phase": "Pending", "attempt": 1, "attempts": [{"number": 1}]}))),
            ("and assigned to", |s| {
                s.job(&json!({"phase": "Pending", "assignedTo": "pod", "member": "main-0", "attempt": 1,
                    "attempts": [{"number": 1, "result": "Internal"}]}));
            }),
            ("is assigned to a pod of other", |s| {
                s.pod("other");
                s.running("i");
            }),
            ("had a result while it ran", |s| {
                s.solve("job", 1, 1, 9);
                s.job(&json!({"phase": "Pending", "attempt": 1, "attempts": [{"number": 1, "result": "Internal"}]}));
            }),
            ("with 1 slots had 2 jobs", |s| {
                let status = json!({"phase": "Bound", "assignedTo": "pod", "member": "main-0"});
                s.add(
                    "buildjobs",
                    "b",
                    json!({"metadata": {"uid": "b"}, "spec": {"poolRef": {"name": "main"}}, "status": status}),
                );
            }),
            ("was bound while it ran", |s| {
                s.job(&json!({"phase": "Bound", "assignedTo": "pod", "member": "main-0", "attempt": 1,
                    "attempts": [{"number": 1, "result": "Internal"}]}));
            }),
        ];
        for (expected, plot) in plots {
            let mut story = Story::new();
            story.running("i");
            plot(&mut story);
            let found = story.found();
            assert!(found.iter().any(|fault| fault.contains(expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn an_object_of_a_pool_has_an_owner_that_exists() {
        let mut story = Story::new();
        story.add(
            "services",
            "s",
            json!({"metadata": {"labels": {labels::POOL: "main"}, "ownerReferences": [{"uid": "x"}]}}),
        );
        assert_eq!(story.found(), ["O3: services s was made without an owner that exists"]);
    }
}
