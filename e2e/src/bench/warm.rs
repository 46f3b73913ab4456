//! A warm pool: the same trivial cached build as a BuildJob, by buildctl and by the ideal dispatcher, in turn.

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildJob, BuildJobSpec};
use kube::Client;
use kube::api::Api;
use rand::Rng as _;
use std::time::Duration;

use super::audit::{self, Write};
use super::buildctl::Buildctl;
use super::figure::{Figure, spread};
use super::ideal::{self, IdealJob, Running};
use super::member::WarmMember;
use super::observer::Observer;
use super::sample::{self, Sample};
use super::site::{Site, USER};
use super::stats::median;
use crate::harness::Tenant;

/// Name of the pool.
pub const POOL: &str = "main";
/// Builds that its member runs at a time.
pub const SLOTS: i32 = 2;
/// Name of the image that everybody pushes.
const IMAGE: &str = "trivial:1";
/// Rounds that are not counted: caches, connections and code paths get warm.
const WARM_UP: usize = 5;

/// A layer that would differ if it were built twice.
pub fn dockerfile(tenant: &Tenant) -> String {
    format!("FROM {}/library/busybox:stable\nRUN date +%s%N >/built\n", tenant.environment.cluster.registry)
}

/// The three ways to the same build.
struct Contest<'a> {
    tenant: &'a Tenant,
    daemon: buildpools_buildkit::Daemon,
    buildctl: Buildctl,
    jobs: Observer<BuildJob>,
    ideal_api: Api<IdealJob>,
    ideal_jobs: Observer<IdealJob>,
    ideal: Running,
    spec: BuildJobSpec,
    made: usize,
}

/// One round.
struct Round {
    job: Sample,
    ideal: Sample,
    buildctl: f64,
}

/// Measures `rounds` rounds.
///
/// # Errors
/// When a build fails, or the three ways do not lead to the same image.
pub async fn run(tenant: &Tenant, site: &Site, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut contest = Contest::new(tenant, site).await?;
    for round in 0..WARM_UP {
        contest.round(round).await?;
    }
    contest.check_sameness().await?;
    let mut measured = Vec::with_capacity(rounds);
    for round in 0..rounds {
        measured.push(contest.round(round).await?);
        if (round + 1) % 20 == 0 {
            eprintln!("warm pool: {} of {rounds} rounds", round + 1);
        }
    }
    let mut known = audit::writes(&tenant.environment.cluster.audit_log, &tenant.namespace)?;
    let writes = measured.iter().map(|round| known.remove(&round.job.name).context("the audit log knows every job"));
    let writes: Vec<_> = writes.collect::<anyhow::Result<_>>()?;
    explain(&measured, &writes);
    Ok(figures(&measured, &writes))
}

impl<'a> Contest<'a> {
    async fn new(tenant: &'a Tenant, site: &Site) -> anyhow::Result<Self> {
        let environment = &tenant.environment;
        let WarmMember { member, daemon, socket, .. } = WarmMember::start(tenant, site, POOL, SLOTS).await?;
        let dockerfile = dockerfile(tenant);
        let buildctl = Buildctl::new(environment, site, &socket, &dockerfile, &tenant.image(IMAGE))?;
        let spec = tenant.job("", POOL).inline(&dockerfile).push(IMAGE).object().spec;
        let client: Client = environment.client.clone();
        ideal::install(&client).await?;
        let ideal_api: Api<IdealJob> = Api::namespaced_with(client, &tenant.namespace, &ideal::resource());
        Ok(Self {
            jobs: Observer::start(tenant.jobs()).await?,
            ideal_jobs: Observer::start(ideal_api.clone()).await?,
            ideal: ideal::start(environment, &tenant.namespace, daemon.clone(), member)?,
            tenant,
            daemon,
            buildctl,
            ideal_api,
            spec,
            made: 0,
        })
    }

    /// Each way once. Who comes first changes, so that nobody always finds what another left behind.
    async fn round(&mut self, round: usize) -> anyhow::Result<Round> {
        let (mut job, mut ideal, mut buildctl) = (None, None, None);
        for place in 0..3 {
            match (round + place) % 3 {
                0 => job = Some(self.job().await?),
                1 => buildctl = Some(self.buildctl.run().await?.as_secs_f64() * 1000.0),
                _ => ideal = Some(self.ideal().await?),
            }
            pause().await;
        }
        Ok(Round { job: job.context("job")?, ideal: ideal.context("ideal")?, buildctl: buildctl.context("buildctl")? })
    }

    async fn job(&mut self) -> anyhow::Result<Sample> {
        let job = BuildJob::new(&format!("job-{}", self.made), self.spec.clone());
        self.made += 1;
        sample::take(&self.tenant.jobs(), &mut self.jobs, &self.daemon, &job).await
    }

