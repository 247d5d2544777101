//! Erlang terms: bytes, values and text.
