//! Every point of every story with every fault: learn, plan, run, judge.
//!
//! Two runs without a fault say which points a story has and how it ends. Then each point is run with each fault that may
//! happen there; whoever died is started again, and the run goes on until it is at rest.

pub mod scenarios;
pub mod world;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt as _};

pub use scenarios::Scenario;
pub use world::Shared;
use world::World;

use crate::inject::{Fault, Kind, Part, Point};
use crate::oracle::counts::{self, Counts};
use crate::oracle::invariants;
use crate::oracle::state::State;

/// How a story goes when nothing goes wrong.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The story.
    pub scenario: Scenario,
    /// Its points, in order, with what is done there.
    pub points: Vec<(Kind, Point)>,
    /// The end; without the traces of attempts in the second.
    ends: [State; 2],
    counts: Counts,
}

/// One run to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The story.
    pub scenario: Scenario,
    /// What is done where something goes wrong.
    pub kind: Kind,
    /// Where.
    pub point: Point,
    /// What.
    pub fault: Fault,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} / {} / {}", self.scenario, self.point, self.fault)
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The run.
    pub case: Case,
    /// Whether it came to its point at all.
    pub reached: bool,
    /// What was broken.
    pub violations: Vec<String>,
    /// Everything that happened.
    pub trace: String,
}

/// Namespaces are numbered.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// Runs a story twice without a fault.
///
/// # Errors
/// When it does not end well by itself, or not twice in the same way.
pub async fn learn(shared: &Shared, scenario: Scenario) -> Result<Reference> {
    let (first, second) = tokio::try_join!(learn_once(shared, scenario), learn_once(shared, scenario))?;
    let different = crate::oracle::state::differences(&second.ends[0], &first.ends[0]);
    ensure!(different.is_empty(), "{scenario:?} ends in two ways: {different:#?}");
    // Points that are there by chance only cannot be planned for.
    let stable: HashSet<&Point> = second.points.iter().map(|(_, point)| point).collect();
    let points = first.points.iter().filter(|(_, point)| stable.contains(point)).cloned().collect();
    let mut counts = first.counts;
    for (what, count) in second.counts {
        let most = counts.entry(what).or_default();
        *most = count.max(*most);
    }
    Ok(Reference { points, counts, ..first })
}

async fn learn_once(shared: &Shared, scenario: Scenario) -> Result<Reference> {
    let (world, played) = play(shared, scenario, None).await?;
    let mut why: Vec<String> = played.err().map(|error| format!("{error:#}")).into_iter().collect();
    if why.is_empty() {
        why = world.rest(None, false).await;
    }
    let site = world.site().clone();
    let entries = site.log.entries();
    why.extend(invariants::judge(&entries, &site.record.solves(), false));
    let ends = [world.state(false), world.state(true)];
    why.extend(world.end().await);
    ensure!(why.is_empty(), "{scenario:?} without a fault: {why:#?}\n{}", render(&site));
    let points = site.injector.seen();
    Ok(Reference { scenario, points, ends, counts: counts::count(&entries) })
}

async fn play(shared: &Shared, scenario: Scenario, plan: Option<(Point, Fault)>) -> Result<(World, Result<()>)> {
    let namespace = format!("run-{}", RUNS.fetch_add(1, Ordering::SeqCst));
    let mut world = World::start(shared, &namespace, scenario.script(), plan).await?;
    let stage = async {
        scenario.set_up(&world).await?;
        world.set().await
    };
    if let Err(error) = stage.await {
        return Ok((world, Err(error.context("before the story"))));
    }
    world.arm();
    let played = scenario.play(&world).await;
    Ok((world, played))
}

/// The runs of a story.
pub fn plan(reference: &Reference) -> Vec<Case> {
    let Reference { scenario, points, .. } = reference;
    // A read is a point the first time only, and where pools are what the story is about: what comes later is the same
    // read in another moment.
    let wanted = |kind: Kind, point: &Point| kind != Kind::Read || (point.nth == 1 && scenario.is_about_pools());
    let points = points.iter().filter(|(kind, point)| wanted(*kind, point));
    points
        .flat_map(|(kind, point)| {
            let scenario = *scenario;
            Fault::of(*kind).iter().map(move |fault| Case {
                scenario,
                kind: *kind,
                point: point.clone(),
                fault: *fault,
            })
        })
        .collect()
}

/// One run.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(shared: &Shared, reference: &Reference, case: &Case) -> Result<Verdict> {
    let planned = Some((case.point.clone(), case.fault));
    let (world, played) = play(shared, case.scenario, planned).await?;
    let site = world.site().clone();
    let lossy = loses_attempts(case);
    let mut violations: Vec<String> = played.err().map(|error| format!("{error:#}")).into_iter().collect();
    if violations.is_empty() {
        violations = world.rest(Some(&reference.ends[usize::from(lossy)]), lossy).await;
    }
    let entries = site.log.entries();
    violations.extend(counts::judge(&counts::count(&entries), &reference.counts));
    let stale = matches!(case.fault, Fault::Stale(_) | Fault::Late);
    violations.extend(invariants::judge(&entries, &site.record.solves(), stale));
    violations.extend(world.end().await);
    let reached = site.injector.fired().is_some();
    let trace = if violations.is_empty() { String::new() } else { render(&site) };
    Ok(Verdict { case: case.clone(), reached, violations, trace })
}

/// Whether attempts may be lost beside those of the story: a build does not outlive its runner or its connection.
fn loses_attempts(case: &Case) -> bool {
    matches!(case.point.part, Part::Runner(_))
        && (case.fault.is_crash() || case.point.call.starts_with("solve") || case.point.call.starts_with("history"))
}

/// Runs many side by side. Each verdict is told as it comes.
///
/// # Errors
/// When the harness itself fails.
pub async fn run_all(
    shared: &Shared,
    references: &BTreeMap<Scenario, Arc<Reference>>,
    cases: Vec<Case>,
    side_by_side: usize,
    mut tell: impl FnMut(&Verdict),
) -> Result<Vec<Verdict>> {
    let runs = cases.into_iter().filter_map(|case| {
        let reference = references.get(&case.scenario)?.clone();
        let shared = shared.clone();
        Some(async move { tokio::spawn(async move { run(&shared, &reference, &case).await }).await? })
    });
    let mut runs = stream::iter(runs).buffer_unordered(side_by_side);
    let mut verdicts = Vec::new();
    while let Some(verdict) = runs.next().await {
        let verdict = verdict?;
        if let Some(broken) = shared.observer.broken() {
            anyhow::bail!("nothing can be judged any more: {broken}");
        }
        tell(&verdict);
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Everything that happened, for people.
fn render(site: &crate::members::Site) -> String {
    for entry in site.log.entries() {
        let mut object = (*entry.object).clone();
        let status = object["status"].take();
        let text = match entry.resource {
            "buildjobs" | "buildpools" => status.to_string(),
            _ => String::new(),
        };
        let crate::oracle::log::Entry { at, version, change, resource, name, .. } = entry;
        site.trace.at(at, format!("etcd {version:<7} {change:?} {resource} {name} {text}"));
    }
    for solve in site.record.solves() {
        let crate::daemon::Solve { uid, attempt, pod_uid, begin, end, result } = solve;
        site.trace.at(begin, format!("daemon       of pod {pod_uid} begins {uid}-{attempt}"));
        if let Some(end) = end {
            site.trace.at(end, format!("daemon       of pod {pod_uid} ends {uid}-{attempt}: {result}"));
        }
    }
    site.trace.render()
}
