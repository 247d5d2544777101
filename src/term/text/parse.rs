//! Reading terms.
//!
//! ```text
//! term    = atom | integer | float | $char | string | binary | tuple | list | map | "fun" atom ":" atom "/" arity
//! atom    = small letter {letter | digit | "_" | "@"} | "'" characters "'"
//! integer = [sign] digits | [sign] base "#" digits             digits may be parted by "_"
//! string  = {'"' characters '"'}+                              neighbours are one string
//! binary  = "<<" [segment {"," segment}] ">>"                  segment = (string | integer) [":" bits] ["/utf8"]
//! list    = "[" [term {"," term} ["|" term]] "]"
//! map     = "#{" [term "=>" term {"," term "=>" term}] "}"
//! ```
//!
//! White space and `%` comments may stand between any two of these; a final `.` is optional. Containers may be
//! [`MAX_DEPTH`] deep, which also bounds the recursion of this parser.

use std::fmt;

use num_bigint::BigInt;

use super::super::{
    self as term, BitBinary, MAX_DECODE_DEPTH, Term, holds_map, is_atom_name, write,
};
use super::{continues_atom, is_reserved, starts_atom};

/// Most containers inside each other.
pub const MAX_DEPTH: usize = MAX_DECODE_DEPTH;
/// Longest integer, in digits: reading one takes time that grows with the square.
const MAX_DIGITS: usize = 100_000;
/// Widest segment of a binary, in bits.
const MAX_SEGMENT_BITS: u32 = 4096;

/// Why text is no term, and where. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text.
    pub line: usize,
    /// Column in that line.
    pub column: usize,
    /// What is wrong, and the mend where there is one.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, ", self.line)?;
        }
        write!(f, "column {}: {}", self.column, self.what)
    }
}

impl std::error::Error for ParseError {}

/// Reads one term.
///
/// # Errors
/// Where the text stops being a term, and why.
pub fn parse(text: &str) -> Result<Term, ParseError> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let found = parser.term()?;
    parser.space();
    parser.eat(".");
    parser.space();
    match parser.peek() {
        None => Ok(found),
        Some(c) => Err(parser.error(format!("one term is expected, and {c:?} comes after it"))),
    }
}

type Parsed<T> = Result<T, ParseError>;

