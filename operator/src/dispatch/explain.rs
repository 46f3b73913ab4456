//! Why each job waits: for people, on demand.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// What would be decided now about a job that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Namespace of the job.
    pub namespace: String,
    /// Name of the job.
    pub job: String,
    /// Name of the pool whose queue it is in; empty if there is no pool for it.
    pub pool: String,
    /// Its group; empty in a pool without groups, and for jobs without the label.
    pub group: String,
    /// Its priority.
    pub priority: i32,
    /// Its place in the queue, from 1, if it may get a slot now.
    pub position: Option<i32>,
    /// What would be done: `Bind`, `Wait`, `BackOff`, `Refuse`, `Cancel`, or `Write` while something is being written.
    pub decision: &'static str,
    /// Why.
    pub reason: String,
    /// Since when it waits.
    pub since: Timestamp,
}

/// Asks the dispatcher of this process why jobs wait. A clone asks the same one.
#[derive(Clone, Debug, Default)]
pub struct Explainer(Arc<Mutex<Option<mpsc::Sender<Question>>>>);

/// A question to the dispatcher, which answers it between two decisions.
#[derive(Debug)]
pub struct Question(oneshot::Sender<Vec<Explained>>);

impl Question {
    /// Answers.
    pub fn answer(self, explained: Vec<Explained>) {
        // Who has asked may have gone.
        let _ = self.0.send(explained);
    }
}

impl Explainer {
    /// All jobs that wait; `None` if no dispatcher runs in this process, because another one leads.
    pub async fn explain(&self) -> Option<Vec<Explained>> {
        let dispatcher = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (question, answer) = oneshot::channel();
        dispatcher.send(Question(question)).await.ok()?;
        answer.await.ok()
    }

    /// The dispatcher runs; it gets the questions.
    pub(super) fn attach(&self) -> mpsc::Receiver<Question> {
        let (dispatcher, questions) = mpsc::channel(1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(dispatcher);
        questions
    }
}
