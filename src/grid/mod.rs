//! The mesh: registration, discovery, the view.

mod dial;
mod event;
pub mod meta;
mod registration;
mod typed;
mod view;
