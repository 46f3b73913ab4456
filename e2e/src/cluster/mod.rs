//! A real one-node Kubernetes on this machine, without a container engine, a release binary or a downloaded image.
//!
//! [`up`] starts it, [`down`] removes every trace of it, [`load`] brings freshly built operator and runner images into
//! it; the `cluster` binary is their command line. Tests read what they need to know from [`ClusterInfo`].
//!
//! | module | concern |
//! |---|---|
//! | [`layout`] | names, directories and addresses: where everything is |
//! | [`info`] | what others may know of a running cluster |
//! | `tools`, `images`, `builder` | programs and images, built once and cached |
//! | `pki` | keys, certificates, kubeconfigs |
//! | `cgroup`, `network`, `node` | the node's control group, network and mount namespace: all that a teardown has to remove |
//! | `process` | processes in the node: start, watch, report |
//! | `containerd`, `control_plane`, `kubelet`, `dns`, `storage`, `policy`, `registry` | the parts, each with its configuration |
//! | [`outside`] | what pods see beyond the cluster |
//! | `start`, `teardown` | the order of things |
//!
//! The whole node lives in one network namespace and one mount namespace, and all its processes, pods included, in one
//! control group. So the host's routes, firewall and mounts stay as they are, clusters do not see each other, and
//! killing the group removes everything whatever state it was in.

pub mod builder;
pub mod cgroup;
pub mod containerd;
pub mod control_plane;
pub mod dns;
pub mod images;
pub mod info;
pub mod kubelet;
pub mod layout;
pub mod network;
pub mod node;
pub mod outside;
pub mod pki;
pub mod policy;
pub mod process;
pub mod registry;
pub mod start;
pub mod steps;
pub mod storage;
pub mod teardown;
pub mod tools;

pub use images::load;
pub use info::ClusterInfo;
pub use layout::Layout;
pub use start::up;
pub use teardown::down;
