//! A build of some seconds: what a BuildJob adds to it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::BuildJob;

use super::buildctl::Buildctl;
use super::figure::{Figure, spread};
use super::member::WarmMember;
use super::observer::Observer;
use super::sample;
use super::site::Site;
use super::stats::median;
use super::warm::{POOL, SLOTS, pause};
use crate::harness::Tenant;

/// What the build takes at least, so that the figure is about what it says.
const AT_LEAST: Duration = Duration::from_secs(2);
/// Name of the image that both push.
const IMAGE: &str = "long:1";

/// Output, computing, waiting and a layer to push, none of which is in the cache: the first step is new in each build.
/// The base is in the cache.
fn dockerfile(tenant: &Tenant, build: &str) -> String {
    format!(
        "FROM {}/library/busybox:stable\n\
         RUN echo {build} && seq 1 1000 && head -c 67108864 /dev/zero | sha256sum >/sum\n\
         RUN sleep 2\n\
         RUN head -c 1048576 /dev/urandom >/data\n",
        tenant.environment.cluster.registry
    )
}

/// Measures so many rounds: a build as a BuildJob and one by buildctl, in turn.
///
/// # Errors
/// When a build fails, or takes less than it should.
pub async fn run(tenant: &Tenant, site: &Site, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let member = WarmMember::start(tenant, site, POOL, SLOTS).await?;
    let mut jobs = Observer::start(tenant.jobs()).await?;
    let (mut ours, mut baseline) = (vec![], vec![]);
    // The first round is not counted.
    for round in 0..=rounds {
        for place in 0..2 {
            if (round + place) % 2 == 0 {
                let text = dockerfile(tenant, &format!("job-{round}"));
                let spec = tenant.job("", POOL).inline(&text).push(IMAGE).object().spec;
                let job = BuildJob::new(&format!("long-{round}"), spec);
                let sample = sample::take(&tenant.jobs(), &mut jobs, &member.daemon, &job).await?;
                ours.push(sample.total);
            } else {
                let text = dockerfile(tenant, &format!("buildctl-{round}"));
                let buildctl = Buildctl::new(&tenant.environment, site, &member.socket, &text, &tenant.image(IMAGE))?;
                baseline.push(buildctl.run().await?.as_secs_f64() * 1000.0);
            }
            pause().await;
        }
        eprintln!("build of some seconds: round {round} of {rounds}");
    }
    let shortest = baseline.iter().copied().min_by(f64::total_cmp).context("there are rounds")?;
    ensure!(shortest >= AT_LEAST.as_secs_f64() * 1000.0, "the build took {shortest} ms: its steps were in the cache");
    let (ours, baseline) = (ours.split_off(1), baseline.split_off(1));
    eprintln!("build of some seconds, ms: BuildJob {}; buildctl {}", spread(&ours), spread(&baseline));
    eprintln!("the median of the differences: {:.1} ms", {
        median(&ours.iter().zip(&baseline).map(|(ours, baseline)| ours - baseline).collect::<Vec<_>>())
    });
    Ok(vec![Figure::ratio("warm_over_buildctl", "ms", &ours, &baseline, 1.05)])
}
