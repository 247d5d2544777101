//! tmp
pub mod echo;
