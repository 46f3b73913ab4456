//! How a runner's parts are connected. What is not the same for everybody who runs one is given: the way to the API
//! server, the daemon, the logs.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::Identity;
use crate::api::ApiServer;
use crate::attempt::Workshop;
use crate::credentials::Mounted;
use crate::daemon::Builder;
use crate::decide::Event;
use crate::logs::Logs;
use crate::member::{self, Report};
use crate::supervisor::Supervisor;
use crate::watch::{self as watches, PoolSettings};

/// Both ends of the runner's events: a client is made with the first before there is anybody to read the second.
pub type Events = (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>);

/// A runner that has not begun yet.
pub struct Assembly<B> {
    /// What its tasks share.
    pub workshop: Arc<Workshop<B>>,
    received: mpsc::UnboundedReceiver<Event>,
    settings: watch::Sender<PoolSettings>,
    reports: watch::Receiver<Report>,
}

impl<B: Builder> Assembly<B> {
    /// Connects the parts. `report` is what is known of the daemon already.
    pub fn new(
        me: Arc<Identity>,
        api: ApiServer,
        builder: B,
        mounted: Mounted,
        report: Report,
        logs: Logs,
        (events, received): Events,
    ) -> Self {
        // Until the pool is known. No build starts before: there are no slots.
        let (settings, pool) = watch::channel(PoolSettings::default());
        let (report, reports) = watch::channel(report);
        let doubt = Arc::new(Notify::new());
        let workshop = Arc::new(Workshop { me, api, builder, mounted, pool, report, logs, doubt, events });
        Self { workshop, received, settings, reports }
    }

    /// Begins to watch and to report. The supervisor is to be run, and the tasks are to be kept as long.
    /// `on_synced` is called once the jobs are known that were assigned before.
    pub fn start(self, on_synced: impl FnMut() + Send + 'static) -> (Supervisor<B>, JoinSet<()>) {
        let Self { workshop, received, settings, reports } = self;
        let (me, api, events) = (&workshop.me, &workshop.api, &workshop.events);
        let mut tasks = JoinSet::new();
        tasks.spawn(watches::pool(api.clone(), me.clone(), events.clone(), settings));
        tasks.spawn(watches::jobs(api.clone(), me.clone(), events.clone(), on_synced));
        tasks.spawn(member::publish(api.clone(), me.clone(), reports));
        (Supervisor::new(workshop, received), tasks)
    }
}
