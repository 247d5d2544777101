//! What OTP's tools ask of any node: functions of `erlang` and friends, answered honestly and cheaply.
//!
//! Each function stands in one table with its arity; `erlang:function_exported/3` reads the same tables, so it is true
//! for exactly what is answered. Whatever would act on the node (`halt`, `os:cmd`, code loading, the cookie) is in none,
//! so it answers `undef`.

mod clock;
mod erlang;
mod kernel;
mod observer_backend;
mod process_info;
mod system_info;

pub(crate) use observer_backend::report;

use super::{Answer, Node, call};
use crate::term::{
    Raw,
    write::{put_bool, put_uint},
};
use bytes::BytesMut;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// The release whose behaviour ours follows, as `erlang:system_info(otp_release)` tells it.
pub(crate) const OTP_RELEASE: &str = "27";

/// What answers a function of OTP's; `None` is `badarg`. There are as many arguments as its arity says.
type Run = fn(&Node, &[Raw]) -> Option<Raw>;

/// A function of OTP's: its name, its arity, and what answers it.
type Function = (&'static str, usize, Run);

/// What the node counts for `erlang:statistics/1`, and what its clocks start from.
pub(crate) struct Kept {
    started: Instant,
    read: AtomicU64,
    written: AtomicU64,
    /// What was told last, of what is told as a total and the rest since the last time.
    last_wall_clock: AtomicU64,
    last_runtime: AtomicU64,
    last_now: AtomicU64,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            last_wall_clock: AtomicU64::new(0),
            last_runtime: AtomicU64::new(0),
            last_now: AtomicU64::new(0),
        }
    }

    /// Bytes came over a connection.
    pub(crate) fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A connection took bytes.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Answers a function of OTP's; [`Answer::Undef`] when it is not one of those offered.
pub(crate) fn apply(node: &Node, module: &str, function: &str, args: &[Raw]) -> Answer {
    match find(module, function, args.len()) {
        Some(run) => match run(node, args) {
            Some(value) => Answer::Reply(value),
            None => Answer::Error(call::atom("badarg")),
        },
        None => Answer::Undef,
    }
}

fn find(module: &str, function: &str, arity: usize) -> Option<Run> {
    let functions = match module {
        "erlang" => erlang::FUNCTIONS,
        "net_kernel" => kernel::NET_KERNEL,
        "net_adm" => kernel::NET_ADM,
        "inet" => kernel::INET,
        "application" => kernel::APPLICATION,
        "code" => kernel::CODE,
        "os" => kernel::OS,
        "proc_lib" => process_info::PROC_LIB,
        "appmon_info" => observer_backend::APPMON_INFO,
        "observer_backend" => observer_backend::FUNCTIONS,
        _ => return None,
    };
    let (_, _, run) = functions
        .iter()
        .find(|(name, takes, _)| *name == function && *takes == arity)?;
    Some(*run)
}

/// Whether a function is answered, by us or by the service.
fn exported(node: &Node, module: &str, function: &str, arity: usize) -> bool {
    // It is taken apart where a call is read, and what it applies is called instead.
    let apply = (module, function) == ("erlang", "apply") && matches!(arity, 2 | 3);
    apply
        || find(module, function, arity).is_some()
        || node.service().exports(module, function, arity)
}

fn count(value: usize) -> Raw {
    uint(value as u64)
}

fn uint(value: u64) -> Raw {
    let mut out = BytesMut::new();
    put_uint(&mut out, value);
    Raw::own(out)
}

fn boolean(value: bool) -> Raw {
    let mut out = BytesMut::new();
    put_bool(&mut out, value);
    Raw::own(out)
}

/// `{Key, Value}`.
fn pair(key: &str, value: &Raw) -> Raw {
    call::tuple(&[&call::atom(key), value])
}

/// `[{Key, Value}, ...]`.
fn pairs<const N: usize>(pairs: [(&str, Raw); N]) -> Raw {
    call::list(&pairs.map(|(key, value)| pair(key, &value)))
}
