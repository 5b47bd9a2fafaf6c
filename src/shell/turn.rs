//! The loop, for every controller: changes in, due calls out, answers in, until somebody says stop. One task owns the
//! controller.

use std::time::Duration;

use futures::future::{Either, pending};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{api::Api, tasks::joined};
use crate::core::{
    Time,
    failure::Failure,
    kernel::controller::{Controller, Outcome},
    request::{Answer, Request},
};

/// Calls under way at SIGTERM may go on for so long; the pod's grace period is 30 s.
const GRACE: Duration = Duration::from_secs(8);
/// Inputs that are taken in, and decisions that are made, before the loop looks up: leadership, a scrape or a watch waits
/// for so many at most.
pub const BATCH: usize = 256;
/// Decisions between two looks at the clock.
const STRIDE: usize = 16;
/// No turn begins another stride after this time: a decision usually takes microseconds, but somebody may have made thousands of
/// Secrets for one account.
const LONGEST_TURN: Duration = Duration::from_millis(20);
/// Of so many slots one more is there for statuses: with a policy for each account every fifth write is one.
const STATUS_SHARE: usize = 3;
/// The longest sleep: the clock may be set meanwhile.
const REFRESH: Duration = Duration::from_secs(1);

/// Work for the task that owns the controller.
pub type Task<C> = Box<dyn FnOnce(&mut C, Time) + Send>;

/// Something for the task that owns the controller.
pub enum Input<C: Controller> {
    /// A watch over this scope shows something.
    Change(u16, C::Change),
    /// The watch of this kind fails, or works again.
    Health(u16, &'static str, Option<Failure>),
    /// Anything else.
    Call(Task<C>),
}

/// The outside of a controller.
pub trait Host<C: Controller>: Send {
    /// So many decisions took so long.
    fn decided(&self, _count: usize, _took: Duration) {}
    /// Counts an answer.
    fn answered(&self, outcome: &Outcome);
    /// Tells people.
    fn report(&self, news: C::News);
    /// The health of a watch changed.
    fn watch_health(&self, kind: &'static str, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            warn!(kind, "{}", failure.message);
        } else {
            info!(kind, "the watch works again");
        }
    }
    /// A turn of the loop ended.
    fn turned(&mut self, controller: &mut C, now: Time);
}

/// A controller, its outside, and its calls under way.
pub struct Turns<C: Controller, H> {
    controller: C,
    host: H,
    api: Api,
    slots: usize,
    calls: JoinSet<(u32, Answer)>,
    statuses: JoinSet<(u32, Answer)>,
    /// Whether this process led at the last turn.
    leads: bool,
}

impl<C: Controller, H: Host<C>> Turns<C, H> {
    /// Nothing is under way. At most `slots` calls, and a third as many writes of a status, are at once.
    pub fn new(controller: C, host: H, api: Api, slots: usize) -> Self {
        let leads = api.leadership().leads();
        Self { controller, host, api, slots, calls: JoinSet::new(), statuses: JoinSet::new(), leads }
    }

    /// Serves until `stop` turns true, and finishes the calls under way; whether each of them has ended.
    pub async fn serve(mut self, mut inputs: mpsc::Receiver<Input<C>>, mut stop: watch::Receiver<bool>) -> bool {
        let mut batch = Vec::with_capacity(BATCH);
        let mut leadership = self.api.leadership().clone();
        while !*stop.borrow() {
            let wake = self.wake();
            tokio::select! {
                _ = stop.changed() => {}
                () = leadership.changed() => {}
                _ = inputs.recv_many(&mut batch, BATCH) => batch.drain(..).for_each(|input| self.take_in(input)),
                Some(done) = self.calls.join_next() => self.answered(done),
                Some(done) = self.statuses.join_next() => self.answered(done),
                () = wake => {}
                () = sleep(REFRESH) => {}
            }
            self.turn();
            // On one thread the lease, the watches and the scrapes wait for this.
            tokio::task::yield_now().await;
        }
        self.drain().await
    }

    fn now(&self) -> Time {
        self.api.clock().now()
    }

