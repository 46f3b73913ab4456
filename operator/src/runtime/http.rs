//! The process's own small HTTP servers.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Servers that run until the process ends.
#[derive(Debug, Default)]
pub struct Servers(JoinSet<anyhow::Error>);

impl Servers {
    /// Opens a port and begins to answer. `flag` is the one that says the address, for the error's text.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn begin(&mut self, address: SocketAddr, flag: &'static str, router: Router) -> anyhow::Result<()> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (flag {flag})"))?;
        self.0.spawn(async move {
            let ended = axum::serve(listener, router).await;
            anyhow::anyhow!("the server at {address} (flag {flag}) has ended: {ended:?}")
        });
        Ok(())
    }

    /// Waits until one ends, which none does in good order.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a server failed"),
            None => std::future::pending().await,
        }
    }
}
