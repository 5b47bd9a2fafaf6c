//! `config/admission` for people: who may ask for tokens and how far, and whom it leaves alone.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, DeleteParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};
use tokenward_e2e::scene::caller::Wanted::{Accepted, Refused};
use tokenward_e2e::scene::caller::{Caller, Wanted, grant, in_force, policy, policy_path, secret_path, token_path};
use tokenward_e2e::scene::limits::limit;
use tokenward_e2e::scene::{SOON, plane, policies, spec};
use tokenward_e2e::{ControlPlane, eventually};
use tokio::sync::OnceCell;

const OPERATOR: &str = "system:serviceaccount:tokenward-system:tokenward";

/// The shared control plane with a namespace for this test, and the policies in force.
async fn namespace(name: &str) -> Result<&'static ControlPlane> {
    static IN_FORCE: OnceCell<()> = OnceCell::const_new();
    let plane = plane().await?;
    IN_FORCE.get_or_try_init(async || in_force(plane, OPERATOR).await).await?;
    plane.create_namespace(name).await?;
    Ok(plane)
}

fn writes_policies() -> Value {
    let verbs = ["get", "create", "update", "patch", "delete"];
    json!({"apiGroups": ["tokenward.dev"], "resources": ["tokenpolicies"], "verbs": verbs})
}

fn creates_secrets() -> Value {
    json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]})
}

/// The right to create tokens of these accounts; of none means of all.
fn creates_tokens(accounts: &[&str]) -> Value {
    json!({
        "apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": accounts,
    })
}

fn selector() -> Value {
    json!({"serviceAccounts": {"selector": {}}})
}

/// What an author may do besides writing policies, what the author asks for, and what comes of it.
struct Author<'a> {
    user: &'a str,
    rights: Vec<Value>,
    asks: Value,
    wanted: Wanted<'a>,
}

fn author<'a>(user: &'a str, rights: Vec<Value>, asks: Value, wanted: Wanted<'a>) -> Author<'a> {
    Author { user, rights, asks, wanted }
}

fn authors<'a>(sixteen: &'a [&'a str]) -> Vec<Author<'a>> {
    let (a, ab) = (spec(&["a"], json!({})), spec(&["a", "b"], json!({})));
    let (s, every) = (creates_secrets, || creates_tokens(&[]));
    let of = creates_tokens;
    let many = || spec(sixteen, json!({"secret": {"name": "{policy}-{serviceAccount}"}}));
    let for_a = Refused("to create serviceaccounts/token in namespace authors for the account a;");
    let for_b = Refused("to create serviceaccounts/token in namespace authors for the account b;");
    let secrets = Refused("lacks the right to create secrets in namespace authors");
    vec![
        author("no-right", vec![], a.clone(), secrets),
        author("only-secrets", vec![s()], a.clone(), for_a),
        author("only-tokens", vec![of(&["a"])], a.clone(), secrets),
        author("only-all-tokens", vec![every()], a.clone(), secrets),
        author("of-another", vec![s(), of(&["b"])], a.clone(), for_a),
        author("of-this", vec![s(), of(&["a"])], a.clone(), Accepted),
        author("of-one-of-two", vec![s(), of(&["a"])], ab.clone(), for_b),
        author("of-both", vec![s(), of(&["a", "b"])], ab.clone(), Accepted),
        author("of-all", vec![s(), every()], ab, Accepted),
        author("selects", vec![s(), of(&["a", "b"])], selector(), Refused("for every account")),
        author("selects-with-all", vec![s(), every()], selector(), Accepted),
        author("sixteen", vec![s(), of(sixteen)], many(), Accepted),
        author("fifteen-of-16", vec![s(), of(&sixteen[..15])], many(), Refused("for the account n15;")),
        author("last-of-16", vec![s(), of(&sixteen[1..])], many(), Refused("for the account n0;")),
        author("sixteen-with-all", vec![s(), every()], many(), Accepted),
        author("suspended", vec![s()], spec(&["a"], json!({"suspend": true})), for_a),
    ]
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("n{n}")).collect()
}

