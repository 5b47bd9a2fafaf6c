//! A pass of the signer: read the ConfigMap, read every token, write the signatures that differ.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::{Bootstrap, BootstrapCall, Count, page};
use crate::core::{
    Time,
    bootstrap::{
        NAMESPACE, SECRET_TYPE,
        cluster_info::{self, Pass, Plan, SigningToken, Turn},
        event::{BootstrapEvent, BootstrapNews},
    },
    failure::Failure,
    id::{Key, Uid},
    kernel::controller::Outcome,
    request::{self, Answer, Request, Verb},
};

/// Tokens per page: a Secret is far smaller than a hundredth of what an answer may hold.
const PAGE: usize = 500;
/// Name of its failures.
const SIGNER: &str = "signer";

/// A pass under way. The secrets of tokens are held for the length of a pass.
#[derive(Debug)]
pub(super) struct Signing {
    /// Whether it may write.
    writes: bool,
    step: SignStep,
}

#[derive(Debug)]
enum SignStep {
    ConfigMap,
    Tokens { config_map: Box<ConfigMap>, tokens: Vec<SigningToken> },
    Write(Plan),
}

impl Bootstrap {
    /// Begins a pass if one is due.
    pub(super) fn begin_pass(&mut self, now: Time) {
        if let Some(writes) = self.signer.as_mut().and_then(|signer| signer.take(now)) {
            let request = Request::read(format!("get ConfigMap {}", config_map_key()), config_map_path());
            self.begin_step(Signing { writes, step: SignStep::ConfigMap }, request);
        }
    }

    fn begin_step(&mut self, signing: Signing, request: Request) {
        let ticket = self.calls.insert(BootstrapCall::Sign(signing));
        self.signing = Some((ticket, request));
    }

    pub(super) fn sign_answered(&mut self, signing: Signing, answer: Answer, now: Time) -> Outcome {
        let Signing { writes, step } = signing;
        let pass = match answer {
            Ok(body) => match step {
                SignStep::ConfigMap => self.read_config_map(writes, &body),
                SignStep::Tokens { config_map, tokens } => self.read_tokens(writes, config_map, tokens, &body, now),
                SignStep::Write(plan) => Ok(Some(Pass::Written(plan))),
            },
            Err(refusal) if refusal.code == Some(409) => Ok(Some(Pass::Conflict)),
            Err(refusal) if refusal.code == Some(404) => Ok(Some(Pass::Unchanged(Plan::default()))),
            Err(refusal) => Err(refusal.failure),
        };
        match pass {
            Ok(None) => Outcome::default(),
            Ok(Some(pass)) => self.signed(pass, now),
            Err(failure) => self.signed(Pass::Failed(failure), now),
        }
    }

    fn read_config_map(&mut self, writes: bool, body: &secrecy::SecretString) -> Result<Option<Pass>, Failure> {
        let config_map = Box::new(request::parse(&format!("get ConfigMap {}", config_map_key()), body)?);
        let step = SignStep::Tokens { config_map, tokens: Vec::new() };
        self.begin_step(Signing { writes, step }, tokens_request(""));
        Ok(None)
    }

    fn read_tokens(
        &mut self,
        writes: bool,
        config_map: Box<ConfigMap>,
        mut tokens: Vec<SigningToken>,
        body: &secrecy::SecretString,
        now: Time,
    ) -> Result<Option<Pass>, Failure> {
        let (items, more) = page(&tokens_request("").what, body)?;
        tokens.extend(items);
        if !more.is_empty() {
            let step = SignStep::Tokens { config_map, tokens };
            self.begin_step(Signing { writes, step }, tokens_request(&more));
            return Ok(None);
        }
        let plan = cluster_info::plan(now, &config_map, &tokens);
        if plan.changes.is_empty() {
            return Ok(Some(Pass::Unchanged(plan)));
        }
        if !writes {
            return Ok(Some(Pass::Contested(plan)));
        }
        let version = config_map.metadata.resource_version;
        let body = json!({"metadata": {"resourceVersion": version}, "data": plan.changes});
        let what = format!("patch the signatures of ConfigMap {}", config_map_key());
        let request = Request::write(Verb::MergePatch, &config_map_path(), body.to_string().into(), what);
        self.begin_step(Signing { writes, step: SignStep::Write(plan) }, request);
        Ok(None)
    }

    /// Takes in how a pass ended.
    fn signed(&mut self, pass: Pass, now: Time) -> Outcome {
        self.counts.push(Count::Signing(pass.as_str()));
        let turn = self.signer.as_mut().and_then(|signer| signer.finish(&pass, now)).map(|turn| match turn {
            Turn::Began(managers) => BootstrapNews::Contested(managers),
            Turn::Ended => BootstrapNews::Uncontested,
        });
        let failing = match pass {
            Pass::Failed(failure) => Some(failure),
            _ => None,
        };
        let news = failing.clone().filter(|failure| self.policies.is_new(SIGNER, failure)).map(BootstrapNews::Failing);
        let object = config_map_key();
        let event = |what| BootstrapEvent { object: object.clone(), uid: Uid::default(), what };
        self.events.extend(turn.into_iter().chain(news).map(event));
        self.policies.note(SIGNER, failing.clone(), now);
        Outcome { failure: failing, ..Outcome::default() }
    }
}

fn config_map_key() -> Key {
    Key::new(cluster_info::NAMESPACE, cluster_info::NAME)
}

fn config_map_path() -> String {
    format!("/api/v1/namespaces/{}/configmaps/{}", cluster_info::NAMESPACE, cluster_info::NAME)
}

/// A page of all bootstrap tokens.
fn tokens_request(more: &str) -> Request {
    Request::read(
        format!("list bootstrap token Secrets in {NAMESPACE}"),
        format!(
            "/api/v1/namespaces/{NAMESPACE}/secrets?fieldSelector=type%3D{SECRET_TYPE}&limit={PAGE}&continue={more}"
        ),
    )
}
