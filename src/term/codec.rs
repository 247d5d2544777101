//! The external term format: bytes checked once, then read in place, decoded or passed on.
//!
//! [`Raw::check`] is the door for everything that comes from a wire; what it refuses is told in `check.rs`.
//! [`Raw`] is what the rest of the program holds: checked, cheap to clone, read through a [`View`] without
//! decoding. [`Raw::decode`] makes the owned [`Term`] for those who want a value.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::atoms::{AtomTable, write_out};
use super::check::{scan, u32_at};
use super::decode;
use super::view::View;
use super::write;
use super::{Term, TermError};

/// First byte of a term that stands on its own, outside a distribution frame.
pub const VERSION: u8 = 131;
/// Second byte of a compressed term, after [`VERSION`].
const COMPRESSED: u8 = 80;

/// What a term that is written has room for at first: most need no more.
const ROOM: usize = 128;

/// Terms up to this size are cheaper copied than kept together with the frame that they came in.
const COPY_UP_TO: usize = 16 * 1024;

/// How much a term from a wire may ask of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most containers inside each other. Checking and viewing need a few bytes per level; default 10,000.
    pub max_depth: usize,
    /// Most containers inside each other in a term that is decoded; default [`MAX_DECODE_DEPTH`].
    pub max_decode_depth: usize,
    /// Most bytes a compressed term may unfold to; default 64 MiB.
    pub max_inflated: usize,
    /// Most bytes a term may have when the atoms that stand in its frame's header are written out; default 512 MiB.
    pub max_written_out: usize,
}

/// Default of [`Limits::max_decode_depth`].
///
/// Dropping, cloning, comparing, hashing and printing an owned [`Term`] recurses (all of it is derived in `eetf`),
/// in a debug build with up to 4 KiB a level. This depth leaves half of a worker thread's 2 MiB to the caller.
pub const MAX_DECODE_DEPTH: usize = 256;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_depth: 10_000,
            max_decode_depth: MAX_DECODE_DEPTH,
            max_inflated: 64 << 20,
            max_written_out: 512 << 20,
        }
    }
}

/// Exactly one well-formed term in external format, without the leading 131.
///
/// Equality and hash are those of the bytes with all atoms written out: the same pid, reference or atom written by the
/// same node is equal, but a value has more than one form (see [`View`]); compare decoded terms where that matters.
#[derive(Clone)]
pub struct Raw {
    bytes: Bytes,
    /// The atoms of the frame that brought it, when some of its own are entries there.
    atoms: Option<Arc<AtomTable>>,
    /// Whether a record of OTP 29 may be in it, which older releases cannot read.
    records: bool,
}

impl Raw {
    /// Takes bytes that must be exactly one term.
    ///
    /// # Errors
    /// What is wrong with the bytes, and at which offset.
    pub fn check(bytes: Bytes, limits: &Limits) -> Result<Raw, TermError> {
        let found = scan(&bytes, limits.max_depth, None)?;
        if found.len != bytes.len() {
            let extra = bytes.len() - found.len;
            return Err(TermError::Trailing { extra });
        }
        Ok(Raw::plain(bytes, found.records))
    }

    /// Takes the term at the start of `bytes` and says how many bytes it has; what follows is not looked at.
    ///
    /// # Errors
    /// What is wrong with the bytes, and at which offset.
    pub fn check_prefix(bytes: &Bytes, limits: &Limits) -> Result<(Raw, usize), TermError> {
        let found = scan(bytes, limits.max_depth, None)?;
        let raw = Raw::plain(bytes.slice(..found.len), found.records);
        Ok((raw, found.len))
    }

