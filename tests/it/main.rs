//! What users are promised, checked against real servers. One binary, so that it links once; one module per promise.
//!
//! - `access`: what `--allow` and `--deny` keep from whom, and the audit.
//! - `cli`: the binary: bad input, signals, output, secrets, commands.
//! - `demo`: the demonstration, and that nothing of it is left.
//! - `doctor`: the commands `names` and `doctor`: whatever can be wrong is found and explained.
//! - `epmd`: the epmd inside a node beside OTP's, real `erl` nodes at it, and who takes over from whom.
//! - `groups`: process groups shared with real `erl` nodes that run `pg`.
//! - `hostile`: rubbish on the distribution port, in Redis and on its channels.
//! - `large`: messages of hundreds of megabytes.
//! - `layout`: the sources keep to their layout.
//! - `life`: nodes come, go and come back; the library from the outside.
//! - `mesh`: the driver of the mesh against a real `redis-server`, with toy nodes instead of connections.
//! - `nodes`: Rust nodes among themselves and at a real `epmd`: who connects, once, and what ends.
//! - `peers`: a Rust node and a real `erl`, in both directions.
//! - `processes`: processes of ours and of a real `erl`: messages, links, monitors, aliases, names.
//! - `terms`: terms and a real `erl`, without a connection between.
//! - `tls`: the distribution inside TLS, with a real `erl` and among ourselves.
//! - `tools`: what `process_info` and its kind tell of processes of ours.
//! - `upstream`: the defects of the crates `eetf` and `erl_dist` that `docs/upstream.md` tells of are still there.
//!
//! A server that is not installed is a failure, never a skip.

mod access;
mod cli;
mod demo;
mod doctor;
mod epmd;
mod groups;
mod hostile;
mod large;
mod layout;
mod life;
mod mesh;
mod nodes;
mod peers;
mod processes;
mod support;
mod terms;
mod tls;
mod tools;
mod upstream;
