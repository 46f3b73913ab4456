//! Benchmarks on the real cluster. `docs/benchmarks.md` says what each figure means.
//!
//! Every figure is a comparison: ours and the baseline are measured in turn, in one process, by one clock. The process
//! runs in the node (`cluster nsenter`), where buildctl finds the registry by its name like every other client.
//!
//! | module | concern |
//! |---|---|
//! | [`stats`], [`figure`] | medians, intervals, the line of a figure; pure |
//! | [`warm`] | BuildJob, buildctl and the ideal dispatcher on one warm daemon |
//! | [`cold`] | a pool's first member and a bare StatefulSet |
//! | [`ideal`], [`buildctl`] | what ours is compared with |
//! | [`sample`], [`observer`], [`audit`], [`site`] | how it is measured |

pub mod audit;
pub mod buildctl;
pub mod cold;
pub mod figure;
pub mod ideal;
pub mod observer;
pub mod sample;
pub mod site;
pub mod stats;
pub mod warm;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use crate::harness::{Environment, Tenant, wait};
use figure::Figure;
use site::Site;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Rounds on the warm pool.
    pub warm: usize,
    /// Cold starts of each kind; none leaves them out.
    pub cold: usize,
}

/// Measures, and prints each figure as a JSON line. Leaves nothing behind in the cluster.
///
/// # Errors
/// When the cluster does not run or something is left behind.
///
/// # Panics
/// When a measurement fails; what is in its namespace is printed first.
pub async fn run(rounds: Rounds) -> anyhow::Result<()> {
    let environment = Environment::load().await?;
    let site = Site::new(&environment).await?;
    let mut namespace = String::new();
    let mut interrupted = false;
    Tenant::with("bench", async |tenant| {
        namespace.clone_from(&tenant.namespace);
        let result = tokio::select! {
            result = measure(tenant, &site, rounds) => result,
            signal = tokio::signal::ctrl_c() => {
                interrupted = true;
                signal.map_err(Into::into)
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

async fn measure(tenant: &Tenant, site: &Site, rounds: Rounds) -> anyhow::Result<()> {
    print(&warm::run(tenant, site, rounds.warm).await?)?;
    if rounds.cold > 0 {
        print(&cold::run(tenant, site, rounds.cold).await?)?;
    }
    Ok(())
}

fn print(figures: &[Figure]) -> anyhow::Result<()> {
    for figure in figures {
        eprintln!("{}", figure.summary());
        println!("{}", serde_json::to_string(figure)?);
    }
    Ok(())
}
