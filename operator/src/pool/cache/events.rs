//! Kubernetes Events about caches that were emptied. Beside the work: nothing depends on one.

use buildpools_crds::v1alpha1::{BuildPool, PoolMember};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Resource as _, ResourceExt as _};
use tracing::{debug, info};

use crate::kube_ext::call::call;
use crate::kube_ext::ensure::short_hash;
use crate::pool::reasons::cache as reasons;

/// Controller of these events.
const CONTROLLER: &str = "buildpools.dev/pool";
/// Later it is no news: an operator that has just started does not know what was told before.
const NEWS: SignedDuration = SignedDuration::from_mins(10);

/// A cache that was emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emptied {
    /// `spec.cache.reset` asked for it.
    Reset {
        /// Its value.
        value: String,
        /// When.
        at: Timestamp,
    },
    /// Its database was damaged.
    Healed {
        /// When.
        at: Timestamp,
    },
}

impl Emptied {
    /// What a member's report tells.
    pub fn of(member: &PoolMember) -> Vec<Self> {
        let Some(cache) = &member.cache else { return Vec::new() };
        let reset =
            cache.reset_done.clone().zip(cache.reset_at.as_ref()).map(|(value, at)| Self::Reset { value, at: at.0 });
        let healed = cache.healed_at.as_ref().map(|at| Self::Healed { at: at.0 });
        reset.into_iter().chain(healed).collect()
    }

    fn at(&self) -> Timestamp {
        match self {
            Self::Reset { at, .. } | Self::Healed { at } => *at,
        }
    }

    /// Whether it is news.
    pub fn is_recent(&self, now: Timestamp) -> bool {
        now.duration_since(self.at()) < NEWS
    }

    /// The event. Its name is made of what it tells, so that there is one, whoever tells it how often.
    pub fn event(&self, pool: &BuildPool, member: &PoolMember) -> Event {
        let pod = &member.pod;
        let (type_, reason, note) = match self {
            Self::Reset { value, .. } => {
                ("Normal", reasons::CACHE_RESET, format!("{pod} has emptied its cache (spec.cache.reset: {value})"))
            }
            Self::Healed { .. } => (
                "Warning",
                reasons::CACHE_CORRUPTED,
                format!(
                    "the cache of {pod} was emptied, because its database was damaged and the daemon could not run; builds go on with a cold cache"
                ),
            ),
        };
        let identity = format!("{pod}\0{reason}\0{}", self.at());
        let mut regarding = pool.object_ref(&());
        regarding.resource_version = None;
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{}", pool.name_any(), short_hash(identity.as_bytes()))),
                namespace: pool.namespace(),
                ..ObjectMeta::default()
            },
            action: Some("EmptyCache".to_owned()),
            event_time: Some(MicroTime(self.at())),
            note: Some(note),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some("buildpools-operator".to_owned()),
            type_: Some(type_.to_owned()),
            ..Event::default()
        }
    }
}

/// Publishes an event, if it is not there.
pub async fn publish(client: Client, event: Event) {
    let api: Api<Event> = Api::namespaced(client, event.metadata.namespace.as_deref().unwrap_or_default());
    match call(api.create(&PostParams::default(), &event)).await {
        Ok(_) => info!(reason = event.reason, "{}", event.note.unwrap_or_default()),
        Err(error) if error.is_already_exists() => debug!(reason = event.reason, "this event is there already"),
        Err(error) => info!(%error, reason = event.reason, "an event was not published"),
    }
}
