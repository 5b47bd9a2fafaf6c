//! kube-runtime's watchers, turned into changes for a controller.

use std::{fmt::Debug, io::ErrorKind, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{Status, StatusDetails},
};
use kube::{
    Client,
    api::{Api, WatchParams},
    client::Body,
    core::{PartialObjectMeta, Resource},
    runtime::watcher::{self, Config, Event},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{connection::with_causes, metrics::Metrics, turn::Input};
use crate::api::token_policy::TokenPolicy;
use crate::core::{
    failure::Failure,
    grant::{
        Account,
        controller::{Change, Grants, KINDS},
    },
    id::Key,
    kernel::{
        controller::Controller,
        store::{Scope, WatchEvent},
    },
    meta::version,
    names,
    object::Object,
    place::{
        applied::Demanded,
        secret::{Anchor, Target},
    },
    policy::PolicyState,
};

/// A watch that is silent for so many seconds is renewed: a dead connection must not go unnoticed for minutes.
const RENEW_SECONDS: u32 = 60;
/// Pause after the first error of a watch.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause: what comes back (the CRD, a right, the server) is seen within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause that the API server may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(1);
/// A watch works again when it has been open for so long: one that breaks at once after each opening does not.
const STEADY: Duration = Duration::from_secs(3);
/// Openings of watches that are remembered until a watch that fails looks for its own.
const OPENED: usize = 64;
/// Streamed lists in a row that end too early, after which one is asked for in pages: not every server ends a list, and a watch
/// has no more than [`RENEW_SECONDS`] for it.
const BROKEN_LISTS: u32 = 3;
/// Objects of a page then: whoever may create Secrets can make each as large as 256 KiB.
const SMALL_PAGE: u32 = 50;
/// Errors in a row after which a watch begins anew with a list: its resourceVersion may be too old to resume.
const ERRORS_BEFORE_LIST: u32 = 4;

/// Starts the four watches of every scope.
pub fn start(
    tasks: &mut JoinSet<()>,
    client: &WatchClient,
    metrics: &Arc<Metrics>,
    demanded: &Demanded,
    scopes: &[Scope],
    inputs: &mpsc::Sender<Input<Grants>>,
) {
    for (number, scope) in (0..).zip(scopes) {
        let watch = |kind| Watch {
            kind,
            number,
            scope: scope.clone(),
            inputs: inputs.clone(),
            metrics: Some(metrics.clone()),
            absent_pause: None,
            needed: None,
        };
        let demanded = demanded.clone();
        tasks.spawn(watch(KINDS[0]).follow(
            client.clone(),
            api::<TokenPolicy>(scope),
            Config::default(),
            move |policy| Some((version(&policy.metadata), PolicyState::parse(policy, &demanded))),
            Change::Policy,
        ));
        tasks.spawn(watch(KINDS[1]).follow(
            client.clone(),
            api::<PartialObjectMeta<ServiceAccount>>(scope),
            Config::default(),
            |object| Some((version(&object.metadata), Account::read(&object.metadata))),
            Change::Account,
        ));
        tasks.spawn(watch(KINDS[2]).follow(
            client.clone(),
            api::<PartialObjectMeta<Secret>>(scope),
            Config::default().labels(&format!("{}={}", names::ROLE, names::TARGET_ROLE)),
            |object| Some((version(&object.metadata), Box::new(Target::read(&object.metadata)?))),
            Change::Target,
        ));
        tasks.spawn(watch(KINDS[3]).follow(
            client.clone(),
            api::<PartialObjectMeta<Secret>>(scope),
            Config::default().fields(&format!("type={}", names::ANCHOR_TYPE)),
            |object| Some((version(&object.metadata), Box::new(Anchor::read(&object.metadata)?))),
            Change::Anchor,
        ));
    }
}

/// Objects of any shape: a bad one must not stop the watch.
fn api<K>(scope: &Scope) -> impl FnOnce(Client) -> Api<Object<K>> + use<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    let scope = scope.clone();
    move |client| match scope {
        Some(namespace) => Api::namespaced(client, &namespace),
        None => Api::all(client),
    }
}

