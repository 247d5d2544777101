//! Printing terms.
//!
//! Strings, binaries and atoms follow the rules of `io_lib` with its default range of printable characters,
//! latin1; maps are printed in the order of their keys. Nothing recurses: a stack holds what is still open.

use std::fmt::{self, Write};

use super::super::order::compare_keys;
use super::super::{Atom, BitBinary, InternalFun, Term};
use super::is_plain_atom;

/// Prints a term on one line, as `io:format("~0tp", [Term])` does.
///
/// Pids are `<node.id.serial>`, references `#Ref<node.word.word.word>`, ports `#Port<node.id>`, each with the name
/// of the node they belong to; local funs are `#Fun<module.index.uniq>`.
pub fn print(term: &Term) -> String {
    Printed(term).to_string()
}

/// Integers up to this width are worth printing only to be cut off.
const DEAR_BITS: u64 = 1 << 13;

/// [`print()`], ending in `...` when it would be longer than `max_chars` characters. For logs: the cost is bounded
/// by what is printed, but for one look at each map and list on the way.
pub fn print_short(term: &Term, max_chars: usize) -> String {
    let mut out = Short {
        text: String::new(),
        left: max_chars,
    };
    // The only error is that it is full.
    match write_term(&mut out, term, DEAR_BITS.max(4 * max_chars as u64)) {
        Ok(()) => out.text,
        Err(fmt::Error) => out.text + "...",
    }
}

/// A term that prints as [`print()`] does; with a precision (`{:.200}`) as [`print_short`] does.
#[derive(Clone, Copy)]
pub struct Printed<'t>(pub &'t Term);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.precision() {
            Some(max_chars) => f.write_str(&print_short(self.0, max_chars)),
            None => write_term(f, self.0, u64::MAX),
        }
    }
}

impl fmt::Debug for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Takes so many characters and then no more.
struct Short {
    text: String,
    left: usize,
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(c);
        }
        Ok(())
    }
}

/// What is still to be printed of the terms around the current one.
enum Open<'t> {
    /// Elements, whether one was printed already, a tail, and what closes.
    Elements(
        std::slice::Iter<'t, Term>,
        bool,
        Option<&'t Term>,
        &'static str,
    ),
    Pairs(std::vec::IntoIter<(&'t Term, &'t Term)>, bool),
    Value(&'t Term),
}

/// Integers wider than `max_bits` are only described: turning them into decimals is dear.
fn write_term(out: &mut dyn Write, term: &Term, max_bits: u64) -> fmt::Result {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut next = Some(term);
    loop {
        if let Some(term) = next.take() {
            match term {
                Term::Tuple(tuple) => {
                    out.write_str("{")?;
                    open.push(Open::Elements(tuple.elements.iter(), false, None, "}"));
                }
                Term::List(list) => match list.elements.iter().map(super::super::byte).collect() {
                    Some(bytes) => write_bytes(out, bytes)?,
                    None => {
                        out.write_str("[")?;
                        open.push(Open::Elements(list.elements.iter(), false, None, "]"));
                    }
                },
                Term::ImproperList(list) => {
                    out.write_str("[")?;
                    let tail = Some(&*list.last);
                    open.push(Open::Elements(list.elements.iter(), false, tail, "]"));
                }
                Term::Map(map) => {
                    out.write_str("#{")?;
                    let mut pairs: Vec<_> = map.map.iter().collect();
                    pairs.sort_by(|(a, _), (b, _)| compare_keys(a, b));
                    open.push(Open::Pairs(pairs.into_iter(), false));
                }
                Term::BigInteger(n) if n.value.bits() > max_bits => {
                    write!(out, "<integer of {} bits>", n.value.bits())?;
                }
                leaf => write_leaf(out, leaf)?,
            }
        }
        let Some(top) = open.last_mut() else {
            return Ok(());
        };
        match top {
            Open::Elements(elements, printed, tail, close) => {
                if let Some(element) = elements.next() {
                    if std::mem::replace(printed, true) {
                        out.write_str(",")?;
                    }
                    next = Some(element);
                } else if let Some(tail) = tail.take() {
                    out.write_str("|")?;
                    next = Some(tail);
                } else {
                    out.write_str(close)?;
                    open.pop();
                }
            }
            Open::Pairs(pairs, printed) => match pairs.next() {
                Some((key, value)) => {
                    if std::mem::replace(printed, true) {
                        out.write_str(",")?;
                    }
                    next = Some(key);
                    open.push(Open::Value(value));
                }
                None => {
                    out.write_str("}")?;
                    open.pop();
                }
            },
            Open::Value(value) => {
                out.write_str(" => ")?;
                next = Some(*value);
                open.pop();
            }
        }
    }
}

