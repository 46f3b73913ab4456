//! Servers of the test cluster: the registry's token server and the git server (see `e2e/src/fixtures/README.md`), and the
//! enforcer of NetworkPolicies.

use buildpools_e2e::cluster::policy::{enforcer, plugin};
use buildpools_e2e::fixtures::{git, token};
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Servers that the test cluster needs besides Kubernetes")]
enum Arguments {
    /// Token server for the registry: who may pull and push what.
    Token(token::server::Options),
    /// Git repositories over HTTPS.
    Git(git::server::Options),
    /// NetworkPolicies, enforced with nftables.
    NetworkPolicy(enforcer::Options),
    /// The network plugin that makes a new pod wait for its NetworkPolicies.
    NetworkPlugin(plugin::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed"))?;
    match arguments {
        Arguments::Token(options) => token::server::run(options).await,
        Arguments::Git(options) => git::server::run(options).await,
        Arguments::NetworkPolicy(options) => {
            tracing_subscriber::fmt().with_ansi(false).init();
            enforcer::run(options).await
        }
        Arguments::NetworkPlugin(options) => plugin::run(&options),
    }
}
