//! An Erlang node.

pub mod cookie;
