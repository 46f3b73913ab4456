//! Every call may fail, or its answer be lost: the next pass mends it, and the end is the same.

use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buildpools_operator::pool::{self, reconcile};
use buildpools_operator::runtime::metrics::Metrics;
use kube::Client;
use kube::client::Body;
use tokio_util::sync::CancellationToken;

use crate::fixtures::{cluster, full, now, pass, settings};
use crate::support::Fault;

#[tokio::test]
async fn a_fault_at_any_call_leads_to_the_same_end() {
    let undisturbed = cluster(&full());
    pass(&undisturbed).await;
    let calls = undisturbed.received().len();
    pass(&undisturbed).await;
    let end = undisturbed.objects();
    assert!(calls > 15, "{calls} calls");

    let faults = [
        Fault::Status(500, "InternalError", "disturbed"),
        Fault::Status(429, "TooManyRequests", "disturbed"),
        Fault::Status(409, "Conflict", "disturbed"),
        Fault::AnswerLost,
    ];
    for fault in faults {
        for number in 0..calls {
            let server = cluster(&full());
            let seen = Arc::new(AtomicUsize::new(0));
            server.fail(fault, move |_| seen.fetch_add(1, Ordering::Relaxed) == number);
            let disturbed = reconcile(&server.client(), &settings(), "team-a", "fast", now()).await;
            assert!(disturbed.is_err(), "{fault:?} at call {number} went unnoticed");
            pass(&server).await;
            pass(&server).await;
            assert_eq!(server.objects(), end, "{fault:?} at call {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_it_is_stopped_before_the_pools_are_known() {
    let silent =
        tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Error>>());
    let stop = CancellationToken::new();
    let running = tokio::spawn(pool::run(Client::new(silent, "default"), settings(), Metrics::default(), stop.clone()));
    // Time passes on the paused clock only when the task waits for answers that never come.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_mins(1), running).await;
    ended.expect("it goes on").unwrap().unwrap();
}
