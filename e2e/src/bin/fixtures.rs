//! The registry's token server and the git server of the test cluster. See `e2e/src/fixtures/README.md`.

use buildpools_e2e::fixtures::{git, token};
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Servers that the test cluster needs besides Kubernetes")]
enum Arguments {
    /// Token server for the registry: who may pull and push what.
    Token(token::server::Options),
    /// Git repositories over HTTPS.
    Git(git::server::Options),
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
    }
}