    /// [`Raw::check_prefix`] for a frame whose header has these atoms.
    pub(crate) fn check_framed(
        bytes: &Bytes,
        limits: &Limits,
        atoms: &Arc<AtomTable>,
    ) -> Result<(Raw, usize), TermError> {
        let found = scan(bytes, limits.max_depth, Some(atoms))?;
        if found.written_out > limits.max_written_out {
            let limit = limits.max_written_out;
            return Err(TermError::TooLarge { limit });
        }
        let raw = Raw {
            bytes: bytes.slice(..found.len),
            atoms: found.entries.then(|| atoms.clone()),
            records: found.records,
        };
        Ok((raw, found.len))
    }

    fn plain(bytes: Bytes, records: bool) -> Raw {
        Raw {
            bytes,
            atoms: None,
            records,
        }
    }

    /// Whether a record may be in it; what was put together of parts does not know.
    pub(crate) fn may_have_records(&self) -> bool {
        self.records
    }

    /// Takes what `term_to_binary` made: 131, then one term, which may be compressed.
    ///
    /// # Errors
    /// A wrong first byte, a compressed term that unfolds beyond [`Limits::max_inflated`] or not to the length
    /// it announces, and whatever [`Raw::check`] finds.
    pub fn from_versioned(bytes: &Bytes, limits: &Limits) -> Result<Raw, TermError> {
        match bytes.first() {
            Some(&VERSION) => {}
            found => {
                let found = found.copied();
                return Err(TermError::Version { found });
            }
        }
        if bytes.get(1) == Some(&COMPRESSED) {
            return Raw::check(inflate(bytes, limits.max_inflated)?, limits);
        }
        Raw::check(bytes.slice(1..), limits)
    }

    /// Writes a term.
    ///
    /// Terms that were decoded or parsed, or made by the functions of this module from fitting values, always
    /// have an encoding. A part that Erlang has no value for (a name over 255 characters as an atom, NaN, a
    /// reference of six words) is written as the atom `badarg`; [`Raw::try_encode`] refuses it instead.
    pub fn encode(term: &Term) -> Raw {
        let mut buf = Vec::with_capacity(ROOM);
        write::put_term(&mut buf, term);
        Raw::plain(buf.into(), false)
    }

    /// Writes a term that somebody else made.
    ///
    /// # Errors
    /// [`TermError::NotErlang`] when a part of it is no Erlang value.
    pub fn try_encode(term: &Term) -> Result<Raw, TermError> {
        let mut buf = Vec::with_capacity(ROOM);
        match write::put_term_noting(&mut buf, term) {
            Some(what) => Err(TermError::NotErlang { what }),
            None => Ok(Raw::plain(buf.into(), false)),
        }
    }

    /// Makes a term out of what the functions of [`write`](mod@super::write) wrote.
    ///
    /// It is checked like any other bytes: a wrong count in our own code is an error here, not a broken
    /// connection at the peer.
    ///
    /// # Errors
    /// What is wrong with the bytes, and at which offset.
    pub fn written(buf: BytesMut) -> Result<Raw, TermError> {
        Raw::check(buf.freeze(), &Limits::default())
    }

    /// A term that this program has just written: it is not checked again, but in tests.
    pub(crate) fn own(buf: BytesMut) -> Raw {
        let bytes = buf.freeze();
        // An envelope may be a little deeper than what it was made around.
        let limits = Limits {
            max_depth: usize::MAX,
            ..Limits::default()
        };
        debug_assert!(
            Raw::check(bytes.clone(), &limits).is_ok(),
            "not one well-formed term: {bytes:?}"
        );
        Raw::plain(bytes, false)
    }

    /// The same term in memory of its own, so that a small part does not keep a large message alive.
    pub(crate) fn compact(&self) -> Raw {
        let bytes = match &self.atoms {
            None => Bytes::copy_from_slice(&self.bytes),
            Some(_) => self.to_bytes(),
        };
        Raw::plain(bytes, self.records)
    }

    /// The same to be kept for a while: what is small is copied out of the memory of the frame that brought it.
    pub(crate) fn kept(self) -> Raw {
        if self.bytes.len() <= COPY_UP_TO {
            self.compact()
        } else {
            self
        }
    }

