//! Leader election, on a clock that stands still until everybody waits.

use std::time::Duration;

use buildpools_operator::runtime::lease::{DURATION, Elector, LOOK_PERIOD, Leadership, RENEW_DEADLINE};
use buildpools_operator::runtime::readiness::{Gate, Readiness};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{ApiServer, Fault, Received};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator";

fn elector(server: &ApiServer, identity: &str) -> Elector {
    Elector::new(server.client(), "system", "operator", identity)
}

fn gate() -> (Readiness, Gate) {
    let readiness = Readiness::default();
    let gate = readiness.gate("leader-election", "not begun");
    (readiness, gate)
}

async fn acquire(server: &ApiServer, identity: &str) -> Leadership {
    elector(server, identity).acquire(&gate().1, &CancellationToken::new()).await.unwrap()
}

fn holder(server: &ApiServer) -> String {
    server.object(LEASE).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

fn held_by_other(server: &ApiServer) {
    // Its times say that it ran out long ago: the clock of a machine that is not ours.
    let spec = json!({
        "holderIdentity": "other", "leaseDurationSeconds": 15, "leaseTransitions": 4,
        "acquireTime": "2020-01-01T00:00:00.000000Z", "renewTime": "2020-01-01T00:00:00.000000Z",
    });
    server.put(LEASE, json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": "system"}, "spec": spec}));
}

fn updates(request: &Received) -> bool {
    request.verb() == "update"
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_at_once() {
    let server = ApiServer::default();
    let begun = Instant::now();
    acquire(&server, "a").await;
    assert_eq!(Instant::now(), begun);
    let spec = server.object(LEASE).unwrap()["spec"].clone();
    assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!("a"), &json!(15)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_has_run_out_when_it_has_not_changed_for_its_duration_whatever_its_times_say() {
    let server = ApiServer::default();
    held_by_other(&server);
    let begun = Instant::now();
    acquire(&server, "a").await;
    let waited = begun.elapsed();
    assert!(waited >= DURATION && waited < DURATION + 2 * LOOK_PERIOD, "{waited:?}");
    assert_eq!(server.object(LEASE).unwrap()["spec"]["leaseTransitions"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_keeps_it_and_the_candidate_is_ready_meanwhile() {
    let server = ApiServer::default();
    let mut leader = acquire(&server, "a").await;
    let (readiness, gate) = gate();
    let stop = CancellationToken::new();
    let candidate = elector(&server, "b");
    tokio::select! {
        lost = leader.keep() => panic!("{lost:#}"),
        _ = candidate.acquire(&gate, &stop) => panic!("two leaders"),
        () = tokio::time::sleep(Duration::from_mins(10)) => {}
    }
    assert_eq!(holder(&server), "a");
    assert_eq!(readiness.pending(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_leads() {
    let server = ApiServer::default();
    held_by_other(&server);
    let (_, gate) = gate();
    let stop = CancellationToken::new();
    let (a, b) = (elector(&server, "a"), elector(&server, "b"));
    let lead = async |elector: Elector| {
        let mut leadership = elector.acquire(&gate, &stop).await.unwrap();
        leadership.keep().await
    };
    let both = async { tokio::join!(lead(a), lead(b)) };
    assert!(timeout(Duration::from_mins(5), both).await.is_err(), "one lost what it had");
    let first = holder(&server);
    let takes = server.received().into_iter().filter(updates).filter(|request| {
        request.body["spec"]["leaseTransitions"] == 5 && request.body["spec"]["holderIdentity"] != json!(first)
    });
    assert!(takes.count() <= 1, "the loser must have lost by its resourceVersion");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_in_good_order_is_followed_at_once() {
    let server = ApiServer::default();
    let leader = acquire(&server, "a").await;
    let next = acquire(&server, "b");
    let stopped = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        leader.release().await;
        Instant::now()
    };
    let (stopped, mut next) = tokio::join!(stopped, next);
    assert!(stopped.elapsed() <= LOOK_PERIOD.mul_f64(1.2), "{:?}", stopped.elapsed());
    assert_eq!(holder(&server), "b");
    assert!(timeout(Duration::from_mins(1), next.keep()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_another_may_lead() {
    for fault in [Fault::Hang, Fault::Status(503, "ServiceUnavailable", "x")] {
        let server = ApiServer::default();
        let mut leader = acquire(&server, "a").await;
        for _ in 0..100 {
            server.fail(fault, updates);
        }
        let begun = Instant::now();
        let why = leader.keep().await;
        assert!(why.to_string().contains("could not be renewed"), "{why:#}");
        assert!(begun.elapsed() <= RENEW_DEADLINE + Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < DURATION);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_interruption_is_survived() {
    let server = ApiServer::default();
    let mut leader = acquire(&server, "a").await;
    for fault in [Fault::Hang, Fault::Status(500, "InternalError", "x"), Fault::AnswerLost] {
        server.fail(fault, updates);
    }
    assert!(timeout(Duration::from_mins(1), leader.keep()).await.is_err());
    // Somebody else's annotation is no reason to step down.
    server.change(LEASE, |lease| lease["metadata"]["annotations"] = json!({"a": "b"}));
    assert!(timeout(Duration::from_mins(1), leader.keep()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_or_deleted_steps_down() {
    let server = ApiServer::default();
    let mut leader = acquire(&server, "a").await;
    held_by_other(&server);
    let why = timeout(Duration::from_secs(3), leader.keep()).await.unwrap();
    assert!(why.to_string().contains("taken by \"other\""), "{why:#}");
    leader.release().await;
    assert_eq!(holder(&server), "other", "what is not ours is not given back");

    let server = ApiServer::default();
    let mut leader = acquire(&server, "a").await;
    server.remove(LEASE);
    let why = timeout(Duration::from_secs(13), leader.keep()).await.unwrap();
    assert!(why.to_string().contains("lease operator"), "{why:#}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_process_leads_again_at_once_and_a_twin_of_the_old_one_steps_down() {
    let server = ApiServer::default();
    let mut old = acquire(&server, "a").await;
    let begun = Instant::now();
    let mut new = acquire(&server, "a").await;
    assert_eq!(Instant::now(), begun);
    let why = timeout(Duration::from_secs(3), old.keep()).await.unwrap();
    assert!(why.to_string().contains("taken"), "{why:#}");
    assert!(timeout(Duration::from_mins(1), new.keep()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_candidate_without_an_api_server_is_not_ready_and_stops_when_told() {
    let server = ApiServer::default();
    held_by_other(&server);
    for _ in 0..100 {
        server.fail(Fault::Status(500, "InternalError", "etcd is away"), |_| true);
    }
    let (readiness, gate) = gate();
    let stop = CancellationToken::new();
    let candidate = elector(&server, "b");
    let (led, ()) = tokio::join!(candidate.acquire(&gate, &stop), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(readiness.pending()[0].contains("etcd is away"), "{:?}", readiness.pending());
        stop.cancel();
    });
    assert!(led.is_none());
}
