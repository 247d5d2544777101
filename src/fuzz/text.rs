//! Terms as text: printing and reading are each other's way back.

use super::made::Made;
use crate::term::{Raw, Term, parse, print, print_short};

/// Text that somebody typed; and a term made of its bytes.
pub fn text(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse(&text) {
        Ok(term) => printed(&term),
        Err(why) => {
            assert!(why.line >= 1 && why.column >= 1 && !why.what.is_empty());
            assert!(why.line <= 1 + text.matches('\n').count(), "{why}");
            assert!(why.column <= 1 + text.chars().count(), "{why}");
        }
    }
    printed(&Made::of(input).term_with_syntax());
    // What has no syntax is printed all the same.
    let term = Made::of(input).term();
    let (whole, short) = (print(&term), print_short(&term, 60));
    assert!(short == whole || short.ends_with("..."));
}

/// A term that has a syntax.
fn printed(term: &Term) {
    let text = print(term);
    let read = parse(&text);
    assert_eq!(read.as_ref(), Ok(term), "{text}");
    assert_eq!(read.map(|read| print(&read)), Ok(text));
    // It is one that a peer can be sent.
    let raw = Raw::try_encode(term);
    assert_eq!(raw.and_then(|raw| raw.decode()).as_ref(), Ok(term));
}
