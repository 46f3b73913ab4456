//! A small churn; `make churn JOBS=100000` runs a large one.

use buildpools_faults::churn;

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_or_built_twice_whatever_is_killed() {
    let figures = Box::pin(churn::run(2000, None)).await.unwrap();
    println!("{figures}");
    assert_eq!(figures.jobs, 2000);
    let kills = figures.kills;
    assert!(kills.restarted + kills.replaced + kills.rolled > 0 && kills.runners > 0 && kills.daemons > 0, "{kills}");
    assert!(figures.injected > 0);
}
