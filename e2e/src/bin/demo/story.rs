//! The story, step by step. Each step ends the demo when what it says is not true.

use crate::screen::Screen;
use crate::seconds;
use crate::shell::{Shell, shown};
use crate::token::Token;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tokenward_e2e::{Cluster, eventually, poll::eventually_every};

/// The namespace of `config/samples`.
pub const NAMESPACE: &str = "ci";
const TARGET: &str = "deployers-deployer";
/// What the account's Role allows.
const ALLOWED: &str = "/apis/apps/v1/namespaces/ci/deployments";
/// What it does not.
const DENIED: &str = "/api/v1/namespaces/ci/secrets";
/// The API server remembers a successful authentication for 10 s.
const REVOKED_WITHIN: Duration = Duration::from_secs(11);

const TOKEN_REVIEW: &str = r#"kubectl get secret deployers-deployer -n ci -o go-template='{"apiVersion":"authentication.k8s.io/v1",
    "kind":"TokenReview","spec":{"token":"{{.data.token|base64decode}}"}}' |
    kubectl create -f - -o jsonpath='{.status.authenticated} {.status.user.username}'"#;

const PREVIOUS: &str = r"kubectl get secret deployers-deployer -n ci \
    -o jsonpath='{.metadata.annotations.tokenward\.dev/previous}'";

const ROTATED: &str = r"kubectl wait secret/deployers-deployer -n ci --timeout=30s \
    --for=jsonpath='{.metadata.annotations.tokenward\.dev/rotate}'=demo";

const EVENTS: &str = r"kubectl get events -n ci --field-selector involvedObject.name=deployers \
    --sort-by=.eventTime -o custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message";

const REVOKED: &str =
    "kubectl get events -n ci --field-selector reason=TokenRevoked -o custom-columns=REASON:.reason,MESSAGE:.message";

const REVOKE_ALL: &str = r"kubectl annotate tokenpolicy deployers -n ci tokenward.dev/revoke-reason=leaked-in-log \
    tokenward.dev/revoke-issued-before=$(date -u -d '+1 second' +%FT%TZ)";

const EXPIRED: &str = "kubectl create secret generic bootstrap-token-old111 -n kube-system --type=bootstrap.kubernetes.io/token \\
    --from-literal=token-id=old111 --from-literal=token-secret=0123456789abcdef --from-literal=expiration=2026-01-01T00:00:00Z";

const IMMORTAL: &str = "kubectl create secret generic bootstrap-token-never1 -n kube-system --type=bootstrap.kubernetes.io/token \\
    --from-literal=token-id=never1 --from-literal=token-secret=0123456789abcdef";

const CLEANED: &str = "kubectl get events -n kube-system --field-selector reason=BootstrapTokenDeleted \\
    -o custom-columns=REASON:.reason,MESSAGE:.message";

const FINDINGS: &str =
    r#"kubectl get btpol hygiene -o jsonpath='{range .status.findings[*]}{.secret}: {.reason}, {.message}{"\n"}{end}'"#;

/// What there is before the story begins.
pub async fn control_plane(screen: &Screen, shell: &Shell, cluster: &Cluster) -> Result<()> {
    screen.step("A real control plane: etcd, kube-apiserver and kube-controller-manager");
    screen.command(&format!("export KUBECONFIG={}", shown(&cluster.kubeconfig())));
    shell.run("kubectl version | grep Server").await?;
    Ok(())
}

/// The manifests, as anybody applies them.
pub async fn install(screen: &Screen, shell: &Shell, apply: &str) -> Result<()> {
    screen.step("Install CRD, RBAC and operator");
    shell.run_shortened(apply, 3).await?;
    shell.run("kubectl wait crd/tokenpolicies.tokenward.dev --for=condition=Established --timeout=30s").await?;
    Ok(())
}

/// The life of tokens in the namespace of the samples, with an operator that runs.
pub async fn tell(screen: &Screen, shell: &Shell, cluster: &Cluster) -> Result<()> {
    let story = Story { screen, shell, details: &shell.details(), cluster };
    story.policy().await?;
    let first = story.use_it().await?;
    let second = story.rotate(&first).await?;
    story.revoke(&first, &second).await?;
    if screen.is_brief() {
        return Ok(());
    }
    let third = story.account_again().await?;
    story.revoke_all(&third).await?;
    story.events(&first).await
}

/// Bootstrap tokens, which belong to the whole cluster.
pub async fn bootstrap_tokens(screen: &Screen, shell: &Shell, cluster: &Cluster) -> Result<()> {
    Story { screen, shell, details: shell, cluster }.bootstrap_tokens().await
}

