use serde_json::{Value, json};

use super::super::plan::Why;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn key(name: &str) -> Key {
    ("team".into(), name.into())
}

/// A job that succeeded at second zero and goes at once.
fn finished(name: &str, version: &str, change: impl FnOnce(&mut Value)) -> Box<Finished> {
    let mut job = json!({
        "metadata": {"namespace": "team", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version},
        "spec": {"poolRef": {"name": "main"}, "context": {}, "ttlAfterFinished": "0s"},
        "status": {"phase": "Succeeded", "pool": "main", "timing": {"finishedAt": at(0).to_string()}},
    });
    change(&mut job);
    Box::new(serde_json::from_value(job).unwrap())
}

fn has(job: Box<Finished>) -> Seen {
    Seen::Job(Change::Has(key(job.metadata.name.as_deref().unwrap()), Ok(job)))
}

fn begin(known: &mut Known) {
    known.see(Seen::Job(Change::Begin), at(0));
    known.see(Seen::Pool(Change::Begin), at(0));
}

fn complete(known: &mut Known) {
    known.see(Seen::Job(Change::Complete), at(0));
    known.see(Seen::Pool(Change::Complete), at(0));
}

fn known(jobs: impl IntoIterator<Item = Box<Finished>>) -> Known {
    let mut known = Known::default();
    begin(&mut known);
    for job in jobs {
        known.see(has(job), at(0));
    }
    complete(&mut known);
    known
}

fn due(known: &mut Known, second: i64) -> Vec<String> {
    known.due(at(second)).into_iter().map(|(_, deletion)| format!("{}@{}", deletion.name, deletion.version)).collect()
}

fn deletion(name: &str, version: &str) -> Deletion {
    let uid = format!("uid-{name}").into();
    Deletion { name: name.into(), uid, version: version.into(), why: Why::Expired }
}

#[test]
fn nothing_is_decided_before_each_watch_has_told_everything() {
    let mut known = Known::default();
    begin(&mut known);
    known.see(has(finished("a", "1", |_| {})), at(0));
    known.see(Seen::Job(Change::Complete), at(0));
    assert_eq!((known.next_look(), known.due(at(100)).len()), (None, 0), "its pool may keep it");
    known.see(Seen::Pool(Change::Complete), at(0));
    assert_eq!(due(&mut known, 100), ["a@1"]);
}

#[test]
fn changes_are_collected_and_then_there_is_nothing_to_look_at() {
    let mut known = known([finished("a", "1", |_| {}), finished("b", "2", |_| {})]);
    assert_eq!(known.next_look(), Some(at(1)));
    assert_eq!(due(&mut known, 0), [""; 0]);
    assert_eq!(due(&mut known, 1), ["a@1", "b@2"]);
    assert_eq!(known.next_look(), None);
    let hour = |job: &mut Value| job["spec"]["ttlAfterFinished"] = json!("1h");
    known.see(has(finished("c", "3", hour)), at(5));
    assert_eq!((known.next_look(), due(&mut known, 6), known.next_look()), (Some(at(6)), vec![], Some(at(3600))));
}

#[test]
fn a_deleted_job_is_not_deleted_again_until_the_watch_shows_another_version() {
    let mut known = known([finished("a", "1", |_| {})]);
    assert_eq!(due(&mut known, 1), ["a@1"]);
    known.see(has(finished("a", "1", |_| {})), at(1));
    assert_eq!(due(&mut known, 10), [""; 0], "it is being deleted");
    known.settle("team", &deletion("a", "1"), Settled::Watch, at(10));
    known.see(has(finished("a", "1", |_| {})), at(10));
    assert_eq!(due(&mut known, 20), [""; 0], "the watch has not caught up");
    // There was a conflict: somebody had changed it.
    known.see(has(finished("a", "2", |_| {})), at(20));
    assert_eq!(due(&mut known, 30), ["a@2"]);
    // The watch is faster than the answer.
    known.see(has(finished("a", "3", |_| {})), at(30));
    known.settle("team", &deletion("a", "2"), Settled::Watch, at(30));
    assert_eq!(due(&mut known, 40), ["a@3"]);
    let deleting = |job: &mut Value| job["metadata"]["deletionTimestamp"] = json!(at(40).to_string());
    known.settle("team", &deletion("a", "3"), Settled::Watch, at(40));
    known.see(has(finished("a", "4", deleting)), at(40));
    assert_eq!(due(&mut known, 1000), [""; 0], "a finalizer holds it");
}

