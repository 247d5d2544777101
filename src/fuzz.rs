//! What holds for every input there is: one function for each target of `tests/fuzz`, which panics when it does not.
//!
//! | Function | The input is | And then |
//! |---|---|---|
//! | [`term()`] | bytes from a wire, and choices for a term of our own | what is checked can be read in every way, and alike; what is written is read back |
//! | [`text()`] | text that somebody typed, and choices for a term | what is printed is read back as the same term |
//! | [`handshake()`] | what a stranger says, and where a line between two nodes lies | who does not know the cookie is never connected |
//! | [`epmd()`] | requests, and ends of connections | our own name stays ours, no name is had twice, who registered is found |
//! | [`frame()`] | a frame of a peer, and choices for a message | what is understood, and what is sent, is read back |
//!
//! The fuzzer looks for bytes that reach new code; the tests here call the same functions with random bytes and with
//! damaged good ones, for a second each, so that no change has to wait for a fuzzer to be found wrong.

mod epmd;
mod frame;
mod handshake;
mod made;
mod term;
mod text;

#[cfg(test)]
mod tests;

pub use epmd::epmd;
pub use frame::frame;
pub use handshake::handshake;
pub use term::term;
pub use text::text;
