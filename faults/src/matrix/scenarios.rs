//! What users and clusters do: each story is run without a fault, and then once with each.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::world::World;
use crate::daemon::{End, Script};
use crate::members::{Order, uid};
use crate::oracle::log::Log;

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// Two jobs, one slot: both succeed.
    JobsSucceed,
    /// A job's step fails.
    JobFails,
    /// The daemon dies during a build and forgets it: a new attempt succeeds.
    DaemonLost,
    /// The runner's container is restarted during a build: a new attempt succeeds.
    RunnerLost,
    /// The pod is deleted during a build: a new attempt succeeds on its successor.
    PodLost,
    /// A job is deleted during its build.
    JobDeleted,
    /// A job is cancelled during its build.
    JobCancelled,
    /// A pool is created.
    PoolCreated,
    /// A pool is created where an object of a name that it needs belongs to somebody else.
    ForeignObject,
    /// A pool gets another member and another limit, for which the member that it has is replaced.
    PoolChanged,
    /// A pool is deleted.
    PoolDeleted,
}

impl Scenario {
    /// How the builds end.
    pub fn script(self) -> Script {
        let end = match self {
            Self::JobFails => return always(End::Fails),
            Self::JobDeleted | Self::JobCancelled => return always(End::Never),
            Self::DaemonLost => End::DaemonDies { keeps_history: false },
            Self::RunnerLost | Self::PodLost => End::Never,
            Self::JobsSucceed | Self::PoolCreated | Self::ForeignObject | Self::PoolChanged | Self::PoolDeleted => {
                return Script::new();
            }
        };
        Script::from([(("a".to_owned(), 1), end)])
    }

    /// Whether it is the pool to which things happen.
    pub fn is_about_pools(self) -> bool {
        matches!(self, Self::PoolCreated | Self::ForeignObject | Self::PoolChanged | Self::PoolDeleted)
    }

    /// What is there before the story begins.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn set_up(self, world: &World) -> Result<()> {
        match self {
            Self::PoolCreated => return Ok(()),
            Self::ForeignObject => {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "main-buildkitd"}});
                world.site().create("configmaps", &map).await?;
                return world
                    .until("the object is there", |log| log.get("configmaps", "main-buildkitd").is_some())
                    .await;
            }
            _ => {}
        }
        create_pool(world).await?;
        pool_ready(world, 1).await
    }

    /// The story, until it is clear how it ends.
    ///
    /// # Errors
    /// When it does not go on in time.
    pub async fn play(self, world: &World) -> Result<()> {
        let site = world.site();
        match self {
            Self::JobsSucceed => {
                create_job(world, "a").await?;
                create_job(world, "b").await?;
                world.phase("a", &["Succeeded"]).await?;
                world.phase("b", &["Succeeded"]).await
            }
            Self::JobFails => {
                create_job(world, "a").await?;
                world.phase("a", &["Failed"]).await
            }
            Self::DaemonLost => {
                create_job(world, "a").await?;
                world.phase("a", &["Succeeded"]).await
            }
            Self::RunnerLost => {
                create_job(world, "a").await?;
                begun(world).await?;
                world.order(Order::RestartRunner("main-0".into()));
                world.phase("a", &["Succeeded"]).await
            }
            Self::PodLost => {
                create_job(world, "a").await?;
                begun(world).await?;
                delete(world, "pods", "main-0").await?;
                world.phase("a", &["Succeeded"]).await
            }
            Self::JobDeleted => {
                create_job(world, "a").await?;
                begun(world).await?;
                delete(world, "buildjobs", "a").await?;
                world.until("the build has ended", |_| site.record.solves().iter().all(|s| s.end.is_some())).await
            }
            Self::JobCancelled => {
                create_job(world, "a").await?;
                begun(world).await?;
                site.patch("buildjobs", "a", &json!({"spec": {"cancel": true}})).await?;
                world.phase("a", &["Cancelled"]).await
            }
            Self::PoolCreated => {
                create_pool(world).await?;
                pool_ready(world, 1).await
            }
            Self::ForeignObject => {
                create_pool(world).await?;
                world
                    .until("the pool says so", |log| has_condition(log, |ready| ready["reason"] == "NameConflict"))
                    .await
            }
            Self::PoolChanged => {
                let spec = json!({"scaling": {"minMembers": 2}, "maxBuildDuration": "30m"});
                site.patch("buildpools", "main", &json!({"spec": spec})).await?;
                pool_ready(world, 2).await
            }
            Self::PoolDeleted => {
                delete(world, "buildpools", "main").await?;
                world.until("everything is gone", |log| log.live().is_empty()).await
            }
        }
    }
}

/// However often it is tried.
fn always(end: End) -> Script {
    (1..=4).map(|attempt| (("a".to_owned(), attempt), end)).collect()
}

async fn create_pool(world: &World) -> Result<()> {
    let pool = json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildPool",
        "metadata": {"name": "main"},
        "spec": {"scaling": {"minMembers": 1, "buildsPerMember": 1}, "cache": {"size": "1Gi"}},
    });
    world.site().create("buildpools", &pool).await
}

async fn create_job(world: &World, name: &str) -> Result<()> {
    let job = json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildJob",
        "metadata": {"name": name},
        "spec": {
            "poolRef": {"name": "main"},
            "context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}},
            "output": {"image": {"names": ["registry.test/app:1"]}},
        },
    });
    world.site().create("buildjobs", &job).await
}

/// Whoever deletes an object has seen it.
async fn delete(world: &World, resource: &str, name: &str) -> Result<()> {
    let Some(object) = world.site().log.get(resource, name) else { anyhow::bail!("{resource} {name} is gone already") };
    world.site().delete(resource, name, uid(&object), None).await
}

/// The pool says that it is ready, with so many members, and each of them has said which daemon it has.
async fn pool_ready(world: &World, members: usize) -> Result<()> {
    world.until(&format!("the pool is ready with {members} members"), |log| ready(log, members)).await
}

fn ready(log: &Log, members: usize) -> bool {
    let Some(pool) = log.get("buildpools", "main") else { return false };
    let status = &pool["status"];
    let told = |member: &Value| !member["version"].is_null();
    status["readyMembers"] == json!(members)
        && status["members"].as_array().is_some_and(|list| list.len() == members && list.iter().all(told))
        && has_condition(log, |ready| ready["status"] == "True")
        && status["upgrade"].is_null()
        && status["observedGeneration"] == pool["metadata"]["generation"]
}

/// Whether the pool's condition Ready is like this.
fn has_condition(log: &Log, is: impl Fn(&Value) -> bool) -> bool {
    let Some(pool) = log.get("buildpools", "main") else { return false };
    let mut conditions = pool["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && is(condition))
}

/// An attempt runs, or a fault has ended it before it came to that.
async fn begun(world: &World) -> Result<()> {
    world
        .until("an attempt of a runs", |log| {
            let job = log.get("buildjobs", "a");
            let lost = job.is_some_and(|job| !job["status"]["attempts"][0]["result"].is_null());
            lost || !world.site().record.solves().is_empty()
        })
        .await
}
