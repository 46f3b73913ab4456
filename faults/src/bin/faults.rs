//! `faults`: every point of every story with every fault, at a real API server.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use buildpools_faults::control_plane::{ControlPlane, Options, User};
use buildpools_faults::inject::{Fault, Kind, Upstream};
use buildpools_faults::matrix::{self, Case, Reference, Scenario, Shared, Verdict};
use buildpools_faults::members::Admin;
use buildpools_faults::oracle::log::Observer;
use clap::Parser;

/// Runs stories with faults and judges how they end.
#[derive(Debug, Parser)]
struct Cli {
    /// Only these stories.
    #[arg(long, value_enum)]
    story: Vec<Scenario>,
    /// Only points whose text contains this, for instance "patch buildjobs/status a: Bound #1".
    #[arg(long, default_value = "")]
    point: String,
    /// Only these faults.
    #[arg(long)]
    fault: Vec<Fault>,
    /// Only one of so many parts, chosen by the seed.
    #[arg(long, default_value_t = 1)]
    parts: usize,
    /// Which part; the commit's number in `make test`.
    #[arg(long, default_value_t = 0)]
    seed: usize,
    /// Runs side by side.
    #[arg(long, default_value_t = 32)]
    side_by_side: usize,
    /// Seconds until a run must be at rest.
    #[arg(long, default_value_t = 90)]
    patience: u64,
    /// Only at points of this kind.
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
    /// Prints the points and runs nothing.
    #[arg(long)]
    list: bool,
    /// Stops at the first violation.
    #[arg(long)]
    fail_fast: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: &Cli) -> Result<bool> {
    let began = Instant::now();
    let plane = ControlPlane::start(Options::default()).await?;
    let client = plane.client(User::Admin).await?;
    let shared = Shared {
        upstream: Upstream::new(client.clone()),
        observer: Observer::start(&client).await?,
        client: Admin(client),
        patience: Duration::from_secs(cli.patience),
    };
    // A story that does not end well by itself is a finding like any other.
    let references = match learn(cli, &shared).await {
        Ok(references) => references,
        Err(error) => {
            println!("VIOLATION without a fault: {error:#}");
            return Ok(false);
        }
    };
    let cases: Vec<Case> = references.values().flat_map(|reference| matrix::plan(reference)).collect();
    let points: usize = references.values().map(|reference| reference.points.len()).sum();
    let all = cases.len();
    let cases: Vec<Case> = cases
        .into_iter()
        .enumerate()
        .filter(|(index, case)| index % cli.parts == cli.seed % cli.parts && is_wanted(cli, case))
        .map(|(_, case)| case)
        .collect();
    println!(
        "{points} points, {all} runs, {} of them now (part {} of {})",
        cases.len(),
        cli.seed % cli.parts + 1,
        cli.parts
    );
    if cli.list {
        for case in &cases {
            println!("{case}");
        }
        return Ok(true);
    }
    let (mut done, now) = (0, cases.len());
    let verdicts = matrix::run_all(&shared, &references, cases, cli.side_by_side, |verdict| {
        show(verdict);
        done += 1;
        if done % 50 == 0 {
            println!("{done} of {now} after {} s", began.elapsed().as_secs());
        }
        if cli.fail_fast && !verdict.violations.is_empty() {
            // The control plane ends with this process.
            std::process::exit(1);
        }
    })
    .await?;
    Ok(summary(&verdicts, began.elapsed()))
}

async fn learn(cli: &Cli, shared: &Shared) -> Result<BTreeMap<Scenario, Arc<Reference>>> {
    let stories: Vec<Scenario> =
        if cli.story.is_empty() { <Scenario as clap::ValueEnum>::value_variants().to_vec() } else { cli.story.clone() };
    let learned = stories.into_iter().map(async |story| {
        let reference = matrix::learn(shared, story).await.with_context(|| format!("learning {story:?}"))?;
        anyhow::Ok((story, Arc::new(reference)))
    });
    Ok(futures::future::try_join_all(learned).await?.into_iter().collect())
}

fn is_wanted(cli: &Cli, case: &Case) -> bool {
    case.point.to_string().contains(&cli.point)
        && (cli.fault.is_empty() || cli.fault.contains(&case.fault))
        && (cli.kind.is_empty() || cli.kind.contains(&case.kind))
}

fn show(verdict: &Verdict) {
    let Verdict { case, reached, violations, trace } = verdict;
    if violations.is_empty() && !reached {
        println!("not reached: {case}");
    }
    if !violations.is_empty() {
        println!("\nVIOLATION in {case}\n  {}\n{trace}", violations.join("\n  "));
        let story = clap::ValueEnum::to_possible_value(&case.scenario);
        let story = story.map(|story| story.get_name().to_owned()).unwrap_or_default();
        println!("again: make faults ARGS='--story {story} --point \"{}\" --fault {}'\n", case.point, case.fault);
    }
}

/// One line; whether all is well. A point that is not reached is no proof of anything: more than one in fifty is a fault
/// of the harness.
fn summary(verdicts: &[Verdict], took: Duration) -> bool {
    let violated = verdicts.iter().filter(|verdict| !verdict.violations.is_empty()).count();
    let missed = verdicts.iter().filter(|verdict| !verdict.reached).count();
    println!(
        "{} runs, {missed} did not reach their point, {violated} with violations, {} s",
        verdicts.len(),
        took.as_secs()
    );
    violated == 0 && missed * 50 <= verdicts.len()
}
