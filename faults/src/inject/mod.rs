//! Faults at exact points of what a program says to the API server and to the daemon.
//!
//! A [`Door`] stands between a program's client and the API server. It sees every request and every event of a watch, and
//! counts them: "the second time that the operator patches the status of job `app` to Bound" is a [`Point`], the same in
//! every run. One point of a run may have one [`Fault`].

mod door;
mod events;
mod request;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use buildpools_crds::watch::AnswerWithin;
use tokio::sync::mpsc;

pub use door::{Door, TOUCHED, Upstream};
pub use request::Identity;

use crate::lock;
use crate::trace::Trace;

/// How long a request hangs before its connection breaks. Longer than any call of the programs may take.
pub const HANG: Duration = Duration::from_secs(35);

/// How long a request is under way that its sender has given up by then (calls end after ten seconds).
pub const LATE: Duration = Duration::from_secs(11);

/// How long a request takes that is slow, and not too slow.
pub const SLOW: Duration = Duration::from_secs(3);

/// How long a stale or interrupted view lasts.
pub const BEHIND: Duration = Duration::from_secs(1);

/// How long the programs wait for the beginning of an answer, as both of them set it.
pub const ANSWER: AnswerWithin = AnswerWithin(Duration::from_secs(30));

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Pool controller and dispatcher.
    Operator,
    /// The runner in the pod of this name.
    Runner(String),
}

/// What is done at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// A write to the API server.
    Write,
    /// A read of one object or a list.
    Read,
    /// An event of a watch.
    Event,
    /// A call to the daemon.
    External,
}

/// One moment of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// Who does it.
    pub part: Part,
    /// What: `patch buildjobs/status app: Bound`, `event pods MODIFIED main-0`, `solve app-1`.
    pub call: String,
    /// The how-manieth time since the run began, from 1.
    pub nth: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The program dies before it has sent the request.
    CrashBefore,
    /// The program dies after the request was carried out, before it knows.
    CrashAfter,
    /// As before; then the lists with which watches begin show the state so many changes ago, and the watches are as far
    /// behind for a second.
    /// `usize::MAX`: the state at the beginning.
    Stale(usize),
    /// Carried out, then the connection breaks.
    AnswerLost,
    /// Carried out, and the answer is 504.
    GatewayTimeout,
    /// Somebody else changes the object just before. A create is answered with 409 and not carried out.
    Conflict,
    /// Not carried out: 429 with Retry-After.
    TooManyRequests,
    /// Not carried out, and no answer for [`HANG`].
    Hang,
    /// Carried out after [`LATE`], when the sender has given up.
    Late,
    /// Carried out after [`SLOW`], when others have done something in between.
    Slow,
    /// Carried out twice; the sender gets the second answer.
    Duplicate,
    /// Not carried out: 503, or an error of the daemon.
    Unavailable,
    /// The event is not shown; after the next one, or a second, the watch ends with an ERROR event 410.
    Unobserved,
    /// An ERROR event 410 instead of the event.
    Expired,
    /// The connection breaks in the middle of the event, and until a new list every watch is answered with HTTP 410.
    ExpiredAtStart,
    /// The connection breaks in the middle of the event.
    Cut,
}

impl Fault {
    /// All that can go wrong at such a point.
    pub fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Write => &[
                Self::CrashBefore,
                Self::CrashAfter,
                Self::Stale(1),
                Self::Stale(5),
                Self::Stale(usize::MAX),
                Self::AnswerLost,
                Self::GatewayTimeout,
                Self::Conflict,
                Self::TooManyRequests,
                Self::Hang,
                Self::Late,
                Self::Slow,
                Self::Duplicate,
            ],
            Kind::Read => &[Self::Unavailable, Self::Hang],
            Kind::Event => &[Self::Unobserved, Self::Expired, Self::ExpiredAtStart, Self::Cut],
            Kind::External => &[Self::CrashBefore, Self::CrashAfter, Self::AnswerLost, Self::Unavailable, Self::Hang],
        }
    }

    /// Whether the program dies of it.
    pub fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::Stale(_))
    }
}

/// Names of faults as the command line has them.
const NAMES: [(&str, Fault); 18] = [
    ("crash-before", Fault::CrashBefore),
    ("crash-after", Fault::CrashAfter),
    ("stale-1", Fault::Stale(1)),
    ("stale-5", Fault::Stale(5)),
    ("stale-all", Fault::Stale(usize::MAX)),
    ("answer-lost", Fault::AnswerLost),
    ("504-after-commit", Fault::GatewayTimeout),
    ("409", Fault::Conflict),
    ("429", Fault::TooManyRequests),
    ("hang", Fault::Hang),
    ("late", Fault::Late),
    ("slow", Fault::Slow),
    ("duplicate", Fault::Duplicate),
    ("unavailable", Fault::Unavailable),
    ("unobserved", Fault::Unobserved),
    ("410-event", Fault::Expired),
    ("410-status", Fault::ExpiredAtStart),
    ("cut", Fault::Cut),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, fault)| fault == self).map(|(name, _)| *name);
        f.write_str(name.unwrap_or("stale"))
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, fault)| *fault);
        found.ok_or_else(|| format!("{text} is none of: {}", NAMES.map(|(name, _)| name).join(" ")))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Runner(pod) => write!(f, "runner-{pod}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} #{}", self.part, self.call, self.nth)
    }
}

