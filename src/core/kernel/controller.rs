//! The trait that the loop drives: a controller takes in news of watches and answers, and says which calls come next. It calls
//! nobody back.

use crate::core::{
    Time,
    failure::Failure,
    request::{Answer, Request},
};

/// The part of an answer that is counted.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A token was issued.
    pub minted: bool,
    /// The call brought nothing.
    pub failure: Option<Failure>,
    /// No event of the controller's reports the failure.
    pub silent: bool,
}

/// A controller. Calls go out under tickets, and answers come back under them.
pub trait Controller {
    /// A step of one of its watches.
    type Change;
    /// Something that people should hear of.
    type News;

    /// Takes a step of a watch over this scope in.
    fn observe(&mut self, scope: u16, change: Self::Change, now: Time);

    /// A watch fails, or works again; the failure before.
    fn watch_health(&mut self, scope: u16, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure>;

    /// The most urgent call for a free slot, if any is due; `decisions` is what may still be decided in this turn.
    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)>;

    /// The write of the next status that differs from the stored one, while fewer than `most` are under way.
    fn take_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)>;

    /// Takes an answer in.
    fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome;

    /// When there is something to do if nothing changes. `free` says whether a call could begin now, `writes` how many
    /// statuses may be written at once.
    fn next_wake(&self, free: bool, writes: usize, now: Time) -> Option<Time>;

    /// News since the last call.
    fn news(&mut self) -> Vec<Self::News>;

    /// This process begins to act.
    fn lead(&mut self, now: Time);
}
