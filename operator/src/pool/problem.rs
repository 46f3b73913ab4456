//! What stands in a pool's way, in words for the one who can change it: the field or object, and the remedy.

use std::fmt;

use buildpools_crds::labels;

use super::reasons;

/// Something that stands in the way of a pool or of one of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Somebody else's object has a name that the pool needs.
    NameConflict {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Whether it belonged to an earlier pool of this name.
        earlier_pool: bool,
    },
    /// A volume of that name was not made for this pool.
    ForeignVolume {
        /// Name of the PersistentVolumeClaim.
        name: String,
    },
    /// A volume that was retained is of an earlier pool of the other profile.
    VolumeOfOtherProfile {
        /// Name of the PersistentVolumeClaim.
        name: String,
    },
    /// A CA bundle is not there.
    AuthorityNotFound {
        /// Index in `spec.registries`.
        index: usize,
        /// Name of the ConfigMap.
        config_map: String,
        /// Key, if the ConfigMap is there and the key is not.
        key: Option<String>,
    },
    /// A CA bundle is no PEM.
    AuthorityInvalid {
        /// Index in `spec.registries`.
        index: usize,
        /// Name of the ConfigMap.
        config_map: String,
        /// Key in it.
        key: String,
    },
    /// A quantity that is none.
    QuantityInvalid {
        /// The field.
        field: String,
        /// Its value.
        value: String,
    },
    /// `spec.cache.gc` leaves no room.
    CacheLimits {
        /// `maxUsed` in bytes.
        max_used: i64,
        /// `minFree` in bytes.
        min_free: i64,
        /// The volume in bytes.
        bytes: i64,
    },
    /// More is requested than allowed.
    RequestAboveLimit {
        /// Name of the resource.
        resource: String,
        /// What is requested.
        request: String,
        /// What is allowed.
        limit: String,
    },
    /// Nobody says where the API server is.
    ApiServerUnknown,
    /// A network in `spec.network.egress` cannot be.
    EgressInvalid {
        /// Index in `spec.network.egress`.
        index: usize,
        /// Its `cidr`.
        cidr: String,
    },
    /// The API server refuses an object.
    ObjectRefused {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// The API server's text.
        message: String,
    },
    /// The namespace refuses the members' pods.
    PodRefused {
        /// The API server's text.
        message: String,
    },
    /// Policies of the cluster change the members' pods.
    PodMutated {
        /// The fields with what was sent and what came of it.
        changes: Vec<String>,
        /// The pool.
        pool: String,
    },
    /// Cluster or node have no user namespaces for pods.
    UserNamespacesUnsupported {
        /// How that shows.
        message: String,
    },
    /// The kubelet cannot begin with a member.
    Held {
        /// Name of the pod.
        pod: String,
        /// The kubelet's text.
        message: String,
    },
    /// No node can take a member.
    Unschedulable {
        /// Name of the pod.
        pod: String,
        /// The scheduler's text.
        message: String,
    },
    /// An image cannot be pulled.
    ImagePull {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
        /// The image.
        image: String,
        /// The runtime's text.
        message: String,
    },
    /// A container cannot be started or ends again and again.
    Crashing {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
        /// How it ended, or why it does not start.
        message: String,
    },
    /// A member's BuildKit is older than the oldest that is supported.
    BuildKitTooOld {
        /// Name of the pod.
        pod: String,
        /// What its daemon reports.
        version: String,
    },
}