fn write_leaf(out: &mut dyn Write, term: &Term) -> fmt::Result {
    match term {
        Term::Atom(atom) => write_atom(out, &atom.name),
        Term::FixInteger(n) => write!(out, "{}", n.value),
        Term::BigInteger(n) => write!(out, "{}", n.value),
        Term::Float(float) => out.write_str(&float_text(float.value)),
        Term::Binary(binary) => write_binary(out, &binary.bytes),
        Term::BitBinary(bits) => write_bits(out, bits),
        Term::ByteList(list) => write_bytes(out, list.bytes.clone()),
        Term::Pid(pid) => {
            write_owner(out, "<", &pid.node)?;
            write!(out, ".{}.{}>", pid.id, pid.serial)
        }
        Term::Port(port) => {
            write_owner(out, "#Port<", &port.node)?;
            write!(out, ".{}>", port.id)
        }
        Term::Reference(reference) => {
            write_owner(out, "#Ref<", &reference.node)?;
            for word in &reference.id {
                write!(out, ".{word}")?;
            }
            out.write_str(">")
        }
        Term::ExternalFun(fun) => {
            write_owner(out, "fun ", &fun.module)?;
            write_owner(out, ":", &fun.function)?;
            write!(out, "/{}", fun.arity)
        }
        Term::InternalFun(fun) => match &**fun {
            InternalFun::New {
                module,
                index,
                old_uniq,
                ..
            } => {
                write_owner(out, "#Fun<", module)?;
                write!(out, ".{index}.{old_uniq}>")
            }
            InternalFun::Old {
                module,
                index,
                uniq,
                ..
            } => {
                write_owner(out, "#Fun<", module)?;
                write!(out, ".{index}.{uniq}>")
            }
        },
        // Containers are opened by the caller.
        Term::List(_) | Term::ImproperList(_) | Term::Tuple(_) | Term::Map(_) => Ok(()),
    }
}

fn write_owner(out: &mut dyn Write, before: &str, atom: &Atom) -> fmt::Result {
    out.write_str(before)?;
    write_atom(out, &atom.name)
}

fn write_atom(out: &mut dyn Write, name: &str) -> fmt::Result {
    if is_plain_atom(name) {
        return out.write_str(name);
    }
    out.write_str("'")?;
    for c in name.chars() {
        write_char(out, c, '\'')?;
    }
    out.write_str("'")
}

/// One character between quotes.
fn write_char(out: &mut dyn Write, c: char, quote: char) -> fmt::Result {
    match c {
        '\\' => out.write_str("\\\\"),
        '\u{8}' => out.write_str("\\b"),
        '\t' => out.write_str("\\t"),
        '\n' => out.write_str("\\n"),
        '\u{b}' => out.write_str("\\v"),
        '\u{c}' => out.write_str("\\f"),
        '\r' => out.write_str("\\r"),
        '\u{1b}' => out.write_str("\\e"),
        '\u{7f}' => out.write_str("\\d"),
        '\0'..='\u{1f}' | '\u{80}'..='\u{9f}' => write!(out, "\\{:03o}", u32::from(c)),
        c if c == quote => write!(out, "\\{c}"),
        c => out.write_char(c),
    }
}

/// The characters of a printable string: latin1 without the controls that have no letter of their own.
fn is_printable(c: char) -> bool {
    matches!(c, '\u{8}'..='\r' | '\u{1b}' | ' '..='~' | '\u{a0}'..='\u{ff}')
}