struct Parser<'t> {
    text: &'t str,
    /// Byte offset of the next character.
    at: usize,
    /// Containers around it.
    depth: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Takes `token` when it comes next.
    fn eat(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn take_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn space(&mut self) {
        loop {
            self.take_while(|c| c.is_whitespace() || c.is_control());
            if self.peek() != Some('%') {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn error(&self, what: impl Into<String>) -> ParseError {
        self.error_at(self.at, what)
    }

    fn error_at(&self, at: usize, what: impl Into<String>) -> ParseError {
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        ParseError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
        }
    }

    /// What comes next instead of what was expected.
    fn unexpected(&self, expected: &str) -> ParseError {
        match self.peek() {
            Some(c) => self.error(format!("{expected} is expected here, not {c:?}")),
            None => self.error(format!("the text ends where {expected} is expected")),
        }
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        self.space();
        if self.eat(token) {
            return Ok(());
        }
        Err(self.unexpected(&format!("{token:?}")))
    }

    fn term(&mut self) -> Parsed<Term> {
        self.space();
        let start = self.at;
        let Some(c) = self.peek() else {
            return Err(self.unexpected("a term"));
        };
        match c {
            '0'..='9' | '-' | '+' | '$' => self.number(),
            '"' => self.string().map(|text| term::string(&text)),
            '\'' => Ok(term::atom(self.atom()?)),
            '{' => {
                self.next();
                Ok(term::tuple(self.inside(|p| p.terms("}"))?))
            }
            '[' => {
                self.next();
                self.inside(Parser::list)
            }
            '<' if self.eat("<<") => self.binary(),
            '<' => Err(self.error(
                "a pid has no text that can be read back: name the process by its registered name",
            )),
            '#' if self.eat("#{") => self.inside(Parser::map),
            '#' => Err(self.error(
                "records, references, ports and funs cannot be read: a record is written as its tuple",
            )),
            c if starts_atom(c) => {
                let word = self.word();
                match word {
                    "fun" => self.fun(),
                    // No keyword before OTP 27: what an older node prints must be read.
                    "maybe" | "else" => Ok(term::atom(word)),
                    _ if is_reserved(word) => {
                        let what = format!("{word} is a reserved word: as an atom it is '{word}'");
                        Err(self.error_at(start, what))
                    }
                    _ if !is_atom_name(word) => {
                        Err(self.error_at(start, "an atom has at most 255 characters"))
                    }
                    _ => Ok(term::atom(word)),
                }
            }
            c if c.is_alphabetic() || c == '_' => {
                let word = self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '@');
                let what = format!(
                    "{word} would be a variable: an atom is '{word}', a string \"{word}\""
                );
                Err(self.error_at(start, what))
            }
            _ => Err(self.unexpected("a term")),
        }
    }

    /// Reads the inside of a container.
    fn inside<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format!("terms are nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let read = read(self)?;
        self.depth -= 1;
        Ok(read)
    }

    /// Terms up to what closes them, which is taken too.
    fn terms(&mut self, close: &str) -> Parsed<Vec<Term>> {
        let mut terms = Vec::new();
        self.space();
        if self.eat(close) {
            return Ok(terms);
        }
        loop {
            terms.push(self.term()?);
            self.space();
            if self.eat(close) {
                return Ok(terms);
            }
            if !self.eat(",") {
                return Err(self.unexpected(&format!("\",\" or {close:?}")));
            }
        }
    }

    fn list(&mut self) -> Parsed<Term> {
        let mut elements = Vec::new();
        self.space();
        if self.eat("]") {
            return Ok(term::nil());
        }
        loop {
            elements.push(self.term()?);
            self.space();
            if self.eat("]") {
                return Ok(term::list(elements));
            }
            if self.eat("|") {
                let tail = self.term()?;
                self.expect("]")?;
                return Ok(term::improper(elements, tail));
            }
            if !self.eat(",") {
                return Err(self.unexpected("\",\", \"|\" or \"]\""));
            }
        }
    }

    fn map(&mut self) -> Parsed<Term> {
        let mut pairs = Vec::new();
        self.space();
        if self.eat("}") {
            return Ok(term::map(pairs));
        }
        loop {
            self.space();
            let start = self.at;
            let key = self.term()?;
            if holds_map(&key) {
                return Err(self.error_at(start, "a map cannot be part of a key here"));
            }
            self.expect("=>")?;
            pairs.push((key, self.term()?));
            self.space();
            if self.eat("}") {
                return Ok(term::map(pairs));
            }
            if !self.eat(",") {
                return Err(self.unexpected("\",\" or \"}\""));
            }
        }
    }

    /// `fun module:function/arity`, after the word `fun`.
    fn fun(&mut self) -> Parsed<Term> {
        self.space();
        if self.peek() == Some('(') {
            return Err(self.error("only a fun of the form fun module:function/arity can be sent"));
        }
        let module = self.atom()?;
        self.expect(":")?;
        let function = self.atom()?;
        self.expect("/")?;
        self.space();
        let arity = self.take_while(|c| c.is_ascii_digit()).parse();
        match arity {
            Ok(arity) => Ok(term::export(&module, &function, arity)),
            Err(_) => Err(self.unexpected("an arity from 0 to 255")),
        }
    }

    fn word(&mut self) -> &'t str {
        self.take_while(continues_atom)
    }

    /// The name of a plain or quoted atom.
    fn atom(&mut self) -> Parsed<String> {
        self.space();
        let start = self.at;
        let name = match self.peek() {
            Some('\'') => self.quoted('\'')?,
            Some(c) if starts_atom(c) => match self.word() {
                word if is_reserved(word) => {
                    let what = format!("{word} is a reserved word: as an atom it is '{word}'");
                    return Err(self.error_at(start, what));
                }
                word => word.to_owned(),
            },
            _ => return Err(self.unexpected("an atom")),
        };
        if !write::is_atom_name(&name) {
            return Err(self.error_at(start, "an atom has at most 255 characters"));
        }
        Ok(name)
    }

    /// A string and those that follow it directly.
    fn string(&mut self) -> Parsed<String> {
        let mut text = String::new();
        while self.peek() == Some('"') {
            text += &self.quoted('"')?;
            self.space();
        }
        Ok(text)
    }

    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let start = self.at;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some(c) if c == quote => return Ok(text),
                Some('\\') => text.extend(self.escape()?),
                Some(c) => text.push(c),
                None => return Err(self.error_at(start, format!("this {quote} is never closed"))),
            }
        }
    }

    /// The character that an escape stands for, after its backslash; none for one that ends a line.
    fn escape(&mut self) -> Parsed<Option<char>> {
        let start = self.at;
        let bad = |p: &Self| p.error_at(start, "this escape stands for no character");
        let code = match self.next() {
            Some('b') => 8,
            Some('t') => 9,
            Some('n') => 10,
            Some('v') => 11,
            Some('f') => 12,
            Some('r') => 13,
            Some('e') => 27,
            Some('s') => 32,
            Some('d') => 127,
            Some('^') => match self.next() {
                Some(c @ '@'..='_' | c @ 'a'..='z') => u32::from(c) & 31,
                _ => return Err(bad(self)),
            },
            Some('x') if self.eat("{") => {
                let digits = self.take_while(|c| c.is_ascii_hexdigit());
                let code = u32::from_str_radix(digits, 16);
                match (code, self.eat("}")) {
                    (Ok(code), true) => code,
                    _ => return Err(bad(self)),
                }
            }
            Some('x') => {
                let digits = self.rest().get(..2).unwrap_or_default();
                match u32::from_str_radix(digits, 16) {
                    Ok(code) if digits.bytes().all(|c| c.is_ascii_hexdigit()) => {
                        self.at += 2;
                        code
                    }
                    _ => return Err(bad(self)),
                }
            }
            Some(c @ '0'..='7') => {
                let mut code = u32::from(c) - u32::from('0');
                for _ in 0..2 {
                    match self.peek().and_then(|c| c.to_digit(8)) {
                        Some(digit) => code = 8 * code + digit,
                        None => break,
                    }
                    self.next();
                }
                code
            }
            Some('\n') => return Ok(None),
            Some(c) => u32::from(c),
            None => return Err(self.error("the text ends in a backslash")),
        };
        char::from_u32(code).map(Some).ok_or_else(|| bad(self))
    }

    fn number(&mut self) -> Parsed<Term> {
        let mut negative = false;
        if let Some(sign @ ('-' | '+')) = self.peek() {
            self.next();
            negative = sign == '-';
            self.space();
        }
        if self.eat("$") {
            let c = match self.next() {
                Some('\\') => self.escape()?,
                c => c,
            };
            let Some(c) = c else {
                return Err(self.unexpected("a character"));
            };
            let code = i64::from(u32::from(c));
            return Ok(term::int(if negative { -code } else { code }));
        }
        let start = self.at;
        let whole = self.digits(10)?;
        if self.eat("#") {
            let base = whole.parse().unwrap_or(0);
            if !(2..=36).contains(&base) {
                return Err(self.error_at(start, "a base is a number from 2 to 36"));
            }
            let digits = self.digits(base)?;
            return self.integer(start, negative, &digits, base);
        }
        let fraction = self.rest().strip_prefix('.');
        if fraction.is_some_and(|f| f.starts_with(|c: char| c.is_ascii_digit())) {
            self.next();
            return self.float(start, negative, &whole);
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            let what = format!("a float needs a point: {whole}.0{}", self.word());
            return Err(self.error_at(start, what));
        }
        self.integer(start, negative, &whole, 10)
    }

    /// Digits, which may be parted by single `_`; at least one.
    fn digits(&mut self, base: u32) -> Parsed<String> {
        let mut digits = String::new();
        loop {
            let more = self.take_while(|c| c.is_digit(base));
            if more.is_empty() {
                return Err(self.unexpected("a digit"));
            }
            digits += more;
            let parted = self.rest().strip_prefix('_');
            if !parted.is_some_and(|d| d.starts_with(|c: char| c.is_digit(base))) {
                return Ok(digits);
            }
            self.next();
        }
    }

    fn integer(&self, start: usize, negative: bool, digits: &str, base: u32) -> Parsed<Term> {
        if digits.len() > MAX_DIGITS {
            let what = format!("an integer of more than {MAX_DIGITS} digits");
            return Err(self.error_at(start, what));
        }
        match BigInt::parse_bytes(digits.as_bytes(), base) {
            Some(value) => Ok(term::bigint(if negative { -value } else { value })),
            None => Err(self.error_at(start, "no integer")),
        }
    }

    /// After the point.
    fn float(&mut self, start: usize, negative: bool, whole: &str) -> Parsed<Term> {
        let mut text = format!("{whole}.{}", self.digits(10)?);
        if self.eat("e") || self.eat("E") {
            text.push('e');
            if let Some(sign @ ('-' | '+')) = self.peek() {
                self.next();
                text.push(sign);
            }
            text += &self.digits(10)?;
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                Ok(term::float(if negative { -value } else { value }))
            }
            _ => Err(self.error_at(start, "a float must be below 1.8e308")),
        }
    }

    /// After `<<`.
    fn binary(&mut self) -> Parsed<Term> {
        let mut bits = Bits::default();
        self.space();
        if self.eat(">>") {
            return Ok(bits.into_term());
        }
        loop {
            self.segment(&mut bits)?;
            self.space();
            if self.eat(">>") {
                return Ok(bits.into_term());
            }
            if !self.eat(",") {
                return Err(self.unexpected("\",\" or \">>\""));
            }
        }
    }

    fn segment(&mut self, bits: &mut Bits) -> Parsed<()> {
        self.space();
        let start = self.at;
        match self.peek() {
            Some('"') => {
                let text = self.string()?;
                if self.utf8()? {
                    text.bytes().for_each(|byte| bits.push(byte, 8));
                    return Ok(());
                }
                for c in text.chars() {
                    let Ok(byte) = u8::try_from(c) else {
                        let what = format!("{c:?} is no byte: <<\"...\"/utf8>> makes text of it");
                        return Err(self.error_at(start, what));
                    };
                    bits.push(byte, 8);
                }
                Ok(())
            }
            Some('0'..='9' | '-' | '+' | '$') => {
                let value = match self.number()? {
                    Term::FixInteger(n) => BigInt::from(n.value),
                    Term::BigInteger(n) => n.value,
                    _ => {
                        let what = "a float cannot be part of a binary here";
                        return Err(self.error_at(start, what));
                    }
                };
                self.space();
                if self.eat(":") {
                    self.space();
                    return self.sized(bits, &value);
                }
                if self.utf8()? {
                    let code = u32::try_from(&value).ok().and_then(char::from_u32);
                    let Some(c) = code else {
                        return Err(self.error_at(start, "this number is no character"));
                    };
                    let mut utf8 = [0; 4];
                    let utf8 = c.encode_utf8(&mut utf8).bytes();
                    utf8.for_each(|byte| bits.push(byte, 8));
                    return Ok(());
                }
                if value < BigInt::from(-128) || value > BigInt::from(255) {
                    let what = "this number is no byte: its width in bits is given after a colon, <<1000:16>>";
                    return Err(self.error_at(start, what));
                }
                push_number(bits, &value, 8);
                Ok(())
            }
            _ => Err(self.unexpected("a string or a number")),
        }
    }

    /// The width of a number in bits, after its colon.
    fn sized(&mut self, bits: &mut Bits, value: &BigInt) -> Parsed<()> {
        let start = self.at;
        match self.digits(10)?.parse() {
            Ok(width) if width <= MAX_SEGMENT_BITS => {
                push_number(bits, value, width);
                Ok(())
            }
            _ => {
                let what = format!("a number in a binary has at most {MAX_SEGMENT_BITS} bits");
                Err(self.error_at(start, what))
            }
        }
    }

    fn utf8(&mut self) -> Parsed<bool> {
        self.space();
        if !self.eat("/") {
            return Ok(false);
        }
        let start = self.at;
        match self.take_while(|c| c.is_ascii_alphanumeric()) {
            "utf8" => Ok(true),
            _ => Err(self.error_at(start, "of the types of a segment only /utf8 is known here")),
        }
    }
}

