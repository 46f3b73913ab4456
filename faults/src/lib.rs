//! buildpools under faults: real operator and runners at a real API server, without kubelet and containers.
//!
//! | module | concern |
//! |---|---|
//! | [`control_plane`] | etcd and kube-apiserver alone, with buildpools' definitions, roles and policies installed |
//! | [`kept`] | processes that end with this one |

pub mod control_plane;
pub mod kept;