#[tokio::test]
async fn authors_need_the_rights_they_have_used_for_them() -> Result<()> {
    let plane = namespace("authors").await?;
    let sixteen = names(16);
    let sixteen: Vec<&str> = sixteen.iter().map(String::as_str).collect();
    let path = format!("{}?dryRun=All", policy_path("authors", ""));
    for author in authors(&sixteen) {
        let mut rules = author.rights.clone();
        rules.push(writes_policies());
        grant(plane, "authors", author.user, &json!(rules)).await?;
        let caller = Caller::user(plane, author.user).await?;
        let asked = caller.gets("POST", &path, &policy("p", &author.asks), author.wanted).await;
        asked.context(author.user.to_owned())?;
        if let Refused(_) = author.wanted {
            let who = Refused("whoever grants roles there can give it (verb create, resource ");
            caller.gets("POST", &path, &policy("p", &author.asks), who).await?;
            caller.gets("POST", &path, &policy("p", &author.asks), Refused(author.user)).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_seventeenth_account_is_never_accepted() -> Result<()> {
    let plane = namespace("seventeen").await?;
    let names = names(17);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let asked = policies(&plane.client().await?, "seventeen");
    let error =
        tokenward_e2e::scene::apply_policy(&asked, "p", &spec(&names, json!({}))).await.err().context("accepted")?;
    ensure!(format!("{error:#}").contains("16"), "{error:#}");
    Ok(())
}

/// A policy of an administrator, and `keeper` who may write policies and nothing else.
async fn kept(plane: &ControlPlane, namespace: &str, name: &str) -> Result<Caller> {
    grant(plane, namespace, "keeper", &json!([writes_policies()])).await?;
    let spec = spec(&["a"], json!({"suspend": true}));
    tokenward_e2e::scene::apply_policy(&policies(&plane.client().await?, namespace), name, &spec).await?;
    Caller::user(plane, "keeper").await
}

#[tokio::test]
async fn without_the_rights_one_can_still_stop_a_policy_and_not_widen_it() -> Result<()> {
    let plane = namespace("keepers").await?;
    let keeper = kept(plane, "keepers", "p").await?;
    limit(&plane.client().await?, "keepers", "audiences", Some("*")).await?;
    let path = policy_path("keepers", "p");
    let refused = Refused("keeper lacks the right to create secrets");
    let cases = [
        (json!({"spec": {"suspend": false}}), Accepted),
        (json!({"spec": {"suspend": true}}), Accepted),
        (json!({"metadata": {"annotations": {"tokenward.dev/rotate": "1"}}}), Accepted),
        (
            json!({"metadata": {"annotations": {"tokenward.dev/revoke-issued-before": "2026-01-01T00:00:00Z"}}}),
            Accepted,
        ),
        (json!({"metadata": {"labels": {"team": "a"}}}), Accepted),
        (json!({"spec": {"deletionPolicy": "Retain"}}), Accepted),
        (json!({"spec": {"rotation": {"renewBeforePercentage": 30}}}), Accepted),
        (json!({"spec": {"token": {"duration": "24h"}}}), Accepted),
        (json!({"spec": {"serviceAccounts": {"names": ["b"]}}}), refused),
        (json!({"spec": {"serviceAccounts": {"names": ["a", "b"]}}}), refused),
        (json!({"spec": {"serviceAccounts": {"names": null, "selector": {}}}}), refused),
        (json!({"spec": {"token": {"duration": "23h"}}}), refused),
        (json!({"spec": {"token": {"audiences": ["https://kubernetes.default.svc"]}}}), refused),
        (json!({"spec": {"token": {"binding": "Target"}}}), refused),
        (json!({"spec": {"secret": {"name": "b"}}}), refused),
        (json!({"spec": {"secret": {"labels": {"a": "b"}}}}), refused),
        (json!({"spec": {"secret": {"format": {"type": "Kubeconfig"}}}}), refused),
        (json!({"spec": {"suspend": false, "secret": {"name": "b"}}}), refused),
    ];
    for (patch, wanted) in cases {
        keeper.gets("MERGE", &path, &patch, wanted).await?;
    }
    let same = keeper.send("GET", &path, &Value::Null).await?.body;
    Accepted.check(&keeper.send("PUT", &path, &same).await?).context("the same once more")?;
    Accepted.check(&keeper.send("DELETE", &path, &Value::Null).await?)
}

#[tokio::test]
async fn an_author_may_not_edit_what_another_has_created() -> Result<()> {
    let plane = namespace("two-authors").await?;
    let rules = |account| json!([writes_policies(), creates_secrets(), creates_tokens(&[account])]);
    grant(plane, "two-authors", "first", &rules("a")).await?;
    grant(plane, "two-authors", "second", &rules("b")).await?;
    let (first, second) = (Caller::user(plane, "first").await?, Caller::user(plane, "second").await?);
    let path = policy_path("two-authors", "p");
    let apply = format!("{path}?fieldManager=e2e&force=true");
    first.gets("APPLY", &apply, &policy("p", &spec(&["a"], json!({}))), Accepted).await?;
    let edit = policy("p", &spec(&["a"], json!({"token": {"duration": "1h"}})));
    second.gets("APPLY", &apply, &edit, Refused("for the account a;")).await?;
    second.gets("MERGE", &path, &json!({"spec": {"suspend": true}}), Accepted).await?;
    second.gets("MERGE", &path, &json!({"spec": {"serviceAccounts": {"names": ["b"]}}}), Accepted).await
}

/// Annotations of the namespace, a spec for account `default`, and what comes of it.
type Limited<'a> = (&'a [(&'a str, &'a str)], Value, Wanted<'a>);

fn limited() -> Vec<Limited<'static>> {
    let token = |token: Value| json!({"token": token});
    let lasts = |duration: &str| token(json!({ "duration": duration }));
    vec![
        (&[], json!({}), Accepted),
        (&[], lasts("168h"), Accepted),
        (
            &[],
            lasts("169h"),
            Refused(
                "169h is over the limit 168h (ConfigMap tokenward-system/tokenward-limits, key maxDuration); an administrator",
            ),
        ),
        (&[("max-duration", "1h")], lasts("1h"), Accepted),
        (
            &[("max-duration", "1h")],
            lasts("61m"),
            Refused(
                "61m is over the limit 1h (Namespace limited, annotation tokenward.dev/max-duration); an administrator",
            ),
        ),
        (&[("max-duration", "1h")], json!({}), Refused("token.duration 24h is over the limit 1h")),
        (&[("max-duration", "2000h")], lasts("2000h"), Accepted),
        (
            &[("max-duration", "3d")],
            lasts("1h"),
            Refused("the limit 3d is no duration in hours and minutes, like 24h or 1h30m (Namespace limited"),
        ),
    ]
}

/// The same for audiences, bindings and reserved namespaces.
fn limited_tokens() -> Vec<Limited<'static>> {
    let token = |token: Value| json!({"token": token});
    let none = || token(json!({"binding": "None"}));
    let speaks = |audiences: &[&str]| token(json!({ "audiences": audiences }));
    vec![
        (&[], speaks(&["k3s"]), Refused("annotation tokenward.dev/audiences; or name none for the API server")),
        (
            &[],
            speaks(&["vault"]),
            Refused(
                "token.audiences vault is not among those allowed (ConfigMap tokenward-system/tokenward-limits, key audiences)",
            ),
        ),
        (&[("audiences", "vault, sts.*")], speaks(&["vault", "sts.example.com"]), Accepted),
        (&[("audiences", "vault, sts.*")], speaks(&["vault", "st"]), Refused("token.audiences st is not among")),
        (&[("audiences", "*")], speaks(&["anything"]), Accepted),
        (
            &[],
            none(),
            Refused("binding None is not allowed, because such tokens cannot be revoked (ConfigMap tokenward-system"),
        ),
        (&[("binding-none", "true")], none(), Accepted),
        (&[("binding-none", "yes")], none(), Refused("(Namespace limited, annotation tokenward.dev/binding-none)")),
        (&[("reserved", "true")], json!({}), Refused("namespace limited is reserved (Namespace limited, annotation")),
        (&[("reserved", "false")], json!({}), Accepted),
    ]
}

/// The same for servers.
fn limited_servers() -> Vec<Limited<'static>> {
    let sends = |member: &str, server: &str| {
        let kind = [member[..1].to_uppercase(), member[1..].to_owned()].concat();
        let options = if member == "istioRemoteSecret" {
            json!({"server": server, "clusterName": "c"})
        } else {
            json!({ "server": server })
        };
        json!({"secret": {"format": {"type": kind, (member): options}}})
    };
    let unsaid = json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": {"server": null}}}});
    vec![
        // What some clients write for what is not there.
        (&[], unsaid, Accepted),
        (
            &[],
            sends("kubeconfig", "https://a"),
            Refused(
                "server https://a is not among those allowed, because the token is sent there (ConfigMap \
                 tokenward-system/tokenward-limits, key servers); an administrator may change it there",
            ),
        ),
        (&[("servers", "https://b https://a")], sends("kubeconfig", "https://a"), Accepted),
        (
            &[],
            json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": {"server": "https://a", "systemRoots": true}}}}),
            Refused("server https://a is not among those allowed"),
        ),
        (&[("servers", "https://a")], sends("kubeconfig", "https://a.evil"), Refused("(Namespace limited, annotation")),
        (&[("servers", "https://*")], sends("argoCDCluster", "https://a"), Refused("server https://a is not among")),
        (&[("servers", "https://a")], sends("argoCDCluster", "https://a"), Accepted),
        (&[("servers", "https://a")], sends("istioRemoteSecret", "https://a/"), Refused("server https://a/ is not")),
        (&[("servers", "https://a")], sends("istioRemoteSecret", "https://a"), Accepted),
    ]
}