    async fn ideal(&mut self) -> anyhow::Result<Sample> {
        let job = IdealJob::new(&format!("job-{}", self.made), &ideal::resource(), self.spec.clone());
        self.made += 1;
        tokio::select! {
            sample = sample::take(&self.ideal_api, &mut self.ideal_jobs, &self.daemon, &job) => sample,
            error = self.ideal.failure() => Err(error),
        }
    }

    /// That all of them made the same layers: nobody had to run the step again, and nobody pushed less.
    async fn check_sameness(&mut self) -> anyhow::Result<()> {
        self.job().await?;
        let by_job = self.pushed().await?;
        self.buildctl.run().await?;
        let by_buildctl = self.pushed().await?;
        self.ideal().await?;
        let by_ideal = self.pushed().await?;
        ensure!(by_job == by_buildctl && by_job == by_ideal, "{by_job:?}, {by_buildctl:?}, {by_ideal:?}");
        Ok(())
    }

    /// Type and layers of what the tag points to.
    async fn pushed(&self) -> anyhow::Result<(String, serde_json::Value)> {
        let registry = self.tenant.environment.registry(USER)?;
        let (repository, tag) = IMAGE.split_once(':').context("the image has a tag")?;
        let repository = self.tenant.repository(repository);
        let manifest = registry.manifest(&repository, tag).await?.context("nothing was pushed")?;
        let body: serde_json::Value = serde_json::from_slice(&manifest.body)?;
        ensure!(body["layers"].as_array().is_some_and(|layers| layers.len() >= 2), "not the image: {body}");
        Ok((manifest.media_type, body["layers"].clone()))
    }
}

/// Lets daemon and controllers finish what a build left them to do, for a time that does not beat with any period.
pub async fn pause() {
    let pause = rand::rng().random_range(50..150);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

fn column(rounds: &[Round], value: impl Fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().map(value).collect()
}

fn figures(rounds: &[Round], writes: &[Vec<Write>]) -> Vec<Figure> {
    let counts: Vec<f64> = writes.iter().map(|of_job| audit::accepted(of_job)).collect();
    let jobs = column(rounds, |round| round.job.total);
    let buildctl = column(rounds, |round| round.buildctl);
    let dispatch = column(rounds, |round| round.job.dispatch);
    let ideal = column(rounds, |round| round.ideal.dispatch);
    vec![
        Figure::difference("job_minus_buildctl_ms", "ms", &jobs, &buildctl, 10.0),
        Figure::ratio("dispatch_over_ideal", "ms", &dispatch, &ideal, 1.5),
        Figure::ratio_at("dispatch_over_ideal_p99", "ms", &dispatch, &ideal, 0.99, 2.0),
        Figure::count("writes_per_job", "writes", &counts, 3.0, 3.0),
    ]
}

/// Where the time goes.
fn explain(rounds: &[Round], writes: &[Vec<Write>]) {
    for (name, value) in [
        ("BuildJob, created to outcome seen", column(rounds, |round| round.job.total)),
        ("ideal, created to outcome seen", column(rounds, |round| round.ideal.total)),
        ("buildctl", column(rounds, |round| round.buildctl)),
        ("BuildJob, created to Solve", column(rounds, |round| round.job.dispatch)),
        ("ideal, created to Solve", column(rounds, |round| round.ideal.dispatch)),
    ] {
        eprintln!("{name}: {} ms", spread(&value));
    }
    let (jobs, ideal): (Vec<_>, Vec<_>) = rounds.iter().map(|round| (round.job.clone(), round.ideal.clone())).unzip();
    eprintln!("BuildJob, ms: {}", sample::parts(&jobs));
    eprintln!("ideal, ms: {}", sample::parts(&ideal));
    let usual = |of_job: &&Vec<Write>| of_job.len() == 4 && of_job.iter().all(|write| write.code < 300);
    let usual: Vec<_> = writes.iter().filter(usual).collect();
    for (place, name) in ["create", "bind", "running", "outcome"].into_iter().enumerate() {
        let received: Vec<f64> = usual.iter().map(|w| sample::milliseconds(w[0].received, w[place].received)).collect();
        let took: Vec<f64> = usual.iter().map(|w| sample::milliseconds(w[place].received, w[place].answered)).collect();
        eprintln!("API server, {name}: received at {:.1} ms, answered in {}", median(&received), spread(&took));
    }
    let refused = writes.iter().flatten().filter(|write| write.code >= 300).count();
    eprintln!("API server: {refused} writes to jobs were refused, most of them by compare-and-swap");
}