/// A client that tells which watch the API server has answered, by its [`place`], and asks for the [`newest`] list. kube-runtime's
/// watcher tells of no success before the first object, which may be hours away.
#[derive(Clone)]
pub struct WatchClient {
    client: Client,
    opened: broadcast::Sender<String>,
}

impl WatchClient {
    /// A client over this one.
    pub fn new(client: Client) -> Self {
        let (namespace, opened) = (client.default_namespace().to_owned(), broadcast::Sender::new(OPENED));
        let tell = opened.clone();
        let service = tower::service_fn(move |mut request: http::Request<Body>| {
            let (client, tell) = (client.clone(), tell.clone());
            let place = place(request.uri());
            if let Some(newest) = newest(request.uri()) {
                *request.uri_mut() = newest;
            }
            async move {
                let response = client.send(request).await?;
                if let Some(place) = place.filter(|_| response.status().is_success()) {
                    // Nobody listens while all watches work.
                    let _ = tell.send(place);
                }
                Ok::<_, kube::Error>(response)
            }
        });
        Self { client: Client::new(service, namespace), opened }
    }
}

/// Asks for a list in a watch, <https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists>.
const STREAMING: &str = "sendInitialEvents=true";

/// The request for a streaming list that is as new as the request. kube-runtime asks for one of any age (`resourceVersion=0`), with
/// which a new leader could miss the last writes of the one before.
fn newest(uri: &http::Uri) -> Option<http::Uri> {
    let query = uri.query().filter(|query| query.contains(STREAMING))?;
    format!("{}?{}", uri.path(), query.replace("&resourceVersion=0", "")).parse().ok()
}

/// Path and selectors of a watch that brings no list.
fn place(uri: &http::Uri) -> Option<String> {
    let query = uri.query().filter(|query| query.contains("watch=true") && !query.contains(STREAMING))?;
    let selectors = query.split('&').filter(|pair| pair.contains("Selector="));
    Some([uri.path()].into_iter().chain(selectors).collect())
}

/// One watch.
pub struct Watch<C: Controller> {
    /// The kind of object, for messages.
    pub kind: &'static str,
    /// Number of the scope.
    pub number: u16,
    /// The scope.
    pub scope: Scope,
    /// The controller's task.
    pub inputs: mpsc::Sender<Input<C>>,
    /// Shows the health of the watch, unless its kind may be absent.
    pub metrics: Option<Arc<Metrics>>,
    /// Pause after the answer that there is no such kind, or not for us; `None`: as after any other error.
    pub absent_pause: Option<Duration>,
    /// It watches only while this is true; `None`: always.
    pub needed: Option<watch::Receiver<bool>>,
}

/// How a watch gets its list.
#[derive(Default)]
struct Listing {
    /// The API server streams no lists: Kubernetes 1.30, 1.31 and 1.33, unless they are told to.
    refused: bool,
    under_way: bool,
    /// An error tells why the list under way ends.
    failed: bool,
    /// Streamed lists in a row that ended before all of them had come.
    broken: u32,
}

impl Listing {
    fn streams(&self) -> bool {
        !self.refused && self.broken < BROKEN_LISTS
    }

    fn config(&self, config: Config) -> Config {
        match (self.streams(), self.refused) {
            (true, _) => config.streaming_lists(),
            (false, true) => config,
            (false, false) => config.page_size(SMALL_PAGE),
        }
    }

    /// Takes a step in; whether another list begins with it, or has to.
    fn follow<K>(&mut self, step: &watcher::Result<Event<K>>) -> bool {
        match step {
            Ok(Event::Init) => {
                self.broken += u32::from(self.under_way);
                self.under_way = true;
                true
            }
            Ok(Event::InitDone) => {
                (self.under_way, self.failed, self.broken) = (false, false, 0);
                false
            }
            Ok(_) => false,
            Err(error) => {
                self.failed = true;
                let refused = !self.refused && api_error(error).is_some_and(|status| status.code == Some(422));
                self.refused |= refused;
                refused
            }
        }
    }