struct Story<'a> {
    screen: &'a Screen,
    shell: &'a Shell,
    /// Shown in the whole story only.
    details: &'a Shell,
    cluster: &'a Cluster,
}

impl Story<'_> {
    async fn policy(&self) -> Result<()> {
        self.screen.step("Ask for tokens: three sample policies");
        self.shell.run_shortened("kubectl apply -k config/samples", 2).await?;
        self.details.run("kubectl wait tokenpolicies --all -n ci --for=condition=Ready --timeout=30s").await?;
        let table = self.shell.run("kubectl get tokenpolicies -n ci -o wide").await?;
        let row = table.lines().find(|line| line.starts_with("deployers ")).context("deployers is not listed")?;
        for column in ["NAME", "READY", "ACCOUNTS", "EXPIRES", "NEXT-ROTATION", "AGE", "GRANTED", "REASON"] {
            ensure!(table.contains(column), "there is no column {column}");
        }
        ensure!(row.contains("True") && row.contains("1/1"), "deployers is not ready");
        self.screen.check("every selected account has a valid token in a Secret");
        Ok(())
    }

    async fn use_it(&self) -> Result<Token> {
        self.screen.step("Use the token: it can do what the account's Role allows, and nothing else");
        let token = self.token_as("first", self.shell).await?;
        self.allowed("first", &token).await?;
        self.shell.refused("kubectl --user first get secrets -n ci", "Forbidden").await?;
        self.answers(&token, DENIED, 403).await?;
        let review = self.details.run(TOKEN_REVIEW).await?;
        ensure!(review == "true system:serviceaccount:ci:deployer", "the TokenReview says {review}");
        self.screen.check("200 on deployments, 403 on secrets, and the TokenReview names the account");
        Ok(token)
    }

    async fn rotate(&self, first: &Token) -> Result<Token> {
        self.screen.step("Rotate it now");
        self.shell.run("kubectl annotate tokenpolicy deployers -n ci tokenward.dev/rotate=demo").await?;
        self.details.run(ROTATED).await?;
        let second = self.token_as("second", self.details).await?;
        ensure!(second.id != first.id, "the Secret still holds the first token");
        self.allowed("second", &second).await?;
        self.allowed("first", first).await?;
        self.screen.check("the new token works, and during the overlap the old one still does");
        Ok(second)
    }

    async fn revoke(&self, first: &Token, second: &Token) -> Result<()> {
        self.screen.step("Revoke the old token alone: delete the anchor that it is bound to");
        let anchor = first.note("anchor")?;
        let previous = self.details.run(PREVIOUS).await?;
        ensure!(previous.contains(&anchor), "the old anchor {anchor} is not listed");
        self.answers(first, ALLOWED, 200).await?;
        self.shell.run(&format!("kubectl delete secret {anchor} -n ci")).await?;
        let start = Instant::now();
        self.screen.wait("the API server remembers a successful authentication for up to 10 s");
        let dead = async || self.answers(first, ALLOWED, 401).await;
        eventually_every(Duration::from_millis(100), REVOKED_WITHIN, "the old token is refused", dead).await?;
        let took = start.elapsed();
        self.shell.refused("kubectl --user first get deployments -n ci", "Unauthorized").await?;
        self.allowed("second", second).await?;
        let event = async || {
            ensure!(
                self.cluster.kubectl_ok(["get", "events", "-n", "ci"]).await?.contains("TokenRevoked"),
                "no event yet"
            );
            Ok(())
        };
        eventually(Duration::from_secs(10), "the event", event).await?;
        let event = self.shell.run(REVOKED).await?;
        ensure!(event.contains(&first.id), "no event names the revoked token {}", first.id);
        self.screen.check(&format!("the old token is dead after {}, the new one is not", seconds(took)));
        Ok(())
    }

    async fn account_again(&self) -> Result<Token> {
        self.screen.step("Delete the account, and create it again");
        self.shell.run("kubectl delete serviceaccount deployer -n ci").await?;
        self.shell.run("kubectl wait tokenpolicy/deployers -n ci --for=condition=Ready=False --timeout=30s").await?;
        let table = self.shell.run("kubectl get tokenpolicy deployers -n ci -o wide").await?;
        ensure!(table.contains("AccountNotFound"), "the reason is not AccountNotFound");
        let start = Instant::now();
        self.shell.run("kubectl create serviceaccount deployer -n ci").await?;
        let works = async || self.answers(&self.token().await?, ALLOWED, 200).await;
        eventually(Duration::from_secs(10), "a token of the new account works", works).await?;
        let took = start.elapsed();
        self.shell.run("kubectl wait tokenpolicy/deployers -n ci --for=condition=Ready --timeout=30s").await?;
        let third = self.token_as("third", self.shell).await?;
        self.allowed("third", &third).await?;
        self.screen.check(&format!("the new account had a working token after {}", seconds(took)));
        Ok(third)
    }

    async fn revoke_all(&self, third: &Token) -> Result<()> {
        self.screen.step("Revoke everything that the policy has issued so far, with a reason");
        self.shell.run(REVOKE_ALL).await?;
        let start = Instant::now();
        self.screen.wait("again, a token in use is remembered for up to 10 s");
        let dead = async || self.answers(third, ALLOWED, 401).await;
        eventually_every(Duration::from_millis(100), 2 * REVOKED_WITHIN, "the third token is refused", dead).await?;
        let took = start.elapsed();
        let works = async || self.answers(&self.token().await?, ALLOWED, 200).await;
        eventually(Duration::from_secs(10), "its replacement works", works).await?;
        let events = self.shell.run(EVENTS).await?;
        let reported = events.lines().any(|line| line.contains("leaked-in-log") && line.contains(&third.id));
        ensure!(reported, "no event says that {} was revoked as leaked-in-log", third.id);
        self.screen.check(&format!("dead after {}, replaced, and the event has the reason", seconds(took)));
        Ok(())
    }

    async fn events(&self, revoked: &Token) -> Result<()> {
        self.screen.step("What happened");
        let events = self.shell.run(EVENTS).await?;
        for reason in ["TokenIssued", "TokenRotated", "TokenRevoked", "AccountNotFound", "TokenReissued"] {
            ensure!(events.contains(reason), "there is no event {reason}");
        }
        let named = events.lines().any(|line| line.contains("TokenRevoked") && line.contains(&revoked.id));
        ensure!(named, "no event names the revoked token {}", revoked.id);
        self.screen
            .check("first issue, rotation, revocation, failure and recovery, each with the token's id or the cure");
        Ok(())
    }

    async fn bootstrap_tokens(&self) -> Result<()> {
        self.screen.step("Bootstrap tokens: an expired one goes, one that never expires is reported");
        self.shell.run(IMMORTAL).await?;
        self.shell.run(EXPIRED).await?;
        self.shell.run("kubectl wait secret/bootstrap-token-old111 -n kube-system --for=delete --timeout=30s").await?;
        let reported = async || {
            let events = self.cluster.kubectl_ok(["get", "events", "-n", "kube-system"]).await?;
            ensure!(events.contains("bootstrap-token-old111"), "no event yet");
            Ok(())
        };
        eventually(Duration::from_secs(10), "the event", reported).await?;
        let events = self.shell.run(CLEANED).await?;
        ensure!(events.contains("bootstrap-token-old111 deleted: expired at 2026-01-01T00:00:00Z"), "{events}");
        self.shell.run_shortened("kubectl apply -k config/samples/overlay", 3).await?;
        let established =
            "kubectl wait crd/bootstraptokenpolicies.tokenward.dev --for=condition=Established --timeout=30s";
        self.shell.run(established).await?;
        self.shell.run("kubectl apply -f config/samples/bootstrap.yaml").await?;
        self.shell.run("kubectl wait btpol/hygiene --for=condition=Ready --timeout=90s").await?;
        let table = self.shell.run("kubectl get bootstraptokenpolicies").await?;
        ensure!(table.contains("Report") && table.contains("True"), "the policy does not report");
        let findings = self.shell.run(FINDINGS).await?;
        ensure!(findings.contains("bootstrap-token-never1: NeverExpires"), "{findings}");
        self.screen.check("the expired token is gone, and the one that never expires is reported");
        Ok(())
    }

    async fn token(&self) -> Result<Token> {
        Token::read(self.cluster, NAMESPACE, TARGET).await
    }

    /// Gives kubectl the token in the Secret, as a user of this name.
    async fn token_as(&self, user: &str, shell: &Shell) -> Result<Token> {
        let command = format!(
            "kubectl config set-credentials {user} --token=\"$(\n    kubectl get secret {TARGET} -n {NAMESPACE} -o go-template='{{{{.data.token|base64decode}}}}')\""
        );
        shell.run(&command).await?;
        let token = self.token().await?;
        shell.screen().check(&format!("token {}, expires {}", token.id, token.expires));
        Ok(token)
    }

    async fn allowed(&self, user: &str, token: &Token) -> Result<()> {
        self.shell.run(&format!("kubectl --user {user} get deployments -n ci")).await?;
        self.answers(token, ALLOWED, 200).await
    }

    async fn answers(&self, token: &Token, path: &str, wanted: u16) -> Result<()> {
        let status = token.get(path).await?;
        ensure!(status == wanted, "GET {path} with token {}: {status}, not {wanted}", token.id);
        Ok(())
    }
}
