//! What the dispatcher is told of builds that had ended before it began.

use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::routing::Finished;
use super::world::Seen;

/// The way to the dispatcher of this process. A clone leads to the same one.
#[derive(Clone, Debug, Default)]
pub struct Past(Arc<Mutex<Option<mpsc::UnboundedSender<Finished>>>>);

impl Past {
    /// Tells the dispatcher, if one runs. It takes in what it is told at once, so the way holds little.
    pub fn tell(&self, build: Finished) {
        if let Some(dispatcher) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // It may have stopped.
            let _ = dispatcher.send(build);
        }
    }

    /// The dispatcher runs; it gets what is told.
    pub(crate) fn attach(&self) -> impl Stream<Item = Seen> + Unpin + Send + use<> {
        let (dispatcher, mut told) = mpsc::unbounded_channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(dispatcher);
        stream::poll_fn(move |context| told.poll_recv(context)).map(Seen::Finished)
    }
}