#[tokio::test]
async fn limits_are_defaults_that_an_annotation_of_the_namespace_widens_or_narrows() -> Result<()> {
    let plane = namespace("limited").await?;
    let client = plane.client().await?;
    let path = format!("{}?dryRun=All", policy_path("limited", ""));
    let admin = Caller::admin(plane).await?;
    for (annotations, more, wanted) in limited().into_iter().chain(limited_tokens()).chain(limited_servers()) {
        for name in ["max-duration", "audiences", "servers", "binding-none", "reserved"] {
            let value = annotations.iter().find(|(key, _)| *key == name);
            limit(&client, "limited", name, value.map(|(_, value)| *value)).await?;
        }
        admin.gets("POST", &path, &policy("p", &spec(&["default"], more)), wanted).await?;
    }
    let unsaid = json!({"serviceAccounts": {"names": null, "selector": {}}});
    admin.gets("POST", &path, &policy("p", &unsaid), Accepted).await
}

#[tokio::test]
async fn system_namespaces_are_always_reserved() -> Result<()> {
    let plane = namespace("reserved").await?;
    let admin = Caller::admin(plane).await?;
    for namespace in ["kube-system", "kube-public", "kube-node-lease", "tokenward-system"] {
        limit(&plane.client().await?, namespace, "reserved", Some("false")).await?;
        let path = format!("{}?dryRun=All", policy_path(namespace, ""));
        let words = format!("namespace {namespace} is reserved: no tokens are issued for its accounts");
        admin.gets("POST", &path, &policy("p", &spec(&["default"], json!({}))), Refused(&words)).await?;
        limit(&plane.client().await?, namespace, "reserved", None).await?;
    }
    Ok(())
}

