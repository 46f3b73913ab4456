//! What a pool costs that nobody uses: memory, and a pass over it that finds nothing to do.

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::Client;

use super::proc::{self, Usage};
use super::{seed, start, stop, until_at_rest, until_ready};
use crate::control_plane::ControlPlane;
use crate::kept::Kept;

/// Memory of an operator at rest that is no page of its program, in MiB, in each of some starts.
///
/// # Errors
/// When it does not start or does not come to rest.
pub async fn memory(plane: &ControlPlane, starts: usize) -> Result<Vec<f64>> {
    let once = async |_| {
        let (operator, health) = start(plane)?;
        // One that does not lead yet is at rest too.
        until_ready(&operator, health).await?;
        until_at_rest(&operator).await?;
        let memory = proc::memory(operator.process().pid)?;
        stop(operator).await?;
        anyhow::Ok(memory.anonymous)
    };
    stream::iter((0..starts).map(once)).buffered(1).try_collect().await
}

/// Passes over all pools, and what was asked for in them.
pub struct Passes {
    /// Processor time of each round, in milliseconds per pool.
    pub millis: Vec<f64>,
    /// Requests of all rounds by kind.
    pub requests: Vec<(String, usize)>,
}

/// Has the operator look at every pool, some times, without anything that there is to do: each is touched in a
/// way that means nothing to it.
///
/// # Errors
/// When it does not come to rest, or has not looked at every pool.
pub async fn passes(
    plane: &ControlPlane,
    client: &Client,
    operator: &Kept,
    pools: usize,
    rounds: usize,
) -> Result<Passes> {
    let pid = operator.process().pid;
    let since = Timestamp::now();
    let mut millis = Vec::new();
    for round in 0..rounds {
        let before = Usage::of(pid)?;
        seed::touch(client, pools, round).await?;
        until_at_rest(operator).await?;
        #[allow(clippy::cast_precision_loss)]
        millis.push(Usage::of(pid)?.millis_since(before) / pools as f64);
    }
    let requests = proc::requests(&plane.audit_log(), since)?;
    let looked = proc::count(&requests, |request| request == "get buildpools");
    ensure!(looked >= pools * rounds, "the operator has looked {looked} times at {pools} pools in {rounds} rounds");
    Ok(Passes { millis, requests })
}