/// Whether a list of these bytes is printed as a string.
pub(in super::super) fn is_string(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().map(char::from).all(is_printable)
}

fn write_string(out: &mut dyn Write, chars: impl Iterator<Item = char>) -> fmt::Result {
    out.write_str("\"")?;
    for c in chars {
        write_char(out, c, '"')?;
    }
    out.write_str("\"")
}

/// A list of bytes: a string when all are printable.
fn write_bytes(out: &mut dyn Write, bytes: Vec<u8>) -> fmt::Result {
    if is_string(&bytes) {
        return write_string(out, bytes.into_iter().map(char::from));
    }
    out.write_str("[")?;
    write_numbers(out, &bytes)?;
    out.write_str("]")
}

fn write_numbers(out: &mut dyn Write, bytes: &[u8]) -> fmt::Result {
    for (n, byte) in bytes.iter().enumerate() {
        if n > 0 {
            out.write_str(",")?;
        }
        write!(out, "{byte}")?;
    }
    Ok(())
}

/// A binary is text when it is printable UTF-8, or else no UTF-8 at all but printable latin1.
fn write_binary(out: &mut dyn Write, bytes: &[u8]) -> fmt::Result {
    let latin1 = || bytes.iter().copied().map(char::from);
    out.write_str("<<")?;
    match std::str::from_utf8(bytes) {
        Ok("") => {}
        Ok(text) if text.chars().all(is_printable) => {
            write_string(out, text.chars())?;
            if !text.is_ascii() {
                out.write_str("/utf8")?;
            }
        }
        Err(_) if latin1().all(is_printable) => write_string(out, latin1())?,
        _ => write_numbers(out, bytes)?,
    }
    out.write_str(">>")
}

fn write_bits(out: &mut dyn Write, bits: &BitBinary) -> fmt::Result {
    let used = bits.tail_bits_size;
    match bits.bytes.split_last() {
        Some((last, whole)) if (1..8).contains(&used) => {
            out.write_str("<<")?;
            write_numbers(out, whole)?;
            if !whole.is_empty() {
                out.write_str(",")?;
            }
            // What stands above the bits that are used says nothing.
            write!(out, "{}:{used}>>", last & (0xff >> (8 - used)))
        }
        _ => write_binary(out, &bits.bytes),
    }
}

/// The shortest text that reads back as the same float, as `float_to_binary(F, [short])` writes it: always with
/// a point, and with an exponent where that is shorter or the number is no longer exact to the unit (from 2^53).
pub fn float_text(value: f64) -> String {
    if !value.is_finite() {
        // No Erlang float; never reached by a term from a wire.
        return value.to_string();
    }
    // The digits are those of Ryu, as in OTP; Rust's own printing rounds ties the other way.
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{part}");
    let significant = all.trim_start_matches('0');
    let leading = all.len() - significant.len();
    // Of `digits`, the first stands before the point of the scientific form.
    let (digits, exponent) = match significant.trim_end_matches('0') {
        "" => ("0", 0),
        digits => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            (digits, exponent + whole.len() as i32 - 1 - leading as i32)
        }
    };

    let fraction = match &digits[1..] {
        "" => "0",
        more => more,
    };
    let scientific = format!("{}.{fraction}e{exponent}", &digits[..1]);
    let decimal = match usize::try_from(exponent) {
        Err(_) => {
            let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
            format!("0.{zeros}{digits}")
        }
        Ok(exponent) if digits.len() > exponent + 1 => {
            let (whole, part) = digits.split_at(exponent + 1);
            format!("{whole}.{part}")
        }
        Ok(exponent) => {
            let zeros = "0".repeat(exponent + 1 - digits.len());
            format!("{digits}{zeros}.0")
        }
    };
    let inexact = value.abs() >= (1u64 << 53) as f64;
    let shortest = if inexact || scientific.len() < decimal.len() {
        scientific
    } else {
        decimal
    };
    let sign = if value.is_sign_negative() { "-" } else { "" };
    format!("{sign}{shortest}")
}
