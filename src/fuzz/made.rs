//! Terms out of arbitrary bytes, each byte a choice, so that a fuzzer can steer what is made. When the bytes are used up,
//! every further choice is the smallest one: making ends.

use crate::term::{
    self, Atom, BitBinary, InternalFun, Pid, Port, Reference, Term, atom, binary, export, float,
    improper, int, list, map, nil, tuple,
};
use num_bigint::BigInt;

/// Containers inside each other, at most.
const DEPTH: usize = 6;

/// Bytes as choices.
pub(super) struct Made<'b>(&'b [u8]);

impl<'b> Made<'b> {
    pub(super) fn of(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.numbers::<1>()[0]
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.numbers())
    }

    pub(super) fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.numbers())
    }

    /// So many bytes, or as many as there are.
    pub(super) fn bytes(&mut self, count: u8) -> &'b [u8] {
        let (bytes, rest) = self.0.split_at(self.0.len().min(usize::from(count)));
        self.0 = rest;
        bytes
    }

    fn numbers<const N: usize>(&mut self) -> [u8; N] {
        let mut numbers = [0; N];
        let found = self.bytes(N as u8);
        numbers[..found.len()].copy_from_slice(found);
        numbers
    }

    /// Any term at all, in the one form that decoding gives.
    pub(super) fn term(&mut self) -> Term {
        self.nested(DEPTH, true)
    }

    /// A term that Erlang's syntax can write: no pid, port, reference or local fun.
    pub(super) fn term_with_syntax(&mut self) -> Term {
        self.nested(DEPTH, false)
    }

    fn nested(&mut self, depth: usize, all: bool) -> Term {
        let kind = self.byte() % 20;
        if depth == 0 && (13..=17).contains(&kind) {
            return nil();
        }
        match kind {
            0 => nil(),
            1 => int(i64::from(self.byte() as i8)),
            2 => int(self.i64()),
            3 => {
                let count = self.byte();
                term::bigint(BigInt::from_signed_bytes_be(self.bytes(count)))
            }
            4 => {
                let value = f64::from_be_bytes(self.numbers());
                float(if value.is_finite() { value } else { 0.5 })
            }
            5 => atom(self.name(255)),
            6 => {
                let count = self.byte();
                binary(self.bytes(count))
            }
            7 => self.bits(),
            8 => term::string(&self.name(255)),
            9 => {
                let (module, function) = (self.name(20), self.name(20));
                export(&module, &function, self.byte())
            }
            10 if all => Term::from(self.pid()),
            11 if all => Term::from(Port {
                node: Atom::from(self.name(20)),
                id: self.i64() as u64,
                creation: self.u32(),
            }),
            12 if all => {
                let node = Atom::from(self.name(20));
                let words = 1 + self.byte() % 5;
                Term::from(Reference {
                    node,
                    id: (0..words).map(|_| self.u32()).collect(),
                    creation: self.u32(),
                })
            }
            13 => tuple(self.several(depth, all)),
            14 => list(self.several(depth, all)),
            15 => {
                let front = self.several(depth, all);
                let last = self.nested(depth - 1, all);
                improper(front, last)
            }
            16 => {
                // A key that holds a map, or is a zero with a sign, is one that `Term` cannot keep apart: such maps are
                // made of bytes only.
                let keys = self.byte() % 6;
                let pair = |made: &mut Self| {
                    let key = made.nested(0, all);
                    let zero = matches!(&key, Term::Float(float) if float.value == 0.0);
                    let key = if zero { nil() } else { key };
                    (key, made.nested(depth - 1, all))
                };
                map((0..keys).map(|_| pair(self)).collect::<Vec<_>>())
            }
            17 if all => {
                let (module, pid) = (Atom::from(self.name(20)), self.pid());
                Term::from(InternalFun::New {
                    module,
                    arity: self.byte(),
                    pid,
                    uniq: self.numbers(),
                    index: self.u32(),
                    old_index: self.u32() as i32,
                    old_uniq: self.u32() as i32,
                    free_vars: self.several(depth, all),
                })
            }
            _ => atom(["ok", "true", "error", "undefined"][usize::from(self.byte() % 4)]),
        }
    }

    fn several(&mut self, depth: usize, all: bool) -> Vec<Term> {
        let count = self.byte() % 7;
        (0..count).map(|_| self.nested(depth - 1, all)).collect()
    }

    /// At most so many characters.
    fn name(&mut self, most: u8) -> String {
        let count = self.byte().min(most);
        String::from_utf8_lossy(self.bytes(count)).into_owned()
    }

    fn pid(&mut self) -> Pid {
        let node = self.name(20);
        Pid::new(node, self.u32(), self.u32(), self.u32())
    }

    fn bits(&mut self) -> Term {
        let (count, used) = (self.byte(), 1 + self.byte() % 7);
        let mut bytes = self.bytes(count).to_vec();
        match bytes.last_mut() {
            Some(last) => *last >>= 8 - used,
            None => return binary([]),
        }
        Term::from(BitBinary::from((bytes, used)))
    }
}