    /// The error of a list that broke off without one.
    fn broke_off(&mut self) -> Option<watcher::Error> {
        let untold = !std::mem::take(&mut self.failed) && self.broken > 0 && self.streams();
        untold.then(|| watcher::Error::WatchFailed(kube::Error::ReadEvents(ErrorKind::UnexpectedEof.into())))
    }
}

/// A watch after an error.
struct Failing {
    /// Errors in a row.
    errors: u32,
    place: Option<String>,
    opened: broadcast::Receiver<String>,
    /// Since when it is open again.
    since: Option<Instant>,
}

impl Failing {
    fn new<K: Resource + Clone + Debug + DeserializeOwned>(
        errors: u32,
        api: &Api<K>,
        config: &Config,
        opened: &broadcast::Sender<String>,
    ) -> Self {
        let (label_selector, field_selector) = (config.label_selector.clone(), config.field_selector.clone());
        let params = WatchParams { label_selector, field_selector, ..WatchParams::default() };
        let request = kube::core::Request::new(api.resource_url()).watch(&params, "0");
        let place = request.ok().and_then(|request| place(request.uri()));
        Self { errors, place, opened: opened.subscribe(), since: None }
    }
}

/// Resolves when the watch has been open for a while. It may be dropped and asked anew.
async fn works_again(failing: &mut Option<Failing>) {
    let Some(failing) = failing else { return std::future::pending().await };
    while failing.since.is_none() {
        let opened = failing.opened.recv().await;
        // Where openings were missed, the next one tells.
        failing.since = opened.is_ok_and(|place| Some(place) == failing.place).then(Instant::now);
    }
    if let Some(since) = failing.since {
        tokio::time::sleep_until(since + STEADY).await;
    }
}

impl<C: Controller> Watch<C> {
    /// Follows while it is needed; ends only when the controller's task has ended.
    pub async fn follow<K, V>(
        self,
        client: WatchClient,
        api: impl FnOnce(Client) -> Api<K>,
        config: Config,
        read: impl Fn(K) -> Option<(u64, V)>,
        change: fn(WatchEvent<V>) -> C::Change,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let config = config.timeout(RENEW_SECONDS);
        let (api, opened) = (api(client.client), client.opened);
        let Some(mut needed) = self.needed.clone() else {
            return self.watch(&api, &opened, &config, &read, change).await;
        };
        while needed.wait_for(|needed| *needed).await.is_ok() {
            tokio::select! {
                () = self.watch(&api, &opened, &config, &read, change) => return,
                _ = async { needed.wait_for(|needed| !needed).await.is_ok() } => {}
            }
            self.tell_health(None).await;
            if !self.tell(Input::Change(self.number, change(WatchEvent::Stopped))).await {
                return;
            }
            if let Some(metrics) = &self.metrics {
                metrics.unwatched(self.kind);
            }
        }
    }

