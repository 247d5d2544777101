//! The functions of the module `pg` that can be asked for by `rpc`. Pure.
//!
//! `join` and `leave` are not among them: a process is made a member by its own node.

use super::{DEFAULT_SCOPE, Scope};
use crate::term::{
    Raw,
    write::{put_atom, put_list, put_nil, put_raw},
};
use bytes::BytesMut;

/// What a function of `pg` gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answered {
    /// This value.
    Value(Raw),
    /// It raises an error with this reason.
    Error(Raw),
    /// There is no such function.
    Undef,
}

/// Calls `pg:Function(Args...)` on the scopes that this node runs, found by their names.
///
/// Where a scope does not run, a group has no members and `which_groups` is `badarg`, as in OTP.
pub(crate) fn apply<'a>(
    scope: impl FnOnce(&str) -> Option<&'a Scope>,
    function: &str,
    args: &[Raw],
) -> Answered {
    let (name, group) = match (function, args) {
        ("get_members" | "get_local_members", [group]) => (None, Some(group)),
        ("get_members" | "get_local_members", [name, group]) => (Some(name), Some(group)),
        ("which_groups" | "which_local_groups", []) => (None, None),
        ("which_groups" | "which_local_groups", [name]) => (Some(name), None),
        _ => return Answered::Undef,
    };
    let name = match name {
        None => Some(DEFAULT_SCOPE.into()),
        Some(name) => name.view().atom_name(),
    };
    let scope = name.as_deref().and_then(scope);
    let found: Vec<Raw> = match (scope, group) {
        (Some(scope), Some(group)) if function == "get_members" => scope.members(group),
        (Some(scope), Some(group)) => scope.local_members(group),
        (Some(scope), None) if function == "which_groups" => scope.groups().cloned().collect(),
        (Some(scope), None) => scope.local_groups().cloned().collect(),
        (None, Some(_)) => Vec::new(),
        (None, None) => {
            // which_groups of what is no atom is a function_clause there; the caller is wrong either way.
            let mut out = BytesMut::new();
            put_atom(&mut out, "badarg");
            return Answered::Error(Raw::own(out));
        }
    };
    let mut out = BytesMut::new();
    put_list(&mut out, found.len());
    for term in &found {
        put_raw(&mut out, term);
    }
    put_nil(&mut out);
    Answered::Value(Raw::own(out))
}
