//! OTP's process groups, `pg`, as a machine without a process. Pure.
//!
//! A scope is an overlay of the nodes that run a process registered under the scope's name (`pg` unless said otherwise).
//! Each scope process keeps the members of its own node, and tells them to the scope processes of the others:
//!
//! ```text
//!   us                                            a peer
//!    │  (it is up)                                  │ (we are up)
//!    ├── {discover, Us} to its name ───────────────►│        both do this; here is what follows from ours
//!    │◄────────────── cast {sync, It, [{G, Pids}]} ─┤        all its members; replaces what we had of it
//!    │◄────────────────────────────── {discover, It}┤        since it did not know us
//!    ├── cast {sync, Us, [{G, Pids}]} ─────────────►│
//!    │     monitor of It                            │ monitor of Us
//!    ├── {join, Us, G, Pids}  ─────────────────────►│        from now on each change, to the pid
//!    ├── {leave, Us, Pids, [G, ...]} ──────────────►│        also when a member of ours ends: it does not watch them
//! ```
//!
//! OTP 29 says `{discover, It, 1}`, and to who answers in kind `{local_data, It, 1, #{G => Pids}}` and
//! `{update, It, [{G, Joined, Left}]}` instead of the three forms above. We do so when it has said its version, never before:
//! the scope process of OTP 25 crashes on whatever it does not know, on `{discover, _, 1}` too. It also crashes when someone
//! leaves a group that the peer has not been told of; so nothing but a discovery goes out before our `sync`, and only who
//! was a member leaves.
//!
//! A group is a bag: who has joined twice is in it twice, and has to leave twice. The name of a group is any term.
//!
//! **Bounds.** What one peer, all peers and our own processes have joined is counted in bytes ([`Limits`]). The members of a
//! peer that goes beyond are forgotten, all of them, until it sends a `sync` that fits: half of a peer would look like all of
//! it. A message that is none of the above changes nothing and is logged once for each connection.
//!
//! **Wiring.** Whoever owns a [`Scope`] has these duties:
//!
//! * register the scope's name for the pid that was given to [`Scope::new`], answer monitors of both, and hand every message
//!   to either over as [`Input::Message`] with the peer whose connection brought it (in its envelope or without:
//!   `$gen_cast` is opened here). A name without a scope answers `noproc`; a discovery sent to it falls on the floor.
//! * [`Input::PeerUp`] for each visible peer, once before its messages, and for those that are up when the scope begins;
//!   [`Input::PeerDown`] for each peer, hidden ones included, after the last message of the connection.
//! * [`Effect::Send`] and [`Effect::SendName`] over the connection that is there, in the order given; they never connect. One
//!   that cannot be sent may be dropped only together with the connection: a peer that misses a change never hears of it again.
//! * [`Effect::Monitor`]: what comes back is [`Input::ScopeDown`]; `noproc` and `noconnection` included. The end of a
//!   connection ends the monitor, without an [`Effect::Demonitor`].
//! * [`Effect::Watch`]: [`Input::LocalEnded`] when that process of ours ends, at once when it has ended already.
//! * [`Effect::Deliver`] is an ordinary message; when the mailbox is full its policy decides.
//! * when the scope ends, the monitors of its pid are answered; that is how the others forget our members.
//! * `pg:get_members` and its like, by rpc: [`apply`].

mod functions;
mod state;
mod terms;

pub(crate) use functions::{Answered, apply};
pub use state::Refused;
pub(crate) use state::{Effect, Input, Limits, Scope};

/// The scope that OTP uses when none is named.
pub(crate) const DEFAULT_SCOPE: &str = "pg";

#[cfg(test)]
mod tests;