    /// Watches for ever; ends only when the controller's task has ended.
    async fn watch<K, V>(
        &self,
        api: &Api<K>,
        opened: &broadcast::Sender<String>,
        config: &Config,
        read: &impl Fn(K) -> Option<(u64, V)>,
        change: fn(WatchEvent<V>) -> C::Change,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (mut failing, mut listing) = (None, Listing::default());
        loop {
            let streams = listing.streams();
            let config = listing.config(config.clone());
            let mut stream = pin!(watcher::watcher(api.clone(), config.clone()));
            loop {
                let step = self.next_step(&mut stream, &mut failing).await;
                let lists = listing.follow(&step);
                if lists && listing.streams() != streams {
                    listing.under_way = false;
                    break;
                }
                // Init comes before the API server is asked for a list, and until InitDone much of the list may be missing.
                let works = matches!(step, Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)));
                if works && failing.take().is_some() {
                    self.tell_health(None).await;
                }
                let error = match step {
                    Err(error) => Some(error),
                    Ok(step) => {
                        if let Some(event) = watch_event(step, read)
                            && !self.tell(Input::Change(self.number, change(event))).await
                        {
                            return;
                        }
                        if lists { listing.broke_off() } else { None }
                    }
                };
                let Some(error) = error else { continue };
                let errors = failing.map_or(1, |failing: Failing| failing.errors + 1);
                failing = Some(Failing::new(errors, api, &config, opened));
                match self.pause_after(&error, errors, change).await {
                    None => return,
                    Some(anew) if anew && !lists => break,
                    Some(_) => {}
                }
            }
        }
    }

    /// The next step of a stream that never ends; tells meanwhile when it works again.
    async fn next_step<K>(
        &self,
        stream: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
        failing: &mut Option<Failing>,
    ) -> watcher::Result<Event<K>> {
        loop {
            tokio::select! {
                Some(step) = stream.next() => return step,
                // A watch goes on where it broke off: nothing was missed.
                () = works_again(failing), if failing.is_some() => {
                    *failing = None;
                    self.tell_health(None).await;
                }
            }
        }
    }

    /// Tells of an error, and waits for the next try; whether that begins anew with a list. `None` when nobody takes it in.
    async fn pause_after<V>(
        &self,
        error: &watcher::Error,
        errors: u32,
        change: fn(WatchEvent<V>) -> C::Change,
    ) -> Option<bool> {
        let absent = self.is_absent(error);
        // One error is no news: a list is too old to go on from, or the API server begins to serve.
        if absent || errors > 1 {
            self.tell_health(Some(self.failure(error))).await;
        }
        if absent && !self.tell(Input::Change(self.number, change(WatchEvent::Stopped))).await {
            return None;
        }
        tokio::time::sleep(self.pause(error, errors)).await;
        Some(absent || errors.is_multiple_of(ERRORS_BEFORE_LIST))
    }

    /// Whether anybody takes it in.
    async fn tell(&self, input: Input<C>) -> bool {
        if let Some(metrics) = &self.metrics {
            metrics.watched(self.kind);
        }
        self.inputs.send(input).await.is_ok()
    }

    async fn tell_health(&self, failure: Option<Failure>) {
        if let Some(metrics) = &self.metrics {
            metrics.watch_health(&self.scope, self.kind, failure.is_some());
        }
        // When nobody takes it in any more, the next step ends the watch.
        let _ = self.inputs.send(Input::Health(self.number, self.kind, failure)).await;
    }

    /// Whether a kind that may be absent is absent: what was known of its objects is known no more, as the end of the kind may
    /// not be seen.
    fn is_absent(&self, error: &watcher::Error) -> bool {
        let refused = || api_error(error).is_some_and(|status| matches!(status.code, Some(403 | 404)));
        self.absent_pause.is_some() && refused()
    }

    fn pause(&self, error: &watcher::Error, errors: u32) -> Duration {
        let asked = api_error(error).and_then(|status| status.details?.retry_after_seconds);
        let asked = Duration::from_secs(asked.and_then(|seconds| seconds.try_into().ok()).unwrap_or_default());
        let usual = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(errors.saturating_sub(1))).min(LONGEST_PAUSE);
        self.absent_pause.filter(|_| self.is_absent(error)).unwrap_or(usual).max(asked.min(LONGEST_ASKED))
    }

    fn failure(&self, error: &watcher::Error) -> Failure {
        let place = self.scope.as_deref().unwrap_or("all namespaces");
        let what = format!("watch {} in {place}", self.kind);
        let unanswered = || Failure::unanswered(&what, &with_causes(error));
        api_error(error).map_or_else(unanswered, |status| Failure::refused(&what, &status))
    }
}

