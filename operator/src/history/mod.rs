//! Finished jobs: deletes those that are not to be kept (`ttlAfterFinished`, history limits), and tells others in this
//! process of them.
//!
//! ```text
//!  watches ──▶ known ──▶ plan ──▶ delete ──▶ API server
//!                ▲      (pure)      │
//!                └─── answers ──────┘
//! ```
//!
//! The dispatcher does not watch finished jobs; here they are watched, and of each a few words are kept. At rest nothing
//! is written and nothing is polled: the one timer runs to the next moment at which a job's time is over.

pub mod delete;
pub mod job;
pub mod known;
pub mod owned;
pub mod plan;

use std::collections::VecDeque;
use std::sync::Arc;

use buildpools_crds::v1alpha1::BuildPool;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use kube::Client;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::job::Finished;
use self::known::{Known, News, Seen};
use self::plan::Rules;
use crate::dispatch::{guarded, until};
use crate::kube_ext::listing::Change;
use crate::runtime::readiness::Gate;

/// Jobs in one page of a list. A page is in memory as a whole, in the API server's words too.
const PAGE: u32 = 100;

/// Deletions that are under way at the same time.
const CONCURRENCY: usize = 8;

/// Jobs that have ended. A field selector has no "or".
const FINISHED: &str = "status.phase!=Pending,status.phase!=Bound,status.phase!=Running";

/// Who is told of finished jobs. Called from the loop: it must not take long.
pub trait Observer: Send + Sync {
    /// A job that had ended before this process began to watch. In no order.
    fn found(&self, job: &Finished);
    /// A job that has ended since.
    fn ended(&self, job: &Finished);
}

/// Runs until stopped. It begins when the gate is open: what is under way comes before what has ended. Deletions that are under way then are not waited for: who comes next decides anew.
///
/// # Errors
/// When a watch ends without having been stopped.
pub async fn run(
    client: Client,
    observer: Arc<dyn Observer>,
    gate: Gate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = gate.opened() => {}
        () = stop.cancelled() => return Ok(()),
    }
    let mut watches = watch(&client);
    let mut known = Known::default();
    let mut queue = VecDeque::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < CONCURRENCY
            && let Some((namespace, deletion)) = queue.pop_front()
        {
            under_way.push(delete::delete(client.clone(), namespace, deletion));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some((namespace, deletion, settled)) = under_way.next() => {
                known.settle(&namespace, &deletion, settled, Timestamp::now());
            }
            seen = watches.next() => {
                let Some(seen) = seen else { anyhow::bail!("the watches of finished jobs have ended") };
                match known.see(seen, Timestamp::now()) {
                    Some(News::Found(job)) => observer.found(&job),
                    Some(News::Ended(job)) => observer.ended(&job),
                    None => {}
                }
            }
            () = until(known.next_look()) => {
                queue.extend(known.due(Timestamp::now()));
                debug!(queue = queue.len(), "looked at finished jobs");
            }
        }
    }
}

fn watch(client: &Client) -> BoxStream<'static, Seen> {
    let jobs = watcher::Config::default().fields(FINISHED).page_size(PAGE);
    futures::stream::select_all([
        guarded::<Finished, _, _>(client, jobs, |event| Seen::Job(Change::of(event, Box::new, Box::new))),
        guarded::<BuildPool, _, _>(client, watcher::Config::default().page_size(PAGE), |event| {
            Seen::Pool(Change::of(event, |pool| Rules::of(&pool), |pool| Rules::of(&pool)))
        }),
    ])
    .boxed()
}