    /// Resolves when the controller has something to do without an input.
    fn wake(&self) -> impl Future<Output = ()> + use<C, H> {
        let free = self.calls.len() < self.slots;
        match self.controller.next_wake(free, self.status_slots(), self.now()).filter(|_| self.leads) {
            Some(at) => {
                let pause = (at - self.now()).to_std().unwrap_or_default();
                Either::Left(sleep_until(Instant::now() + pause.min(REFRESH)))
            }
            None => Either::Right(pending()),
        }
    }

    fn status_slots(&self) -> usize {
        (self.slots / STATUS_SHARE).max(1)
    }

    fn take_in(&mut self, input: Input<C>) {
        let now = self.now();
        match input {
            Input::Change(scope, change) => self.controller.observe(scope, change, now),
            Input::Health(scope, kind, failure) => {
                let before = self.controller.watch_health(scope, kind, failure.clone(), now);
                if before != failure {
                    self.host.watch_health(kind, failure.as_ref());
                }
            }
            Input::Call(call) => call(&mut self.controller, now),
        }
    }

    fn turn(&mut self) {
        let now = self.now();
        let before = std::mem::replace(&mut self.leads, self.api.leadership().leads());
        if self.leads && !before {
            self.controller.lead(now);
        }
        if self.leads {
            self.act(now);
        }
        self.tell();
        self.host.turned(&mut self.controller, now);
    }

    /// Starts due calls and writes of statuses.
    fn act(&mut self, now: Time) {
        let (end, mut decisions) = (Instant::now() + LONGEST_TURN, BATCH);
        while self.calls.len() < self.slots && decisions > 0 && Instant::now() < end {
            let mut stride = decisions.min(STRIDE);
            decisions -= stride;
            match self.take(&mut stride, now) {
                Some((ticket, request)) => drop(self.calls.spawn(send(self.api.clone(), ticket, request))),
                None if stride > 0 => break,
                None => {}
            }
            decisions += stride;
        }
        while self.statuses.len() < self.status_slots()
            && let Some((ticket, request)) = self.controller.take_status(self.status_slots(), now)
        {
            self.statuses.spawn(send(self.api.clone(), ticket, request));
        }
    }

    /// The next call, and the time that it took to decide on it.
    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        let (begun, left) = (Instant::now(), *decisions);
        let call = self.controller.take(decisions, now);
        if *decisions < left {
            self.host.decided(left - *decisions, begun.elapsed());
        }
        call
    }

    /// News that a standby sees is the leader's doing, and the leader tells it.
    fn tell(&mut self) {
        let news = self.controller.news();
        if self.leads {
            for news in news {
                self.host.report(news);
            }
        }
    }

    fn answered(&mut self, done: Result<(u32, Answer), JoinError>) {
        let Some((ticket, answer)) = joined(done) else { return };
        let outcome = self.controller.answered(ticket, answer, self.now());
        if outcome.silent
            && let Some(failure) = &outcome.failure
        {
            warn!("{}", failure.message);
        }
        self.host.answered(&outcome);
    }

    /// Finishes the work under way, token by token, but decides nothing new.
    async fn drain(&mut self) -> bool {
        let finish = async {
            while let Some(done) = self.calls.join_next().await {
                self.answered(done);
                let now = self.now();
                while let Some((ticket, request)) = self.controller.take(&mut 0, now) {
                    self.calls.spawn(send(self.api.clone(), ticket, request));
                }
                self.tell();
            }
            while let Some(done) = self.statuses.join_next().await {
                self.answered(done);
            }
        };
        let finished = timeout(GRACE, finish).await.is_ok();
        if !finished {
            error!("stopped with calls unanswered; the next start puts them right");
            self.calls.shutdown().await;
            self.statuses.shutdown().await;
        }
        finished
    }
}

