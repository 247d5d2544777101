//! A Rust process as a real node of an Erlang cluster, found and finding through Redis.
//!
//! ```text
//!    erl ◄───────── distribution ─────────►  Node  ◄───── your program: call, export, watch
//!     ▲                                     ╱    ╲
//!     │                               dist ╱      ╲ grid
//!     └─────────── Redis: who is where, with which meta ───────────┘
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use redgrid::{Node, term::atom};
//!
//! let node = Node::builder("rust@127.0.0.1")
//!     .cookie("the cookie of the cluster")
//!     .redis("redis://127.0.0.1/")
//!     .meta([("weight", 0)])
//!     .start()
//!     .await?;
//! let release = node
//!     .call(&"foo@127.0.0.1".parse()?, "erlang", "system_info", [atom("otp_release")])
//!     .await?;
//! println!("{}", redgrid::term::print(&release));
//! node.leave().await;
//! # Ok(())
//! # }
//! ```
//!
//! From then on `nodes()` in any Erlang shell of the cluster shows `'rust@127.0.0.1'`, and
//! `rpc:call('rust@127.0.0.1', redgrid, nodes, [])` answers.
//!
//! | Module | Is | Never |
//! |---|---|---|
//! | [`dist`] | an Erlang node: handshake, connections, calls, what OTP asks of any node | has heard of Redis |
//! | [`grid`] | the mesh: registration, discovery, `redgrid:nodes()` | opens a distribution socket |
//! | [`node`] | the two put together, for programs | knows the command line |
//! | [`term`] | terms: bytes, values, text, JSON | waits or reads a clock |
//! | [`config`], [`cli`] | the binary | is used by the others |
//!
//! A program answers Erlang's calls with [`Node::export`] and with processes ([`Node::spawn_named`]), which have pids and
//! mailboxes, are linked to and watched from both sides: `docs/services.md` shows how.
//!
//! **The life of one call.** `rpc:call(Rust, redgrid, nodes, [])` arrives as a spawn request. The connection's task cuts
//! the frame, checks its bytes, has the connection's state write the spawn reply, finds the function, which reads the
//! published view, and writes the result as the exit of the process: one task, one read, one write.
//!
//! Files that say `Pure` in their first lines take the time as an argument and return what is to be done; the others do it.

pub mod cli;
pub mod config;
pub mod dist;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod grid;
pub mod node;
pub mod term;

pub use dist::{CallError, Cookie, Envelope, Mail, NodeName, PeerInfo, Process, Request};
pub use grid::{Change, Meta, MetaValue, Scope, View};
pub use node::{Builder, Call, CallFailure, Exception, Node, StartError};
pub use term::Term;

/// The example in the README is compiled like any other.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So are those of the guide.
#[cfg(doctest)]
#[doc = include_str!("../docs/services.md")]
struct Services;

/// And so are the reproductions of what is wrong upstream.
#[cfg(doctest)]
#[doc = include_str!("../docs/upstream.md")]
struct Upstream;