    /// The term, to be read in place.
    pub fn view(&self) -> View<'_> {
        View::over(&self.bytes, self.atoms.as_deref())
    }

    /// The bytes as they came, and the atoms of the header that they refer to.
    pub(crate) fn framed(&self) -> (&Bytes, Option<&Arc<AtomTable>>) {
        (&self.bytes, self.atoms.as_ref())
    }

    /// About how many bytes it has: exactly so many as it came with.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The term as an owned value.
    ///
    /// A non-empty list whose elements are all integers 0..=255 is a `ByteList` whatever its encoding was, every
    /// other list a `List`; integers that fit 32 bits are `FixInteger`. So equal values are equal terms.
    ///
    /// # Errors
    /// [`TermError::NotRepresentable`] for what [`Term`] cannot hold: records, maps whose keys it cannot tell
    /// apart; [`TermError::TooDeep`] beyond [`MAX_DECODE_DEPTH`]. The `Raw` can still be passed on.
    pub fn decode(&self) -> Result<Term, TermError> {
        self.decode_within(&Limits::default())
    }

    /// [`Raw::decode`] with a depth of the caller's choice.
    ///
    /// # Errors
    /// As [`Raw::decode`].
    pub fn decode_within(&self, limits: &Limits) -> Result<Term, TermError> {
        decode::decode(self.view(), limits.max_decode_depth)
    }

    /// The bytes, without a leading 131. They are copied only where the term came with some of its atoms in the header
    /// of its frame.
    pub fn to_bytes(&self) -> Bytes {
        match &self.atoms {
            None => self.bytes.clone(),
            Some(atoms) => {
                let mut buf = BytesMut::with_capacity(self.bytes.len() + 64);
                write_out(&mut buf, &self.bytes, atoms);
                buf.freeze()
            }
        }
    }

    /// The bytes as `term_to_binary` writes them: with a leading 131.
    pub fn to_versioned(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(self.bytes.len() + 1);
        buf.put_u8(VERSION);
        write::put_raw(&mut buf, self);
        buf.freeze()
    }

    /// A part of this term as a term of its own, sharing its memory.
    ///
    /// A view of something else is copied: the elements of a string have no bytes of their own.
    pub fn sub(&self, view: View<'_>) -> Raw {
        let part = view.framed();
        let start = self.bytes.as_ptr() as usize;
        let at = part.as_ptr() as usize;
        if at >= start && at + part.len() <= start + self.bytes.len() {
            Raw {
                bytes: self.bytes.slice_ref(part),
                atoms: self.atoms.clone(),
                records: self.records,
            }
        } else {
            Raw::plain(Bytes::copy_from_slice(&view.to_bytes()), true)
        }
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Raw) -> bool {
        self.view() == other.view()
    }
}

impl Eq for Raw {}

impl Hash for Raw {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.view().hash(state);
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl From<&Term> for Raw {
    fn from(term: &Term) -> Raw {
        Raw::encode(term)
    }
}

/// `131 80 Length:32 zlib`: the length is a promise that must come true, and no more than the limit is unfolded.
fn inflate(bytes: &[u8], limit: usize) -> Result<Bytes, TermError> {
    let announced = u32_at(bytes, 2).ok_or(TermError::Truncated { at: bytes.len() })? as usize;
    if announced > limit {
        return Err(TermError::TooLarge { limit });
    }
    let packed = bytes.get(6..).unwrap_or_default();
    let mut inflated = Vec::new();
    let mut zlib = flate2::read::ZlibDecoder::new(packed).take(announced as u64 + 1);
    match zlib.read_to_end(&mut inflated) {
        Ok(n) if n == announced => Ok(inflated.into()),
        _ => Err(TermError::Malformed {
            what: "compressed term that does not unfold to the length it announces",
            at: 6,
        }),
    }
}
