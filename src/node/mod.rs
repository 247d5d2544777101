//! tmp
pub(crate) mod echo;
mod services;
