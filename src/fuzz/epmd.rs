//! An epmd that anybody may ask anything: a list of requests, and of connections that end.

use super::made::Made;
use crate::dist::epmd::protocol::{MAX_REQUEST, Request, missing};
use crate::dist::epmd::state::{Answer, MAX_NAMES, Table};
use erl_dist::epmd::NodeEntry;

/// For each step a byte that says who asks, or that a connection ends, and a byte of length before the request; longer
/// requests are made of the same bytes again and again.
pub fn epmd(input: &[u8]) {
    cut(input);
    let mut table = Table::new(4369, NodeEntry::new("own", 9000), 7);
    let mut made = Made::of(input);
    for connection in 1.. {
        let (what, length) = (made.byte(), made.byte());
        let request = made.bytes(length);
        if request.is_empty() {
            return;
        }
        match what % 8 {
            0 => ended(&mut table, u64::from(length)),
            1 => {
                let long = request.repeat(1 + usize::from(what / 8));
                asked(&mut table, connection, &long, true);
            }
            2 => asked(&mut table, connection, request, false),
            _ => asked(&mut table, connection, request, true),
        }
    }
}

/// A request is waited for to its last byte, and never for more than one may have.
fn cut(bytes: &[u8]) {
    if let Some(more) = missing(bytes) {
        assert!(bytes.len() + more < MAX_REQUEST);
        let whole = bytes
            .first_chunk()
            .map(|length| 2 + usize::from(u16::from_be_bytes(*length)));
        assert_eq!(more == 0, whole == Some(bytes.len()));
    }
}

fn asked(table: &mut Table, connection: u64, request: &[u8], local: bool) {
    let names: Vec<String> = table.others().map(str::to_owned).collect();
    let answer = table.answer(connection, request, local);
    match (&answer, Request::parse(request)) {
        (Answer::Close, _) => {}
        (Answer::Keep(bytes), Some(Request::Register(entry))) => {
            assert!(local && entry.name != "own" && !names.contains(&entry.name));
            match bytes[..] {
                [118, 0, a, b, c, d] => assert!(u32::from_be_bytes([a, b, c, d]) >= 4),
                [121, 0, 0, creation] => assert!((1..=3).contains(&creation)),
                // What a fuzz target is for.
                _ => panic!("{bytes:?}"),
            }
            let [high, low] = entry.port.to_be_bytes();
            let longest = entry.name.chars().count() == 255;
            let found = table.answer(
                connection + 1,
                &[b"z", entry.name.as_bytes()].concat(),
                false,
            );
            match found {
                Answer::Reply(found) => assert!(found.starts_with(&[119, 0, high, low])),
                // The empty name, the longest, and what would be another name without its last NUL.
                _ => assert!(entry.name.is_empty() || longest),
            }
            assert_eq!(table.others().count(), names.len() + 1);
        }
        // Likewise.
        (Answer::Keep(bytes), other) => panic!("{bytes:?} to {other:?}"),
        (Answer::Reply(bytes), Some(request)) => {
            assert!(!bytes.is_empty());
            assert!(local || matches!(request, Request::LookUp(_) | Request::Names));
        }
        // Likewise.
        (Answer::Reply(bytes), None) => panic!("{bytes:?} to no request"),
    }
    // Nobody takes the name of the node that serves.
    let own = table.answer(connection + 1, b"zown", false);
    assert!(matches!(own, Answer::Reply(found) if found.starts_with(&[119, 0, 0x23, 0x28])));
    let mut names: Vec<&str> = table.others().collect();
    assert!(names.len() < MAX_NAMES);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), table.others().count());
}

fn ended(table: &mut Table, connection: u64) {
    let before = table.others().count();
    table.closed(connection);
    let after = table.others().count();
    assert!(after == before || after + 1 == before);
    table.closed(connection);
    assert_eq!(table.others().count(), after);
}
