//! A Rust node in an Erlang cluster.

pub mod term;
