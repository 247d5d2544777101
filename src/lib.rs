//! A Rust node in an Erlang cluster.

pub mod dist;
pub mod grid;
pub mod term;
