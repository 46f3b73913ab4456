//! The loop: events in, decisions, tasks out.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::attempt::{StopSignal, Workshop};
use crate::daemon::Builder;
use crate::decide::{Action, Core, Event, Stop, Uid};

/// Runs the tasks that the decisions ask for.
pub struct Supervisor<B> {
    workshop: Arc<Workshop<B>>,
    core: Core,
    events: mpsc::UnboundedReceiver<Event>,
    stops: HashMap<Uid, watch::Sender<Option<Stop>>>,
}

impl<B: Builder> Supervisor<B> {
    /// `events` is the other end of the workshop's.
    pub fn new(workshop: Arc<Workshop<B>>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        let core = Core::new((*workshop.me).clone());
        Self { workshop, core, events, stops: HashMap::new() }
    }

    /// Until everything is drained.
    pub async fn run(mut self) {
        while let Some(event) = self.events.recv().await {
            if let Event::Done(uid, _) | Event::Crashed(uid) = &event {
                self.stops.remove(uid);
            }
            if matches!(event, Event::Drain) {
                tracing::info!(builds = self.core.builds(), "stopping: no more jobs are taken, running builds go on");
            }
            for action in self.core.handle(event) {
                self.perform(action);
            }
            let builds = self.core.builds();
            self.workshop.report.send_if_modified(|report| std::mem::replace(&mut report.builds, builds) != builds);
            if self.core.drained() {
                return;
            }
        }
    }

    fn perform(&mut self, action: Action) {
        let workshop = self.workshop.clone();
        match action {
            Action::Start(job) => {
                let stop = self.stop_signal(job.metadata.uid.as_deref());
                self.spawn(job.metadata.uid.clone(), async move { workshop.attempt(job, stop).await });
            }
            Action::Account(job) => {
                let stop = self.stop_signal(job.metadata.uid.as_deref());
                self.spawn(job.metadata.uid.clone(), async move { workshop.account(job, stop).await });
            }
            Action::Unbind(job, why) => self.spawn(job.metadata.uid.clone(), async move {
                workshop.api.unbind(&job, why).await;
                None
            }),
            Action::Read(job) => {
                tokio::spawn(async move {
                    let found = workshop.api.read(&job).await;
                    let uid = job.metadata.uid.clone().unwrap_or_default();
                    let _ = workshop.events.send(Event::Read(uid, found));
                });
            }
            Action::Stop(uid, why) => {
                tracing::warn!(uid, "stopping a build: {why:?}");
                if let Some(stop) = self.stops.get(&uid) {
                    stop.send_replace(Some(why));
                }
            }
        }
    }

    fn stop_signal(&mut self, uid: Option<&str>) -> StopSignal {
        let (sender, receiver) = watch::channel(None);
        self.stops.insert(uid.unwrap_or_default().to_owned(), sender);
        receiver
    }

    /// A task's end is told in any case: a fault in it must not keep a slot, or its job, for ever.
    fn spawn(&self, uid: Option<String>, task: impl Future<Output = Option<i32>> + Send + 'static) {
        let events = self.workshop.events.clone();
        let uid = uid.unwrap_or_default();
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            let _ = events.send(match task.await {
                Ok(attempt) => Event::Done(uid, attempt),
                Err(error) => {
                    tracing::error!(uid, "a job's task died: {error}");
                    Event::Crashed(uid)
                }
            });
        });
    }
}
