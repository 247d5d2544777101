//! What users are promised, checked against real servers. One binary, so that it links once; one module per promise.
//!
//! - `cli`: the binary: bad input, signals, output, secrets, commands.
//! - `mesh`: the driver of the mesh against a real `redis-server`, with toy nodes instead of connections.
//! - `nodes`: Rust nodes among themselves and at a real `epmd`: who connects, once, and what ends.
//! - `peers`: a Rust node and a real `erl`, in both directions.
//!
//! A server that is not installed is a failure, never a skip.

mod cli;
mod mesh;
mod nodes;
mod peers;
mod support;
