//! Terms as text, the way `erl` reads and prints them.
//!
//! [`parse`] reads what one would type into a shell or `file:consult/1`; [`print()`] gives what `io:format("~0tp")`
//! does, on one line, and [`print_wrapped`] the same over several. What has no syntax (pids, references, ports, local funs) is printed so that it can be told
//! apart, and refused with the way round it when read.

pub use parse::{MAX_DEPTH, ParseError, parse};
pub(super) use print::is_string;
pub use print::{Printed, float_text, print, print_short};
pub use wrap::print_wrapped;

mod parse;
mod print;
#[cfg(test)]
mod tests;
mod wrap;

/// Words that are no atoms unless quoted. `maybe` and `else` are among them from OTP 27 on.
const RESERVED: [&str; 29] = [
    "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case",
    "catch", "cond", "div", "else", "end", "fun", "if", "let", "maybe", "not", "of", "or",
    "orelse", "receive", "rem", "try", "when", "xor",
];

/// Whether an atom of this name is written without quotes.
pub fn is_plain_atom(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(starts_atom) && chars.all(continues_atom) && !is_reserved(name)
}

fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// Small letters of latin1; Erlang knows no others here.
fn starts_atom(c: char) -> bool {
    c.is_ascii_lowercase() || matches!(c, 'ß'..='ÿ' if c != '÷')
}

fn continues_atom(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || c == '_'
        || c == '@'
        || matches!(c, 'À'..='ÿ' if c != '×' && c != '÷')
}