/// Counts what the programs of one run do, and says where something goes wrong. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Injector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    trace: Trace,
    crashes: mpsc::UnboundedSender<Part>,
}

#[derive(Debug, Default)]
struct State {
    armed: bool,
    plan: Option<(Point, Fault)>,
    fired: Option<Instant>,
    counts: HashMap<(Part, String), u32>,
    seen: Vec<(Kind, Point)>,
    last_write: Option<Instant>,
    /// A view that is behind: whose, how many changes, and from when on.
    stale: Option<(Part, usize)>,
    /// Watches of this program and resource are answered with HTTP 410 until it lists again.
    expired: Option<(Part, String)>,
}

impl Injector {
    /// With this plan. Crashes are told to `crashes`.
    pub fn new(plan: Option<(Point, Fault)>, trace: Trace, crashes: mpsc::UnboundedSender<Part>) -> Self {
        Self(Arc::new(Inner { state: Mutex::new(State { plan, ..State::default() }), trace, crashes }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// From now on points are counted.
    pub fn arm(&self) {
        self.0.trace.line("---------- begins");
        self.state().armed = true;
    }

    /// When the fault happened.
    pub fn fired(&self) -> Option<Instant> {
        self.state().fired
    }

    /// The points that were passed, in order.
    pub fn seen(&self) -> Vec<(Kind, Point)> {
        self.state().seen.clone()
    }

    /// When a program wrote last, or tried to.
    pub fn last_write(&self) -> Option<Instant> {
        self.state().last_write
    }

    /// A program is about to do something: what goes wrong with it.
    pub fn pass(&self, kind: Kind, part: &Part, call: &str) -> Option<Fault> {
        let mut state = self.state();
        if kind == Kind::Write {
            state.last_write = Some(Instant::now());
        }
        if !state.armed {
            return None;
        }
        let count = state.counts.entry((part.clone(), call.to_owned())).or_default();
        *count += 1;
        let point = Point { part: part.clone(), call: call.to_owned(), nth: *count };
        let planned = state.plan.as_ref().filter(|(planned, _)| *planned == point).map(|(_, fault)| *fault);
        state.seen.push((kind, point));
        if let Some(fault) = planned {
            state.fired = Some(Instant::now());
            if let Fault::Stale(depth) = fault {
                state.stale = Some((part.clone(), depth));
            }
            drop(state);
            self.0.trace.line(format!("{part:<12} {call}  <<<<<<<<<< {fault}"));
        }
        planned
    }

    /// A program dies. It comes back as soon as whoever restarts it hears of it.
    fn crash(&self, part: &Part) {
        // The receiver ends with the run.
        let _ = self.0.crashes.send(part.clone());
    }

    /// How far behind the lists of this program are.
    fn behind(&self, part: &Part) -> Option<usize> {
        let state = self.state();
        let (_, depth) = state.stale.as_ref().filter(|(whose, _)| whose == part)?;
        let over = state.fired.is_none_or(|fired| fired.elapsed() > BEHIND);
        (!over).then_some(*depth)
    }

    /// How long watches of this program stay silent.
    fn silence(&self, part: &Part) -> Duration {
        let state = self.state();
        let is_behind = state.stale.as_ref().is_some_and(|(whose, _)| whose == part);
        let fired = state.fired.filter(|_| is_behind);
        fired.map_or(Duration::ZERO, |fired| BEHIND.saturating_sub(fired.elapsed()))
    }

    fn expire(&self, part: &Part, watched: &str) {
        self.state().expired = Some((part.clone(), watched.to_owned()));
    }

    /// Whether a watch is answered with HTTP 410. A list puts that right.
    fn is_expired(&self, part: &Part, watched: &str, is_list: bool) -> bool {
        let mut state = self.state();
        let hit = state.expired.as_ref().is_some_and(|(whose, what)| whose == part && what == watched);
        if hit && is_list {
            state.expired = None;
        }
        hit && !is_list
    }

    /// The trace of the run.
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_that_is_understood() {
        for kind in [Kind::Write, Kind::Read, Kind::Event, Kind::External] {
            for fault in Fault::of(kind) {
                assert_eq!(fault.to_string().parse(), Ok(*fault));
            }
        }
        assert!("none".parse::<Fault>().is_err());
    }

    #[test]
    fn a_point_is_counted_from_when_the_run_begins() {
        let point = Point { part: Part::Operator, call: "create pods a".into(), nth: 2 };
        let (crashes, _) = mpsc::unbounded_channel();
        let injector = Injector::new(Some((point, Fault::Conflict)), Trace::default(), crashes);
        let pass = |part: &Part| injector.pass(Kind::Write, part, "create pods a");
        assert_eq!(pass(&Part::Operator), None);
        injector.arm();
        assert_eq!(pass(&Part::Operator), None);
        assert_eq!(pass(&Part::Runner("a".into())), None);
        assert!(injector.fired().is_none());
        assert_eq!(pass(&Part::Operator), Some(Fault::Conflict));
        assert_eq!(pass(&Part::Operator), None);
        assert_eq!(injector.seen().len(), 4);
        assert!(injector.fired().is_some());
    }
}