async fn send(api: Api, ticket: u32, request: Request) -> (u32, Answer) {
    (ticket, api.send(&request).await)
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;
    use crate::shell::api::tests::answering;

    /// Each of its calls is followed by another one until it has made `left`.
    struct Chain {
        left: usize,
        pending: Vec<Request>,
        decided: usize,
        /// How long a decision blocks the thread.
        pace: Duration,
    }

    impl Chain {
        fn of(left: usize) -> Self {
            Self { left, pending: Vec::new(), decided: 0, pace: Duration::ZERO }
        }

        fn go_on(&mut self) {
            if let Some(left) = self.left.checked_sub(1) {
                self.left = left;
                self.pending.push(Request::read("get /x".into(), "/x".into()));
            }
        }
    }

    impl Controller for Chain {
        type Change = ();
        type News = usize;

        fn observe(&mut self, _: u16, (): (), _: Time) {}

        fn watch_health(&mut self, _: u16, _: &'static str, _: Option<Failure>, _: Time) -> Option<Failure> {
            None
        }

        fn take(&mut self, decisions: &mut usize, _: Time) -> Option<(u32, Request)> {
            if *decisions == STRIDE {
                // The first decision of a turn, of as many as there may be.
                self.decided += 1;
                self.go_on();
            }
            while self.decided > 1 && *decisions > 0 {
                *decisions -= 1;
                self.decided += 1;
                std::thread::sleep(self.pace);
            }
            Some((0, self.pending.pop()?))
        }

        fn take_status(&mut self, _: usize, _: Time) -> Option<(u32, Request)> {
            None
        }

        fn answered(&mut self, _: u32, answer: Answer, _: Time) -> Outcome {
            self.go_on();
            Outcome { minted: answer.is_ok(), ..Outcome::default() }
        }

        fn next_wake(&self, _: bool, _: usize, now: Time) -> Option<Time> {
            Some(now)
        }

        fn news(&mut self) -> Vec<usize> {
            vec![self.left]
        }

        fn lead(&mut self, _: Time) {}
    }

    struct Outside(mpsc::UnboundedSender<usize>);

    impl<C: Controller<News = usize>> Host<C> for Outside {
        fn answered(&self, _: &Outcome) {}

        fn report(&self, news: usize) {
            let _ = self.0.send(news);
        }

        fn turned(&mut self, _: &mut C, _: Time) {}
    }

    #[tokio::test]
    async fn work_under_way_is_finished_step_by_step_when_the_process_stops() {
        let (stopping, stop) = watch::channel(false);
        let (reports, mut told) = mpsc::unbounded_channel();
        let api = answering(move |_| {
            stopping.send_replace(true);
            async { Response::new(kube::client::Body::empty()) }
        });
        let (_inputs, receiver) = mpsc::channel(1);
        let chain = Chain::of(3);
        Turns::new(chain, Outside(reports), api, 4).serve(receiver, stop).await;
        let mut last = usize::MAX;
        while let Some(left) = told.recv().await {
            last = left;
        }
        assert_eq!(last, 0, "each step of the three, and what it brought is told");
    }

    #[tokio::test]
    async fn watches_and_a_stop_are_served_while_decisions_are_due_without_end() {
        let (stopping, stop) = watch::channel(false);
        let (reports, _told) = mpsc::unbounded_channel();
        let (inputs, receiver) = mpsc::channel(1);
        let api = answering(|_| std::future::pending());
        // A stride of these is longer than a turn may be.
        let chain = Chain { pace: 2 * LONGEST_TURN / u32::try_from(STRIDE).unwrap(), ..Chain::of(0) };
        let turns = tokio::spawn(Turns::new(chain, Outside(reports), api, 4).serve(receiver, stop));
        let decided = async || {
            let (seen, served) = tokio::sync::oneshot::channel();
            let call = move |chain: &mut Chain, _: Time| assert!(seen.send(chain.decided).is_ok());
            assert!(inputs.send(Input::Call(Box::new(call))).await.is_ok());
            served.await.unwrap()
        };
        let mut before = 0;
        while before < STRIDE {
            before = decided().await;
        }
        let between = decided().await - before;
        assert!(between <= 2 * STRIDE, "{between} decisions between two inputs");
        stopping.send_replace(true);
        turns.await.unwrap();
    }

    #[tokio::test]
    async fn a_bug_in_a_call_ends_the_loop() {
        let (_stopping, stop) = watch::channel(false);
        let (reports, _told) = mpsc::unbounded_channel();
        let api = answering(|_| async { std::panic::resume_unwind(Box::new("a bug")) });
        let (_inputs, receiver) = mpsc::channel(1);
        let chain = Chain::of(1);
        let ended = tokio::spawn(Turns::new(chain, Outside(reports), api, 4).serve(receiver, stop)).await;
        assert!(ended.is_err_and(|error| error.is_panic()));
    }
}
