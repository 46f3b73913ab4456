//! Throughput without builds: the real operator as a process, real runners in this one, daemons that are done at once, at
//! a real API server whose etcd is in memory. What is measured is the way of a job, not what it builds.

pub mod daemon;
pub mod fleet;
pub mod sustained;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJob, BuildJobSpec};
use buildpools_e2e::bench::arrivals::{self, LIGHTEST, Side};
use buildpools_e2e::bench::figure::Figure;
use buildpools_e2e::bench::ideal::{self, Dispatcher, IdealJob};
use buildpools_e2e::bench::sample;
use buildpools_e2e::harness::wait;
use futures::FutureExt as _;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use self::daemon::Prompt;
use self::fleet::{Fleet, NAMESPACE, POOL};
use crate::control_plane::{ControlPlane, Options, User};

/// Figures of [`run`]: those of the blocks that arrive, and those of the blocks that are carried.
pub const FIGURES: [&[&str]; 2] = [
    &["dispatch_over_ideal_20ps", "dispatch_over_ideal_20ps_p99", "reached_over_offered_20ps"],
    &["sustained_jobs_per_s", "sustained_over_ideal_writer"],
];

/// Measures so many blocks of 60 jobs that arrive 20 a second, and so many of 300 as fast as they go. None leaves a part
/// out.
///
/// # Errors
/// When something does not start or a job fails.
pub async fn run(arriving: usize, carried: usize) -> Result<Vec<Figure>> {
    let plane = ControlPlane::start(Options::default()).await?;
    let admin = plane.client(User::Admin).await?;
    let daemon = Prompt::default();
    let fleet = Fleet::start(&plane, &admin, &daemon).await?;
    ideal::install(&admin).await?;
    let jobs: Api<BuildJob> = Api::namespaced(admin.clone(), NAMESPACE);
    let ideal_jobs: Api<IdealJob> = Api::namespaced_with(admin.clone(), NAMESPACE, &ideal::resource());
    let spec: BuildJobSpec = serde_json::from_value(json!({
        "poolRef": {"name": POOL},
        "context": {"inline": {"files": [{"path": "Dockerfile", "content": LIGHTEST}]}},
    }))?;
    let solve: ideal::Solve = {
        let daemon = daemon.clone();
        Arc::new(move |build| {
            let daemon = daemon.clone();
            async move { Ok(daemon.solve(&build.reference)) }.boxed()
        })
    };
    let dispatcher = Arc::new(Dispatcher::new(ideal_jobs.clone(), fleet.member.clone(), solve));
    first(&jobs, &spec).await?;

    let mut figures = vec![];
    if arriving > 0 {
        let received = async |uid: &str| {
            let reference = names::attempt_ref(uid, 1);
            daemon.received(&reference).with_context(|| format!("no daemon has seen {reference}"))
        };
        let ours = Side { api: &jobs, make: &|name| BuildJob::new(name, spec.clone()) };
        let baseline = Side { api: &ideal_jobs, make: &|name| IdealJob::new(name, &ideal::resource(), spec.clone()) };
        let mut running = dispatcher.clone().start();
        figures.extend(tokio::select! {
            figures = arrivals::compare(ours, baseline, received, arriving) => figures?,
            error = running.failure() => return Err(error),
        });
    }
    if carried > 0 {
        // Nobody watches the ideal jobs now: whoever writes has them from their creation.
        figures.extend(sustained::run(&jobs, &ideal_jobs, &dispatcher, &spec, carried).await?);
    }
    Ok(figures)
}

/// Waits until a first job has ended: operator and runners are there, with their roles.
async fn first(jobs: &Api<BuildJob>, spec: &BuildJobSpec) -> Result<()> {
    jobs.create(&PostParams::default(), &BuildJob::new("first", spec.clone())).await?;
    let ended = |job: Option<&BuildJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.phase.is_terminal())
    };
    let job = wait::until(jobs, "first", "the first job ends", wait::BUILD, ended).await?;
    sample::check(&job.context("the first job is there")?)?;
    Ok(())
}
