//! The mesh: registration, discovery, the view.

pub mod meta;