/// A Secret that the policy owns.
async fn dependent(plane: &ControlPlane, namespace: &str, policy: &str) -> Result<Api<Secret>> {
    let owner = policies(&plane.client().await?, namespace).get(policy).await?;
    let owner = json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "name": policy, "uid": owner.metadata.uid,
    });
    let secret = json!({"metadata": {"name": policy, "ownerReferences": [owner]}});
    let secrets: Api<Secret> = Api::namespaced(plane.client().await?, namespace);
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    Ok(secrets)
}

#[tokio::test]
async fn every_way_of_deleting_works_also_beyond_a_lowered_limit() -> Result<()> {
    let plane = namespace("deleting").await?;
    let client = plane.client().await?;
    let ways = [
        ("background", PropagationPolicy::Background),
        ("foreground", PropagationPolicy::Foreground),
        ("orphan", PropagationPolicy::Orphan),
    ];
    for (name, way) in ways {
        limit(&client, "deleting", "reserved", None).await?;
        let made = async || kept(plane, "deleting", name).await;
        eventually(SOON, "the policy", made).await?;
        let secrets = dependent(plane, "deleting", name).await?;
        limit(&client, "deleting", "reserved", Some("true")).await?;
        let delete = json!({"propagationPolicy": format!("{way:?}")});
        let keeper = Caller::user(plane, "keeper").await?;
        Accepted.check(&keeper.send("DELETE", &policy_path("deleting", name), &delete).await?)?;
        let gone = async || {
            ensure!(policies(&client, "deleting").get_opt(name).await?.is_none(), "{name} is there");
            let kept = secrets.get_opt(name).await?;
            ensure!(kept.is_some() == (name == "orphan"), "{name}: {kept:?}");
            Ok(())
        };
        eventually(SOON, "the policy goes, and its Secret", gone).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_namespace_with_policies_goes() -> Result<()> {
    let plane = namespace("going").await?;
    kept(plane, "going", "p").await?;
    dependent(plane, "going", "p").await?;
    let namespaces: Api<Namespace> = Api::all(plane.client().await?);
    namespaces.delete("going", &DeleteParams::default()).await?;
    let gone = async || {
        ensure!(namespaces.get_opt("going").await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SOON, "the namespace goes", gone).await
}

/// Lists and patches every kind and no more, as Kubernetes' own storage version migrator does.
const MIGRATOR: &str = "system:serviceaccount:others:migrator";
/// Accounts that look like the operator in one way or another.
const OTHERS: [&str; 6] = [
    "system:serviceaccount:kube-system:generic-garbage-collector",
    "system:serviceaccount:kube-system:namespace-controller",
    "system:serviceaccount:others:tokenward",
    "system:serviceaccount:others:gitops",
    MIGRATOR,
    "someone",
];

/// All may do everything in the namespace, but only two may write policies, as `gitops` does.
async fn let_others_work(plane: &ControlPlane) -> Result<()> {
    let rules = json!([{"apiGroups": [""], "resources": ["secrets", "serviceaccounts/token"], "verbs": ["*"]}]);
    let mut subjects = Vec::new();
    for user in OTHERS {
        subjects.push(json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}));
    }
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "rules": rules,
        "metadata": {"name": "others", "namespace": "others"},
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "subjects": subjects,
        "metadata": {"name": "others", "namespace": "others"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "others"},
    });
    plane.apply(&format!("{role}\n---\n{binding}")).await?;
    let every = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["list", "create", "patch"]}]);
    let (mut role, mut binding) = (role, binding);
    (role["rules"], role["metadata"]["name"]) = (every, "migrator".into());
    (binding["roleRef"]["name"], binding["metadata"]["name"]) = ("migrator".into(), "migrator".into());
    binding["subjects"] = json!([{"apiGroup": group, "kind": "User", "name": MIGRATOR}]);
    plane.apply(&format!("{role}\n---\n{binding}")).await?;
    plane
        .apply(&tokenward_e2e::scene::caller::administrator("system:serviceaccount:others:gitops").to_string())
        .await?;
    Ok(())
}

