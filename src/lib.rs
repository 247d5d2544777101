//! A Rust node in an Erlang cluster.

pub mod dist;
pub mod node;
pub mod term;