fn watch_event<K: Resource, V>(step: Event<K>, read: &impl Fn(K) -> Option<(u64, V)>) -> Option<WatchEvent<V>> {
    let key = |object: &K| {
        Key::new(
            object.meta().namespace.as_deref().unwrap_or_default(),
            object.meta().name.as_deref().unwrap_or_default(),
        )
    };
    Some(match step {
        Event::Init => WatchEvent::Listing,
        Event::InitApply(object) => {
            let key = key(&object);
            let (version, value) = read(object)?;
            WatchEvent::Item(key, version, value)
        }
        Event::InitDone => WatchEvent::Listed,
        Event::Apply(object) => {
            let (key, at) = (key(&object), version(object.meta()));
            // An object that is not ours any more counts as deleted.
            read(object).map_or(WatchEvent::Deleted(key.clone(), at), |(version, value)| {
                WatchEvent::Applied(key, version, value)
            })
        }
        Event::Delete(object) => WatchEvent::Deleted(key(&object), version(object.meta())),
    })
}

/// The API server's own refusal inside a watcher's error.
fn api_error(error: &watcher::Error) -> Option<Status> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return None;
    };
    let asked =
        status.details.as_ref().map(|details| details.retry_after_seconds).and_then(|asked| asked.try_into().ok());
    let details = StatusDetails { retry_after_seconds: asked, ..StatusDetails::default() };
    Some(Status {
        code: Some(i32::from(status.code)),
        message: Some(status.message.clone()),
        details: Some(details),
        ..Status::default()
    })
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use futures::stream;
    use http::Response;
    use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
    use hyper::body::{Bytes, Frame};
    use serde_json::{Value, json};

    use super::*;

    type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

    /// This code and these lines, and then the end or nothing more.
    fn answer(code: u16, lines: &[Value], ends: bool) -> Answer {
        let lines: Vec<_> = lines.iter().map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n"))))).collect();
        let rest = if ends { stream::empty().left_stream() } else { stream::pending().right_stream() };
        let body = StreamBody::new(stream::iter(lines).chain(rest)).boxed_unsync();
        Response::builder().status(code).body(body).unwrap()
    }

    fn refused(code: u16) -> Answer {
        answer(code, &[json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"})], true)
    }

    fn account() -> Value {
        json!({"type": "ADDED", "object": {"metadata": {"name": "deployer", "namespace": "ci", "resourceVersion": "4"}}})
    }

    fn end_of_list() -> Value {
        let metadata = json!({"resourceVersion": "5", "annotations": {"k8s.io/initial-events-end": "true"}});
        json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}})
    }

    fn list() -> Answer {
        answer(200, &[json!({"metadata": {"resourceVersion": "5"}, "items": []})], true)
    }

    /// Watches accounts of an API server with these answers and then silence: what it tells, and what it has asked for.
    fn watch(answers: Vec<Answer>) -> (mpsc::Receiver<Input<Grants>>, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (asked.clone(), Mutex::new(answers.into_iter()));
        let server = tower::service_fn(move |request: http::Request<Body>| {
            seen.lock().unwrap().push(request.uri().query().unwrap_or_default().to_owned());
            let answer = answers.lock().unwrap().next().unwrap_or_else(|| answer(200, &[], false));
            async move { Ok::<_, Infallible>(answer) }
        });
        let (inputs, told) = mpsc::channel(8);
        let watch: Watch<Grants> =
            Watch { kind: KINDS[1], number: 0, scope: None, inputs, metrics: None, absent_pause: None, needed: None };
        let accounts = api::<PartialObjectMeta<ServiceAccount>>(&None);
        let read = |object: Object<_>| Some((version(&object.metadata), Account::read(&object.metadata)));
        let client = WatchClient::new(Client::new(server, "default"));
        tokio::spawn(async move { watch.follow(client, accounts, Config::default(), read, Change::Account).await });
        (told, asked)
    }

    /// Events of the watch up to the first whole list, and each change of its health.
    async fn until_listed(told: &mut mpsc::Receiver<Input<Grants>>) -> Vec<&'static str> {
        let mut events = Vec::new();
        while events.last() != Some(&"listed") {
            let input = tokio::time::timeout(Duration::from_mins(5), told.recv()).await.expect("a list comes");
            events.push(match input {
                Some(Input::Change(_, Change::Account(WatchEvent::Listing))) => "listing",
                Some(Input::Change(_, Change::Account(WatchEvent::Item(..)))) => "item",
                Some(Input::Change(_, Change::Account(WatchEvent::Listed))) => "listed",
                Some(Input::Health(.., failure)) => failure.map_or("healthy", |_| "failing"),
                _ => "other",
            });
        }
        events
    }

    /// How each list was asked for.
    fn lists(asked: &Mutex<Vec<String>>) -> Vec<&'static str> {
        let list = |query: &String| match (query.contains(STREAMING), query.contains("watch=true")) {
            (true, _) => Some("stream"),
            (false, true) => None,
            (false, false) => Some("pages"),
        };
        asked.lock().unwrap().iter().filter_map(list).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_streamed_and_as_new_as_the_request() {
        let (mut told, asked) = watch(vec![answer(200, &[account(), end_of_list()], false)]);
        assert_eq!(until_listed(&mut told).await, ["listing", "item", "listed"]);
        assert_eq!(lists(&asked), ["stream"]);
        let query = asked.lock().unwrap()[0].clone();
        assert!(query.contains("resourceVersionMatch=NotOlderThan") && !query.contains("resourceVersion="), "{query}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_streams_no_lists_is_asked_for_pages() {
        let (mut told, asked) = watch(vec![refused(422), list()]);
        assert_eq!(until_listed(&mut told).await, ["listing", "listed"], "that is no failure");
        assert_eq!(lists(&asked), ["stream", "pages"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_streamed_list_that_breaks_off_is_streamed_again_from_its_beginning() {
        let cut = || answer(200, &[account()], true);
        let (mut told, asked) = watch(vec![cut(), cut(), answer(200, &[account(), end_of_list()], false)]);
        let heard = ["listing", "item", "listing", "item", "listing", "failing", "item", "healthy", "listed"];
        assert_eq!(until_listed(&mut told).await, heard, "one that breaks off is no news");
        assert_eq!(lists(&asked), ["stream"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_no_list_is_asked_for_small_pages_until_one_is_whole() {
        let cut = || answer(200, &[account()], true);
        let gone =
            json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "message": "old"}});
        let answers =
            vec![cut(), cut(), cut(), cut(), list(), answer(200, &[gone], true), answer(200, &[end_of_list()], false)];
        let (mut told, asked) = watch(answers);
        until_listed(&mut told).await;
        assert_eq!(
            until_listed(&mut told).await,
            ["listing", "healthy", "listed"],
            "a list that is too old is no failure"
        );
        assert_eq!(lists(&asked), ["stream", "stream", "stream", "stream", "pages", "stream"]);
        assert!(asked.lock().unwrap()[4].contains("limit=50"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_asked_for_a_stream_again() {
        let (mut told, asked) = watch(vec![refused(503), refused(503), answer(200, &[end_of_list()], false)]);
        assert_eq!(until_listed(&mut told).await, ["failing", "listing", "healthy", "listed"], "one error is no news");
        assert_eq!(lists(&asked), ["stream"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_works_again_before_it_has_anything_to_tell() {
        let (mut told, asked) = watch(vec![refused(422), list(), refused(500), refused(500)]);
        until_listed(&mut told).await;
        let mut health = Vec::new();
        while health.len() < 2 {
            let input = tokio::time::timeout(Duration::from_mins(5), told.recv()).await.expect("the watch works again");
            if let Some(Input::Health(.., failure)) = input {
                health.push(failure.is_none());
            }
        }
        assert_eq!(health, [false, true]);
        assert_eq!(lists(&asked), ["stream", "pages"], "it goes on where it broke off");
    }
}
