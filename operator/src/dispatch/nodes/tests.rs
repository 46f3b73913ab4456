use buildpools_crds::lifecycle;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn node(ready: &str, spec: &Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n"}, "spec": spec,
        "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

fn taint(key: &str) -> Value {
    json!({"taints": [{"key": key, "effect": "NoExecute"}]})
}

#[test]
fn how_a_node_stands() {
    let both = json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": OUT_OF_SERVICE, "effect": "NoExecute"}]});
    let not_ready = taint("node.kubernetes.io/not-ready");
    for (ready, spec, expected) in [
        ("True", json!({}), Standing::Fine),
        ("True", json!({"unschedulable": false, "taints": [{"key": "gpu", "effect": "NoSchedule"}]}), Standing::Fine),
        ("True", json!({"unschedulable": true}), Standing::Cordoned),
        // It says that it is not well, so it is heard of.
        ("False", not_ready, Standing::Fine),
        ("Unknown", json!({}), Standing::Unreachable),
        ("False", taint(UNREACHABLE), Standing::Unreachable),
        ("Unknown", json!({"unschedulable": true}), Standing::Unreachable),
        ("Unknown", taint(OUT_OF_SERVICE), Standing::OutOfService),
        ("False", taint(OUT_OF_SERVICE), Standing::OutOfService),
        ("Unknown", both, Standing::OutOfService),
        // Somebody was wrong: it runs.
        ("True", taint(OUT_OF_SERVICE), Standing::Fine),
    ] {
        assert_eq!(Standing::of(&node(ready, &spec)), expected, "{ready} {spec}");
    }
    assert_eq!(Standing::of(&Node::default()), Standing::Fine);
}

#[test]
fn what_ran_on_a_node_is_gone_only_with_the_node_or_by_an_administrators_word() {
    let gone = |standing: Standing| standing.gone("n", "main-0").map(|gone| (gone.reason, gone.message));
    for standing in [Standing::Fine, Standing::Cordoned, Standing::Unreachable] {
        assert_eq!(gone(standing), None);
    }
    let lost = |text: &str| Some((FailureReason::NodeLost, format!("node n of pod main-0 {text}")));
    assert_eq!(gone(Standing::OutOfService), lost("is out of service"));
    assert_eq!(gone(Standing::Absent), lost("does not exist any more"));
}

fn key(node: &str) -> (String, String) {
    (String::new(), node.to_owned())
}

#[test]
fn a_node_is_absent_only_when_all_are_known() {
    let has = |node: &str, standing| Change::Has(key(node), Ok(standing));
    let mut nodes = Nodes::default();
    nodes.see(Change::Begin);
    nodes.see(has("a", Standing::Cordoned));
    assert_eq!((nodes.standing("a"), nodes.standing("b")), (Standing::Fine, Standing::Fine));
    assert!(nodes.see(Change::Complete) && nodes.is_synced());
    assert_eq!((nodes.standing("a"), nodes.standing("b")), (Standing::Cordoned, Standing::Absent));
    assert_eq!(nodes.standing(""), Standing::Fine, "it has none yet");

    assert!(!nodes.see(has("a", Standing::Cordoned)), "a heartbeat");
    assert!(nodes.see(has("a", Standing::Unreachable)));
    assert!(!nodes.see(Change::Has(key("a"), Err("odd".into()))));
    assert_eq!(nodes.standing("a"), Standing::Unreachable);
    assert!(nodes.see(has("b", Standing::Fine)));
    assert!(nodes.see(Change::Gone(key("b"), None)));
    assert_eq!(nodes.standing("b"), Standing::Absent);

    // A list that is the same is no news; one that lacks a node is.
    nodes.see(Change::Begin);
    nodes.see(has("a", Standing::Unreachable));
    assert!(!nodes.see(Change::Complete));
    nodes.see(Change::Begin);
    assert!(nodes.see(Change::Complete));
    assert_eq!(nodes.standing("a"), Standing::Absent);
}

#[test]
fn a_running_job_is_told_once_and_told_again_when_its_node_is_back() {
    let now = Timestamp::UNIX_EPOCH;
    let on = lifecycle::Member { pod: "main-0".into(), uid: "u".into() };
    let member = |standing| Member { pod: "main-0".into(), node: "n".into(), standing, ..Member::default() };
    let bound = lifecycle::bind(&Job::default().status, "main", &on, now).unwrap();
    let mut job = Job { status: bound, ..Job::default() };
    assert_eq!(news(&job, &member(Standing::Unreachable)), None, "it is not running");
    job.status = lifecycle::start(&job.status, "uid", &on, "i", now).unwrap();
    assert_eq!(news(&job, &member(Standing::Fine)), None);
    let message = news(&job, &member(Standing::Unreachable)).unwrap().unwrap();
    assert!(message.contains("node n of pod main-0 is not heard of"), "{message}");
    job.status = lifecycle::node_unreachable(&job.status, Some(&message), now).unwrap();
    assert_eq!(news(&job, &member(Standing::Unreachable)), None);
    assert_eq!(news(&job, &member(Standing::Cordoned)), Some(None));
}
