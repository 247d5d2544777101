//! A Rust node in an Erlang cluster.

pub mod cli;
pub mod config;
pub mod dist;
pub mod grid;
pub mod node;
pub mod term;