#[tokio::test]
async fn nobody_else_wears_the_operators_belts() -> Result<()> {
    let plane = namespace("others").await?;
    let_others_work(plane).await?;
    let request = json!({"spec": {"audiences": ["vault"], "expirationSeconds": 1_000_000}});
    for user in OTHERS {
        let caller = Caller::user(plane, user).await?;
        let secret = json!({"metadata": {"name": "theirs"}, "type": "kubernetes.io/service-account-token"});
        let mut secret = secret;
        secret["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": "default"});
        caller.gets("POST", &secret_path("others", ""), &secret, Accepted).await?;
        let path = secret_path("others", "theirs");
        caller.gets("MERGE", &path, &json!({"metadata": {"labels": {"a": "b"}}}), Accepted).await?;
        caller.gets("DELETE", &path, &Value::Null, Accepted).await?;
        caller.gets("POST", &token_path("others", "default"), &request, Accepted).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_policies_have_no_type_errors() -> Result<()> {
    let plane = namespace("types").await?;
    let check = async || {
        let text = plane.kubectl_ok(["get", "validatingadmissionpolicies", "-o", "json"]).await?;
        let list: Value = serde_json::from_str(&text)?;
        let items = list["items"].as_array().context("no list")?;
        let ours: Vec<_> =
            items.iter().filter(|item| item["metadata"]["labels"]["app.kubernetes.io/name"] == "tokenward").collect();
        ensure!(ours.len() == 5, "{} policies", ours.len());
        for policy in ours {
            ensure!(policy["status"]["observedGeneration"] == policy["metadata"]["generation"], "not checked yet");
            ensure!(
                policy["status"]["typeChecking"] == json!({}),
                "{}: {}",
                policy["metadata"]["name"],
                policy["status"]
            );
        }
        Ok(())
    };
    eventually(SOON, "the policies are checked", check).await
}

#[tokio::test]
async fn roles_for_people_are_optional_and_never_aggregated() -> Result<()> {
    let plane = namespace("people").await?;
    let folder = tokenward_e2e::workspace_dir().join("config/components/roles");
    for file in ["edit.yaml", "view.yaml"] {
        plane.apply(&std::fs::read_to_string(folder.join(file))?).await?;
    }
    for (role, user) in
        [("tokenward-edit", "editor"), ("tokenward-view", "viewer"), ("edit", "plain"), ("admin", "head")]
    {
        let bind = ["create", "rolebinding", user, "-n", "people"].map(str::to_owned);
        let who = [format!("--clusterrole={role}"), format!("--user={user}")];
        plane.kubectl_ok(bind.iter().chain(&who)).await?;
    }
    let may = async |user: &str, verb: &str| {
        let output = plane.kubectl(["auth", "can-i", verb, "tokenpolicies", "-n", "people", "--as", user]).await?;
        anyhow::Ok(output.status.success())
    };
    for (user, reads, writes) in
        [("editor", true, true), ("viewer", true, false), ("plain", false, false), ("head", false, false)]
    {
        for verb in ["get", "list", "watch"] {
            assert_eq!(may(user, verb).await?, reads, "{user} {verb}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            assert_eq!(may(user, verb).await?, writes, "{user} {verb}");
        }
        assert!(!may(user, "deletecollection").await?, "{user}");
    }
    Ok(())
}