#[test]
fn a_failed_deletion_is_tried_again_later_and_later() {
    let mut known = known([finished("a", "1", |_| {})]);
    let mut now = 1;
    for wait in [1, 2, 4, 8] {
        assert_eq!(due(&mut known, now), ["a@1"]);
        known.settle("team", &deletion("a", "1"), Settled::Failed(1.0), at(now));
        let early = if wait == 1 { vec![] } else { due(&mut known, now + wait - 1) };
        assert_eq!(early, [""; 0]);
        now += wait;
    }
}

#[test]
fn an_answer_about_a_job_of_the_past_changes_nothing() {
    let mut known = known([finished("a", "1", |_| {})]);
    assert_eq!(due(&mut known, 1), ["a@1"]);
    known.see(Seen::Job(Change::Gone(key("a"), None)), at(1));
    let another = |job: &mut Value| job["metadata"]["uid"] = json!("another");
    known.see(has(finished("a", "5", another)), at(1));
    known.settle("team", &deletion("a", "1"), Settled::Watch, at(2));
    assert_eq!(due(&mut known, 3), ["a@5"]);
}

#[test]
fn what_a_list_does_not_have_is_gone_and_what_cannot_be_read_stays() {
    let mut known = known([finished("a", "1", |_| {}), finished("b", "2", |_| {}), finished("c", "3", |_| {})]);
    begin(&mut known);
    known.see(has(finished("a", "1", |_| {})), at(0));
    known.see(Seen::Job(Change::Has(key("b"), Err("odd".into()))), at(0));
    complete(&mut known);
    assert_eq!(due(&mut known, 1), ["a@1", "b@2"]);
    begin(&mut known);
    complete(&mut known);
    assert!(known.namespaces.is_empty(), "{known:?}");
}

#[test]
fn a_job_is_news_once() {
    let mut known = Known::default();
    begin(&mut known);
    let news = known.see(has(finished("a", "1", |_| {})), at(0));
    assert!(matches!(&news, Some(News::Found(job)) if job.metadata.name.as_deref() == Some("a")), "{news:?}");
    complete(&mut known);
    assert!(known.see(has(finished("a", "2", |_| {})), at(0)).is_none(), "its labels may change");
    assert!(matches!(known.see(has(finished("b", "3", |_| {})), at(0)), Some(News::Ended(_))));
    // It ended while the watch was interrupted.
    begin(&mut known);
    assert!(known.see(has(finished("b", "3", |_| {})), at(0)).is_none());
    assert!(matches!(known.see(has(finished("c", "4", |_| {})), at(0)), Some(News::Ended(_))));
    complete(&mut known);
}

#[test]
fn a_job_that_has_not_ended_is_never_deleted() {
    let running = |job: &mut Value| job["status"]["phase"] = json!("Running");
    let mut known = known([finished("a", "1", running)]);
    assert!(known.see(has(finished("b", "2", |job| job["status"] = json!({}))), at(0)).is_none());
    assert_eq!(due(&mut known, 1_000_000), [""; 0]);
}

#[test]
fn a_pool_that_changes_its_mind_is_heard_and_one_that_only_reports_is_not() {
    let rules = |limit| Rules { succeeded: limit, ..Rules::default() };
    let pool = |limit| Seen::Pool(Change::Has(key("main"), Ok(rules(limit))));
    let stays = |job: &mut Value| job["spec"]["ttlAfterFinished"] = Value::Null;
    let mut known = known([finished("a", "1", stays), finished("b", "2", stays)]);
    known.see(pool(Some(2)), at(0));
    assert_eq!(due(&mut known, 1), [""; 0]);
    known.see(pool(Some(2)), at(5));
    assert_eq!(known.next_look(), None);
    known.see(pool(Some(1)), at(5));
    assert_eq!(due(&mut known, 6), ["a@1"]);
    known.see(Seen::Pool(Change::Gone(key("main"), None)), at(6));
    known.see(has(finished("c", "3", stays)), at(6));
    assert_eq!(due(&mut known, 7), [""; 0], "no pool, no limit");
}

#[test]
fn ten_thousand_finished_jobs_are_a_few_megabytes() {
    // What the map itself adds to an entry is less than the entry.
    let job = finished("a-name-of-some-length-0001", "1234567", |_| {}).record().unwrap();
    let texts = [&job.uid, &job.version].map(|text| text.len()).iter().sum::<usize>() + "main".len() + 26;
    let entry = size_of::<super::super::job::Record>() + size_of::<Box<str>>() + texts;
    assert!(2 * entry * 10_000 < 6 << 20, "{entry} bytes each");
}
