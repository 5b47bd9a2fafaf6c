//! A name that many policies want costs no more than what changes about it.

use super::*;

/// How many policies want the name.
const RIVALS: usize = 500;

/// Policies that want one name, each for an account of its own. The first has it.
fn contested() -> Crowd {
    let mut server = Server::new();
    for n in 0..RIVALS {
        join(&mut server, n);
    }
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(2);
    assert_eq!((crowd.server.mints, holder(&crowd)), (1, "p-0000".to_owned()));
    crowd
}

fn join(server: &mut Server, n: usize) {
    let account = format!("app-{n:04}");
    server.account("ci", &account, &[]);
    server.policy("ci", &format!("p-{n:04}"), |policy| {
        names(policy, vec![account]);
        policy.spec.secret.name = "shared".into();
    });
}

/// The policy of the Secret.
fn holder(crowd: &Crowd) -> String {
    crowd.server.published("ci", "shared").unwrap().0.policy.to_string()
}

/// Decisions and comparisons of a deed.
fn counted(crowd: &mut Crowd, deed: impl FnOnce(&mut Crowd)) -> (usize, usize) {
    let compared = crowd.grants.compared.get();
    let (decided, _) = crowd.cost(deed);
    (decided, crowd.grants.compared.get() - compared)
}

#[test]
fn one_more_who_wants_a_name_concerns_nobody_else() {
    let mut crowd = contested();
    let (decided, compared) = counted(&mut crowd, |crowd| join(&mut crowd.server, RIVALS));
    assert!(decided <= 3 && compared <= 4, "{decided} decisions, {compared} comparisons");
    let (decided, compared) = counted(&mut crowd, |crowd| crowd.server.delete_policy("ci", "p-0300"));
    assert!(decided <= 5 && compared <= 4, "{decided} decisions, {compared} comparisons");
}

#[test]
fn the_next_holder_is_found_once_for_all() {
    let mut crowd = contested();
    let (decided, compared) = counted(&mut crowd, |crowd| {
        crowd.server.delete_policy("ci", "p-0000");
        (0..70).for_each(|_| crowd.pass(1));
    });
    assert_eq!((crowd.server.mints, holder(&crowd)), (2, "p-0001".to_owned()));
    assert!(decided <= 8 * RIVALS && compared <= 8 * RIVALS, "{decided} decisions, {compared} comparisons");
}

/// A fresh process agrees on who has the name: it issues nothing and says the same.
#[test]
fn the_holder_does_not_depend_on_what_a_process_has_seen() {
    let mut crowd = contested();
    let named = |crowd: &mut Crowd, n: usize, name: &str| {
        crowd.server.policy("ci", &format!("p-{n:04}"), |policy| policy.spec.secret.name = name.into());
        crowd.pass(70);
    };
    for n in [3, 0, 2] {
        named(&mut crowd, n, &format!("other-{n}"));
    }
    for n in [2, 0] {
        named(&mut crowd, n, "shared");
    }
    crowd.pass(2);
    let told = |crowd: &Crowd| (0..RIVALS).map(|n| crowd.conditions_of(&format!("p-{n:04}"))).collect::<Vec<_>>();
    let (before, mints) = (told(&crowd), crowd.server.mints);
    assert!(before[0]["Ready"].1.contains("is claimed by policy p-0001"), "{:?}", before[0]);
    crowd.restart();
    crowd.settle();
    crowd.pass(70);
    assert!(told(&crowd) == before, "each status names the same holder");
    assert_eq!((crowd.server.mints, holder(&crowd)), (mints, "p-0001".to_owned()));
}
