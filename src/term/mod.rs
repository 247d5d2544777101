//! Erlang terms: bytes, values and text.
pub use eetf::Term;
/// STUB: one checked term in external format without the leading 131.
#[derive(Clone, Debug)]
pub struct Raw(pub bytes::Bytes);