/// The lowest `width` bits, highest first; negative numbers in two's complement, as Erlang does.
fn push_number(bits: &mut Bits, value: &BigInt, width: u32) {
    let bytes = value.to_signed_bytes_le();
    let beyond = if value.sign() == num_bigint::Sign::Minus {
        0xff
    } else {
        0
    };
    for n in (0..width.div_ceil(8)).rev() {
        let byte = bytes.get(n as usize).copied().unwrap_or(beyond);
        let used = (width - 8 * n).min(8) as u8;
        bits.push(byte, used);
    }
}

/// A bitstring that grows.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits used of the last byte, 1..=7; 0 when all are.
    used: u8,
}

impl Bits {
    /// Adds the lowest `width` bits of a byte, 1..=8.
    fn push(&mut self, byte: u8, width: u8) {
        // Left-aligned in the upper half of 16 bits, then moved behind the bits that are there.
        let fresh = (u16::from(byte) << (16 - width)) >> self.used;
        let [high, low] = fresh.to_be_bytes();
        match self.bytes.last_mut() {
            Some(last) if self.used > 0 => *last |= high,
            _ => self.bytes.push(high),
        }
        self.used += width;
        if self.used > 8 {
            self.bytes.push(low);
        }
        self.used %= 8;
    }

    fn into_term(mut self) -> Term {
        match (self.used, self.bytes.last_mut()) {
            (used @ 1.., Some(last)) => {
                // Put together highest first; kept lowest first.
                *last >>= 8 - used;
                Term::from(BitBinary::from((self.bytes, used)))
            }
            _ => term::binary(self.bytes),
        }
    }
}
