//! The `redgrid` binary.

fn main() {}