impl Problem {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NameConflict { .. } | Self::ForeignVolume { .. } | Self::VolumeOfOtherProfile { .. } => {
                reasons::NAME_CONFLICT
            }
            Self::AuthorityNotFound { .. } => reasons::CERTIFICATE_AUTHORITY_NOT_FOUND,
            Self::AuthorityInvalid { .. } => reasons::CERTIFICATE_AUTHORITY_INVALID,
            Self::QuantityInvalid { .. } | Self::CacheLimits { .. } | Self::RequestAboveLimit { .. } => {
                reasons::RESOURCES_INVALID
            }
            Self::ApiServerUnknown => reasons::API_SERVER_UNKNOWN,
            Self::EgressInvalid { .. } => reasons::EGRESS_INVALID,
            Self::ObjectRefused { .. } => reasons::OBJECT_REFUSED,
            Self::PodRefused { .. } => reasons::POD_REFUSED,
            Self::Unschedulable { .. } => reasons::UNSCHEDULABLE,
            Self::ImagePull { .. } => reasons::IMAGE_PULL_FAILED,
            Self::PodMutated { .. } => reasons::POD_MUTATED,
            Self::UserNamespacesUnsupported { .. } => reasons::USER_NAMESPACES_UNSUPPORTED,
            Self::BuildKitTooOld { .. } => reasons::BUILDKIT_TOO_OLD,
            Self::Crashing { .. } | Self::Held { .. } => reasons::MEMBER_CRASHING,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameConflict { kind, name, earlier_pool: false } => {
                write!(f, "{kind} {name} does not belong to this pool: delete it, or give the pool another name")
            }
            Self::NameConflict { kind, name, earlier_pool: true } => {
                write!(f, "{kind} {name} belongs to a deleted pool of the same name: waiting until it is gone")
            }
            Self::ForeignVolume { name } => write!(
                f,
                "PersistentVolumeClaim {name} was not made for this pool, and a cache must be its own: delete it, or give the pool another name"
            ),
            Self::VolumeOfOtherProfile { name } => write!(
                f,
                "PersistentVolumeClaim {name} holds the cache of an earlier pool of another profile, whose files belong to other users: delete it, or give the pool another name"
            ),
            Self::AuthorityNotFound { index, config_map, key: None } => write!(
                f,
                "spec.registries[{index}].caRef: there is no ConfigMap {config_map} in this namespace: create it, or correct caRef"
            ),
            Self::AuthorityNotFound { index, config_map, key: Some(key) } => write!(
                f,
                "spec.registries[{index}].caRef: ConfigMap {config_map} has no key {key}: add it, or correct caRef.key"
            ),
            Self::AuthorityInvalid { index, config_map, key } => write!(
                f,
                "spec.registries[{index}].caRef: key {key} of ConfigMap {config_map} holds no PEM certificate (-----BEGIN CERTIFICATE-----): correct it"
            ),
            Self::QuantityInvalid { field, value } => {
                write!(f, "{field}: {value:?} is not a usable quantity: write for example 50Gi")
            }
            Self::CacheLimits { max_used, min_free, bytes } => write!(
                f,
                "spec.cache.gc: maxUsed ({max_used} bytes) and minFree ({min_free} bytes) do not fit into a volume of {bytes} bytes: together they may be the whole of it, and maxUsed at most 95% of it"
            ),
            Self::RequestAboveLimit { resource, request, limit } => write!(
                f,
                "spec.pod.resources.requests.{resource}: {request} is more than the limit {limit}: lower it, or raise limits.{resource}"
            ),
            Self::ApiServerUnknown => f.write_str(
                "the API server's addresses are not known, and members would be cut off from it: EndpointSlice kubernetes in namespace default is missing or empty; API servers keep it themselves, unless they run with --endpoint-reconciler-type=none",
            ),
            Self::EgressInvalid { index, cidr } => write!(
                f,
                "spec.network.egress[{index}]: cidr {cidr} or its except is no network that a build may reach: correct it, for example 203.0.113.0/24"
            ),
            Self::ObjectRefused { kind, name, message } => {
                write!(f, "{kind} {name} is refused by the API server: {message}")
            }
            Self::PodRefused { message } => {
                write!(f, "pods are refused: {message}")?;
                if message.contains("PodSecurity") {
                    f.write_str(
                        "; BuildKit needs a namespace with the label pod-security.kubernetes.io/enforce=privileged",
                    )?;
                }
                Ok(())
            }
            Self::PodMutated { changes, pool } => write!(
                f,
                "a policy of the cluster changes the members' pods: {}; members do not work so: exempt pods with the label {}={pool} from it (kubectl get mutatingwebhookconfigurations,mutatingadmissionpolicybindings)",
                changes.join(", "),
                labels::POOL,
            ),
            Self::UserNamespacesUnsupported { message } => write!(
                f,
                "there are no user namespaces for pods here: {message}; profile UserNamespace needs Kubernetes 1.33, a container runtime and a kernel that have them, and a cache volume of ext4 or xfs: choose such nodes (spec.pod.nodeSelector), or create the pool with profile Rootless"
            ),
            Self::Held { pod, message } => write!(f, "the node does not start pod {pod}: {message}"),
            Self::Unschedulable { pod, message } => write!(f, "no node takes pod {pod}: {message}"),
            Self::ImagePull { pod, container, image, message } => {
                write!(f, "pod {pod} cannot pull image {image} of container {container}: {message}")
            }
            Self::Crashing { pod, container, message } => {
                write!(f, "container {container} of pod {pod} does not run: {message}")
            }
            Self::BuildKitTooOld { pod, version } => write!(
                f,
                "BuildKit {version} of pod {pod} is older than v{minimum}, so it takes no builds: set spec.buildkit.image to an image of v{minimum} or newer",
                minimum = buildpools_crds::buildkit::MINIMUM
            ),
        }
    }
}
