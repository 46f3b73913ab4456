//! What lies outside of the cluster, as its pods see it: the metadata service that clouds have on every node, servers on
//! the Internet and in a private network. All of them are addresses of the node's loopback interface with one web server
//! behind them, so that a test can tell a way that is closed from one that leads nowhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Layout;
use super::process::{self, Process};
use super::{node, tools};

/// Where clouds hand out the credentials of a machine.
pub const METADATA: &str = "169.254.169.254";
/// Public addresses, of those that are kept for documentation (RFC 5737).
pub const PUBLIC: [&str; 2] = ["203.0.113.10", "203.0.113.11"];
/// A private address that belongs to no pod.
pub const PRIVATE: &str = "10.203.0.10";
/// The ports that all of them answer on, and the node too.
pub const PORTS: [u16; 2] = [80, 81];
/// What the metadata service says at [`CREDENTIALS_PATH`].
pub const CREDENTIALS: &str = "canary-of-the-metadata-service";
/// Where AWS' metadata service has the credentials of a role.
pub const CREDENTIALS_PATH: &str = "latest/meta-data/iam/security-credentials/node";

/// Makes the addresses and starts the servers.
pub fn start(layout: &Layout) -> Result<Vec<Process>> {
    for address in [METADATA, PRIVATE].iter().chain(&PUBLIC) {
        let mut ip: Command = node::command(layout, "ip")?;
        tools::output(ip.args(["address", "add", &format!("{address}/32"), "dev", "lo"]))?;
    }
    let files = layout.data("outside");
    let credentials = files.join(CREDENTIALS_PATH);
    if let Some(directory) = credentials.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&credentials, CREDENTIALS)?;
    let serve = |port: u16| {
        let arguments = ["httpd".to_owned(), "-f".into(), format!("-p{port}"), format!("-h{}", files.display())];
        process::start(layout, &format!("outside-{port}"), Path::new("busybox"), &arguments)
    };
    PORTS.into_iter().map(serve).collect()
}
