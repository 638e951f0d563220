//! Scopes: satisfaction, and expansion by roles.

use serde_json::json;

/// Returns true if a held scope (it may end in `*`) covers another.
pub(super) fn covers(held: &str, wanted: &str) -> bool {
    held.strip_suffix('*').map_or(held == wanted, |prefix| wanted.starts_with(prefix))
}

/// Returns true if these scopes cover another.
pub(super) fn satisfy(held: &[String], wanted: &str) -> bool {
    held.iter().any(|scope| covers(scope, wanted))
}

/// A role: its name without `assume:` (it may end in `*`), and its scopes.
pub struct Role {
    pub name: String,
    pub scopes: Vec<String>,
}

/// Adds the scopes of all held roles, including `anonymous`, which everybody has.
pub(super) fn expand(scopes: &[String], roles: &[Role]) -> Vec<String> {
    let mut held = scopes.to_vec();
    held.push("assume:anonymous".to_owned());
    let mut taken = vec![false; roles.len()];
    loop {
        let before = held.len();
        for (role, taken) in roles.iter().zip(&mut taken) {
            let name = format!("assume:{}", role.name);
            let assumed = held.iter().any(|scope| covers(scope, &name) || covers(&name, scope));
            if assumed && !*taken {
                *taken = true;
                held.extend(role.scopes.iter().cloned());
            }
        }
        if held.len() == before {
            held.sort_unstable();
            held.dedup();
            return held;
        }
    }
}

/// These scopes without those that others of them cover.
pub(crate) fn normalized(scopes: &[String]) -> Vec<&String> {
    let covered = |scope: &String| scopes.iter().any(|other| other != scope && covers(other, scope));
    scopes.iter().filter(|scope| !covered(scope)).collect()
}

/// Scopes as an error message shows them: one as it is, several as an expression.
pub(super) fn expression(scopes: &[String]) -> String {
    match scopes {
        [one] => one.clone(),
        all => serde_json::to_string_pretty(&json!({"AllOf": all})).unwrap_or_default(),
    }
}
