//! Terms over several lines, for people at a terminal. What fits is on one line; what does not is broken after its commas,
//! its parts one under the other.
//!
//! ```text
//! #{name => "a node",
//!   peers =>
//!       [one@host,two@host,
//!        three@host]}
//! ```

use super::super::{Term, byte, order::compare_keys};
use super::print::{print, print_short};

/// Lines are not made narrower than this, however deep a term is.
const NARROWEST: usize = 20;

/// Prints a term in lines of at most `width` characters where it has places to be broken at; the same text as
/// [`print()`](super::print()) but for the white space. A term that fits stays on one line.
///
/// Recurses, no deeper than dropping the same term does.
pub fn print_wrapped(term: &Term, width: usize) -> String {
    let mut out = String::new();
    write(&mut out, term, 0, 0, width.max(NARROWEST));
    out
}

/// `indent`: where the term begins; `after`: how much follows on its last line.
fn write(out: &mut String, term: &Term, indent: usize, after: usize, width: usize) {
    let room = width.saturating_sub(indent + after).max(NARROWEST);
    let short = print_short(term, room);
    // Cut off is what ends in dots that are not the term's own.
    if short.chars().count() <= room {
        return out.push_str(&short);
    }
    match term {
        Term::Tuple(tuple) => {
            out.push('{');
            elements(out, &tuple.elements, indent + 1, after + 1, width);
            out.push('}');
        }
        Term::List(list) if list.elements.iter().any(|element| byte(element).is_none()) => {
            out.push('[');
            elements(out, &list.elements, indent + 1, after + 1, width);
            out.push(']');
        }
        Term::ImproperList(list) => {
            out.push('[');
            elements(out, &list.elements, indent + 1, 0, width);
            line(out, indent);
            out.push('|');
            write(out, &list.last, indent + 1, after + 1, width);
            out.push(']');
        }
        Term::Map(map) => {
            out.push_str("#{");
            let mut pairs: Vec<_> = map.map.iter().collect();
            pairs.sort_by(|(a, _), (b, _)| compare_keys(a, b));
            let last = pairs.len().saturating_sub(1);
            for (n, (key, value)) in pairs.into_iter().enumerate() {
                let after = if n == last { after + 1 } else { 1 };
                if n > 0 {
                    out.push(',');
                    line(out, indent + 2);
                }
                pair(out, key, value, indent + 2, after, width);
            }
            out.push('}');
        }
        leaf => out.push_str(&print(leaf)),
    }
}

/// The value stands behind its key where it fits, else under it.
fn pair(out: &mut String, key: &Term, value: &Term, indent: usize, after: usize, width: usize) {
    write(out, key, indent, 3, width);
    out.push_str(" =>");
    let used = out.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    let room = width.saturating_sub(used + after);
    let short = print_short(value, room);
    if short.chars().count() <= room {
        out.push(' ');
        return out.push_str(&short);
    }
    line(out, indent + 4);
    write(out, value, indent + 4, after, width);
}

/// As many on a line as fit.
fn elements(out: &mut String, elements: &[Term], indent: usize, after: usize, width: usize) {
    let mut used = indent;
    let last = elements.len().saturating_sub(1);
    for (n, element) in elements.iter().enumerate() {
        let after = if n == last { after } else { 1 };
        if n > 0 {
            out.push(',');
            used += 1;
            let room = width.saturating_sub(used + after);
            if print_short(element, room).chars().count() > room {
                line(out, indent);
                used = indent;
            }
        }
        write(out, element, used, after, width);
        used = out.rsplit('\n').next().unwrap_or("").chars().count();
    }
}

fn line(out: &mut String, indent: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
}
