//! The processes `echo` and `sink` (`--echo`): what one measures a connection with.
//!
//! | To | Message | Answer |
//! |---|---|---|
//! | `echo` | `{From, Ref, Payload}` | `From ! {Ref, Payload}` |
//! | `echo` | `gen_server:call`, any request | the request; `total`: `{Messages, Bytes}`, and both begin again at 0 |
//! | `echo` | `{data, Bin}` | counted |
//! | `echo` | `rpc:call(N, echo, echo, [Term])` | `Term` |
//! | `sink` | `{data, Bin}` | counted |
//! | `sink` | `{total, From}` | `From ! {total, Count}`, and counting begins again |

use crate::{
    dist::{Answer, Body, Service},
    term::{
        Raw,
        write::{put_atom, put_tuple, put_uint},
    },
};
use bytes::BytesMut;
use std::sync::atomic::{AtomicU64, Ordering};

/// Both processes.
#[derive(Default)]
pub(crate) struct Echo {
    messages: AtomicU64,
    bytes: AtomicU64,
    sunk: AtomicU64,
}

impl Service for Echo {
    fn names(&self) -> Vec<String> {
        vec!["echo".into(), "sink".into()]
    }

    fn call(&self, name: &str, request: &Raw) -> Answer {
        match name {
            "echo" if request.view().is_atom("total") => {
                let mut out = BytesMut::new();
                put_tuple(&mut out, 2);
                put_uint(&mut out, self.messages.swap(0, Ordering::Relaxed));
                put_uint(&mut out, self.bytes.swap(0, Ordering::Relaxed));
                Answer::Reply(Raw::own(out))
            }
            "echo" => Answer::Reply(request.clone()),
            _ => Answer::Undef,
        }
    }

    fn info(&self, name: &str, message: &Raw) -> Vec<(Raw, Body)> {
        if let Some([data]) = message.view().tagged::<1>("data")
            && let Some(bytes) = data.as_binary()
        {
            if name == "sink" {
                self.sunk.fetch_add(1, Ordering::Relaxed);
            } else {
                self.messages.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            return Vec::new();
        }
        if name == "sink"
            && let Some([from]) = message.view().tagged::<1>("total")
            && from.is_pid()
        {
            let (mut total, mut count) = (BytesMut::new(), BytesMut::new());
            put_atom(&mut total, "total");
            put_uint(&mut count, self.sunk.swap(0, Ordering::Relaxed));
            return vec![(
                message.sub(from),
                Body::pair(&Raw::own(total), &Raw::own(count)),
            )];
        }
        if name == "echo"
            && let Some([from, reference, payload]) = message.view().tuple_n::<3>()
            && from.is_pid()
        {
            return vec![(
                message.sub(from),
                Body::pair(&message.sub(reference), &message.sub(payload)),
            )];
        }
        Vec::new()
    }

    fn apply(&self, module: &str, function: &str, args: &[Raw]) -> Answer {
        match (module, function, args) {
            ("echo", "echo", [term]) => Answer::Reply(term.clone()),
            _ => Answer::Undef,
        }
    }

    fn exports(&self, module: &str, function: &str, arity: usize) -> bool {
        (module, function, arity) == ("echo", "echo", 1)
    }
}
