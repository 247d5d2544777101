//! The clocks of `erlang` and `os`. Our native unit is the nanosecond, and monotonic time begins with the node.

use super::super::{Node, call};
use crate::term::{Raw, View, write::put_bigint};
use bytes::BytesMut;
use chrono::{DateTime, Datelike, Local, TimeZone, Timelike, Utc};
use num_bigint::BigInt;
use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

const NATIVE: i128 = 1_000_000_000;

/// How many of a unit are in a second; a number stands for itself.
fn parts(unit: View<'_>) -> Option<i128> {
    if let Some(parts) = unit.as_i64() {
        return (parts > 0).then_some(i128::from(parts));
    }
    Some(match unit.as_atom()? {
        "native" | "perf_counter" | "nanosecond" | "nano_seconds" => NATIVE,
        "microsecond" | "micro_seconds" => 1_000_000,
        "millisecond" | "milli_seconds" => 1_000,
        "second" | "seconds" => 1,
        _ => return None,
    })
}

fn in_unit(nanoseconds: i128, parts: i128) -> Raw {
    let mut out = BytesMut::new();
    put_bigint(
        &mut out,
        &BigInt::from((nanoseconds * parts).div_euclid(NATIVE)),
    );
    Raw::own(out)
}

/// The unit of a function that has it as its only argument, or none.
fn asked(args: &[Raw]) -> Option<i128> {
    args.first().map_or(Some(NATIVE), |unit| parts(unit.view()))
}

fn monotonic(node: &Node) -> i128 {
    node.kept().started.elapsed().as_nanos() as i128
}

/// Since 1970; a clock that is set to before that counts as there.
fn system() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as i128)
}

pub(super) fn monotonic_time(node: &Node, args: &[Raw]) -> Option<Raw> {
    Some(in_unit(monotonic(node), asked(args)?))
}

pub(super) fn system_time(_: &Node, args: &[Raw]) -> Option<Raw> {
    Some(in_unit(system(), asked(args)?))
}

pub(super) fn time_offset(node: &Node, args: &[Raw]) -> Option<Raw> {
    Some(in_unit(system() - monotonic(node), asked(args)?))
}

/// `{MegaSecs, Secs, MicroSecs}`.
fn in_three(microseconds: u64) -> Raw {
    let [mega, seconds, micro] = [
        microseconds / 1_000_000_000_000,
        microseconds / 1_000_000 % 1_000_000,
        microseconds % 1_000_000,
    ]
    .map(super::uint);
    call::tuple(&[&mega, &seconds, &micro])
}

pub(super) fn timestamp() -> Raw {
    in_three((system() / 1000) as u64)
}

/// The same, but each greater than the last.
pub(super) fn now(node: &Node, _: &[Raw]) -> Option<Raw> {
    let current = (system() / 1000) as u64;
    let later = |last: u64| current.max(last + 1);
    let last = node
        .kept()
        .last_now
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(later(last))
        })
        .unwrap_or_default();
    Some(in_three(later(last)))
}

fn three(numbers: [u32; 3]) -> Raw {
    let [a, b, c] = numbers.map(|number| super::uint(u64::from(number)));
    call::tuple(&[&a, &b, &c])
}

fn date_of<Z: TimeZone>(at: &DateTime<Z>) -> Raw {
    three([at.year().unsigned_abs(), at.month(), at.day()])
}

fn time_of<Z: TimeZone>(at: &DateTime<Z>) -> Raw {
    three([at.hour(), at.minute(), at.second()])
}

pub(super) fn date(_: &Node, _: &[Raw]) -> Option<Raw> {
    Some(date_of(&Local::now()))
}

pub(super) fn time(_: &Node, _: &[Raw]) -> Option<Raw> {
    Some(time_of(&Local::now()))
}

pub(super) fn localtime(_: &Node, _: &[Raw]) -> Option<Raw> {
    let now = Local::now();
    Some(call::tuple(&[&date_of(&now), &time_of(&now)]))
}

pub(super) fn universaltime(_: &Node, _: &[Raw]) -> Option<Raw> {
    let now = Utc::now();
    Some(call::tuple(&[&date_of(&now), &time_of(&now)]))
}
