//! Benchmarks on the real cluster. `docs/benchmarks.md` says what each figure means.
//!
//! Every figure is a comparison: ours and the baseline are measured in turn, in one process, by one clock. The process
//! runs in the node (`cluster nsenter`), where buildctl finds the registry by its name like every other client.
//!
//! | module | concern |
//! |---|---|
//! | [`stats`], [`figure`], [`schedule`], [`plan`] | quantiles, intervals, the line of a figure, arrivals, what is to be measured; pure |
//! | [`warm`] | BuildJob, buildctl and the ideal dispatcher on one warm daemon |
//! | [`arrivals`] | twenty jobs a second, over the ideal dispatcher (measured without a cluster, see there) |
//! | [`queue`] | fifty jobs that wait |
//! | [`long`] | a build of some seconds, over buildctl |
//! | [`kube_job`] | a bare Kubernetes Job that runs buildctl |
//! | [`cold`] | a pool's first member and a bare StatefulSet |
//! | [`ideal`], [`buildctl`] | what ours is compared with |
//! | [`member`], [`sample`], [`observer`], [`audit`], [`site`] | how it is measured |

pub mod arrivals;
pub mod audit;
pub mod buildctl;
pub mod cold;
pub mod figure;
pub mod ideal;
pub mod kube_job;
pub mod long;
pub mod member;
pub mod observer;
pub mod plan;
pub mod queue;
pub mod sample;
pub mod schedule;
pub mod site;
pub mod stats;
pub mod warm;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::signal::unix::{SignalKind, signal};

use crate::harness::{Environment, Tenant, wait};
use figure::Figure;
use plan::{Part, Plan};
use site::Site;

/// Measures, and prints each figure as a JSON line. Leaves nothing behind in the cluster, also when it is interrupted.
///
/// # Errors
/// When the cluster does not run or something is left behind.
///
/// # Panics
/// When a measurement fails; what is in its namespace is printed first.
pub async fn run(plan: &Plan) -> anyhow::Result<()> {
    let environment = Environment::load().await?;
    let site = Site::new(&environment).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut namespace = String::new();
    let mut interrupted = false;
    Tenant::with("bench", async |tenant| {
        namespace.clone_from(&tenant.namespace);
        let result = tokio::select! {
            result = measure(tenant, &site, plan) => result,
            signal = tokio::signal::ctrl_c() => {
                interrupted = true;
                signal.map_err(Into::into)
            }
            _ = terminate.recv() => {
                interrupted = true;
                Ok(())
            }
        };
        ideal::uninstall(&environment.client).await?;
        result
    })
    .await;
    let namespaces: Api<Namespace> = Api::all(environment.client.clone());
    wait::until(&namespaces, &namespace, "the namespace is gone", wait::BUILD, |namespace| namespace.is_none()).await?;
    anyhow::ensure!(!interrupted, "interrupted");
    Ok(())
}

async fn measure(tenant: &Tenant, site: &Site, plan: &Plan) -> anyhow::Result<()> {
    for (part, rounds) in plan.parts() {
        let figures = match part {
            Part::Warm => warm::run(tenant, site, rounds).await?,
            Part::Queue => queue::run(tenant, site, rounds).await?,
            Part::Long => long::run(tenant, site, rounds).await?,
            Part::KubeJob => kube_job::run(tenant, site, rounds).await?,
            Part::Cold => cold::run(tenant, site, rounds).await?,
        };
        print(&figures, |name| plan.wants(name))?;
    }
    Ok(())
}

/// Prints the figures that are wanted: for people on stderr, as JSON lines on stdout.
///
/// # Errors
/// When a figure cannot be written.
pub fn print(figures: &[Figure], wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for figure in figures.iter().filter(|figure| wanted(figure.name)) {
        eprintln!("{}", figure.summary());
        println!("{}", serde_json::to_string(figure)?);
    }
    Ok(())
}
