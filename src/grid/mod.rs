//! The mesh: registration, discovery, the view.

mod dial;
mod event;
pub mod meta;
mod registration;
mod state;
mod typed;
mod view;
