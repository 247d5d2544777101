//! Meta: the free fields that a node announces beside its address.
//!
//! In Redis every value is text. The classic hash holds only that text; the
//! info key and the events add one letter for the type it had (`a` atom, `b`
//! binary, `s` string, `i` integer, `f` float), so that whoever knows the
//! letters gets the value back as it was given. The text of a float is the one
//! Erlang's `float_to_binary(F, [short])` writes: the shortest that reads back.
//!
//! A node has at most [`MAX_ENTRIES`] entries, and every key and value is
//! bounded, because each member keeps the meta of all the others in memory.

use crate::term::float_text;

/// The most entries one node has.
pub const MAX_ENTRIES: usize = 64;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 255;
/// The longest text of a value, in bytes.
pub const MAX_VALUE: usize = 4096;
/// The one key that is not free: the classic hash keeps the address there.
pub const RESERVED: &str = "ip";
/// The longest atom, in characters.
const MAX_ATOM: usize = 255;

/// One value with the type it was given in.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaValue {
    /// An atom, by its name (`a`).
    Atom(String),
    /// A binary (`b`).
    Binary(Vec<u8>),
    /// An Erlang string, a list of characters (`s`).
    String(String),
    /// An integer (`i`).
    Integer(i64),
    /// An integer that no `i64` holds, as its decimal digits (`i`). Made by
    /// [`MetaValue::integer`], which never uses it for a small one, so equal
    /// integers are equal values.
    BigInteger(String),
    /// A float, always finite in a [`Meta`] (`f`).
    Float(f64),
}

impl MetaValue {
    /// The text that stands for the value in Redis.
    pub fn text(&self) -> Vec<u8> {
        match self {
            MetaValue::Atom(text) | MetaValue::String(text) | MetaValue::BigInteger(text) => {
                text.clone().into_bytes()
            }
            MetaValue::Binary(bytes) => bytes.clone(),
            MetaValue::Integer(value) => value.to_string().into_bytes(),
            MetaValue::Float(value) => float_text(*value).into_bytes(),
        }
    }

    /// The letter that stands for the type in Redis.
    pub fn letter(&self) -> &'static str {
        match self {
            MetaValue::Atom(_) => "a",
            MetaValue::Binary(_) => "b",
            MetaValue::String(_) => "s",
            MetaValue::Integer(_) | MetaValue::BigInteger(_) => "i",
            MetaValue::Float(_) => "f",
        }
    }

    /// Reads back what [`letter`](Self::letter) and [`text`](Self::text) wrote.
    /// `None` for an unknown letter, a text that is not of that type, or one
    /// that is out of bounds: the reader then falls back to the bare text.
    pub fn from_typed(letter: &str, text: &[u8]) -> Option<MetaValue> {
        if text.len() > MAX_VALUE {
            return None;
        }
        if letter == "b" {
            return Some(MetaValue::Binary(text.to_vec()));
        }
        let text = std::str::from_utf8(text).ok()?;
        match letter {
            "a" if text.chars().count() <= MAX_ATOM => Some(MetaValue::Atom(text.to_owned())),
            "s" => Some(MetaValue::String(text.to_owned())),
            "i" => MetaValue::integer(text),
            "f" => MetaValue::float(text),
            _ => None,
        }
    }

    /// The integer that the whole text is (`-?[0-9]+`), however large.
    pub fn integer(text: &str) -> Option<MetaValue> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", text),
        };
        if !all_digits(digits) {
            return None;
        }
        Some(match text.parse() {
            Ok(value) => MetaValue::Integer(value),
            Err(_) => MetaValue::BigInteger(format!("{sign}{}", digits.trim_start_matches('0'))),
        })
    }

    /// The float that the whole text is, in Erlang's own syntax (`1.0`,
    /// `-2.5e-3`): a point with digits on both sides is needed. `None` as well
    /// when it is too large to be one.
    pub fn float(text: &str) -> Option<MetaValue> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (text, None),
        };
        let (whole, fraction) = mantissa.split_once('.')?;
        let exponent_fits =
            exponent.is_none_or(|e| all_digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
        if !all_digits(whole.strip_prefix('-').unwrap_or(whole))
            || !all_digits(fraction)
            || !exponent_fits
        {
            return None;
        }
        let value: f64 = text.parse().ok()?;
        value.is_finite().then_some(MetaValue::Float(value))
    }
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl From<&str> for MetaValue {
    fn from(text: &str) -> MetaValue {
        MetaValue::String(text.to_owned())
    }
}

impl From<String> for MetaValue {
    fn from(text: String) -> MetaValue {
        MetaValue::String(text)
    }
}

impl From<i64> for MetaValue {
    fn from(value: i64) -> MetaValue {
        MetaValue::Integer(value)
    }
}

impl From<i32> for MetaValue {
    fn from(value: i32) -> MetaValue {
        MetaValue::Integer(value.into())
    }
}

impl From<f64> for MetaValue {
    fn from(value: f64) -> MetaValue {
        MetaValue::Float(value)
    }
}

impl From<bool> for MetaValue {
    fn from(value: bool) -> MetaValue {
        MetaValue::Atom(value.to_string())
    }
}

/// Why a meta is refused. Nothing of it is taken then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMeta {
    /// More than 64 different keys.
    #[error("more than {MAX_ENTRIES} meta entries")]
    TooMany,
    /// A key without a character.
    #[error("a meta key is empty")]
    EmptyKey,
    /// A key of more than 255 bytes; holds its beginning.
    #[error("the meta key {0:?}... is longer than {MAX_KEY} bytes")]
    LongKey(String),
    /// The key is `ip`, where the address stands.
    #[error("the meta key `ip` is reserved: the node's address stands there")]
    Reserved,
    /// The text of the value is longer than 4 KiB; holds the key.
    #[error("the value of meta key {0:?} is longer than {MAX_VALUE} bytes")]
    LongValue(String),
    /// An atom of more than 255 characters; holds the key.
    #[error("the value of meta key {0:?} is longer than an atom can be")]
    LongAtom(String),
    /// A float that Erlang has no value for (infinite, not a number); holds the key.
    #[error("the value of meta key {0:?} is not a finite number")]
    NotFinite(String),
}

/// A whole meta: the entries in the order given, each key once, all in bounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meta(Vec<(String, MetaValue)>);

impl Meta {
    /// Checks the entries and keeps them. Of several with one key the first
    /// counts, as it does for `proplists:get_value/2`.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn new<K, V>(entries: impl IntoIterator<Item = (K, V)>) -> Result<Meta, BadMeta>
    where
        K: Into<String>,
        V: Into<MetaValue>,
    {
        let mut kept: Vec<(String, MetaValue)> = Vec::new();
        for (key, value) in entries {
            let (key, value) = (key.into(), value.into());
            check(&key, &value)?;
            if kept.iter().any(|(known, _)| *known == key) {
                continue;
            }
            if kept.len() == MAX_ENTRIES {
                return Err(BadMeta::TooMany);
            }
            kept.push((key, value));
        }
        Ok(Meta(kept))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&MetaValue> {
        self.iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }

    /// The entries in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &MetaValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many entries there are, at most 64.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Meta {
    type Item = (String, MetaValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

fn check(key: &str, value: &MetaValue) -> Result<(), BadMeta> {
    if key.is_empty() {
        return Err(BadMeta::EmptyKey);
    }
    if key.len() > MAX_KEY {
        return Err(BadMeta::LongKey(key.chars().take(32).collect()));
    }
    if key == RESERVED {
        return Err(BadMeta::Reserved);
    }
    let length = match value {
        MetaValue::Atom(name) if name.chars().count() > MAX_ATOM => {
            return Err(BadMeta::LongAtom(key.to_owned()));
        }
        MetaValue::Float(value) if !value.is_finite() => {
            return Err(BadMeta::NotFinite(key.to_owned()));
        }
        MetaValue::Atom(text) | MetaValue::String(text) | MetaValue::BigInteger(text) => text.len(),
        MetaValue::Binary(bytes) => bytes.len(),
        MetaValue::Integer(_) | MetaValue::Float(_) => 0,
    };
    if length > MAX_VALUE {
        return Err(BadMeta::LongValue(key.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(key: &str, value: impl Into<MetaValue>) -> Result<Meta, BadMeta> {
        Meta::new([(key, value)])
    }

    #[test]
    fn a_float_is_written_as_erlang_writes_the_short_form() {
        for (value, text) in [
            (1.0, "1.0"),
            (100_000.0, "1.0e5"),
            (1.0e23, "1.0e23"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(MetaValue::Float(value).text(), text.as_bytes());
        }
    }

    #[test]
    fn an_integer_beyond_64_bits_keeps_every_digit() {
        let text = "-170141183460469231731687303715884105729";
        let value = MetaValue::integer(text).unwrap();
        assert_eq!(value, MetaValue::BigInteger(text.to_owned()));
        assert_eq!(value.text(), text.as_bytes());
        assert_eq!(
            MetaValue::integer("9223372036854775807"),
            Some(MetaValue::Integer(i64::MAX))
        );
    }

    #[test]
    fn equal_integers_are_equal_values_whatever_their_zeros() {
        assert_eq!(MetaValue::integer("007"), Some(MetaValue::Integer(7)));
        assert_eq!(
            MetaValue::integer(&"0".repeat(40)),
            Some(MetaValue::Integer(0))
        );
        assert_eq!(
            MetaValue::integer("-00099999999999999999999"),
            MetaValue::integer("-99999999999999999999")
        );
    }

    #[test]
    fn what_is_no_whole_number_is_none() {
        for text in ["", "-", "+1", "1_000", "0x10", "1 ", "12a", "\u{661}"] {
            assert_eq!(MetaValue::integer(text), None, "{text:?}");
        }
        for text in [
            "", "1", "1.", ".5", "1e5", "inf", "nan", "1.0e", "1.0e999", "1.0f", "-.5", "1.2.3",
        ] {
            assert_eq!(MetaValue::float(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_typed_text_that_is_not_of_its_type_is_none() {
        assert_eq!(MetaValue::from_typed("i", b"1.5"), None);
        assert_eq!(MetaValue::from_typed("f", b"1"), None);
        assert_eq!(MetaValue::from_typed("s", b"\xff"), None);
        assert_eq!(MetaValue::from_typed("a", "x".repeat(256).as_bytes()), None);
        assert_eq!(MetaValue::from_typed("z", b"x"), None);
        assert_eq!(MetaValue::from_typed("b", &vec![0; MAX_VALUE + 1]), None);
    }

    #[test]
    fn of_two_entries_with_one_key_the_first_counts() {
        let meta = Meta::new([("weight", 1), ("zone", 2), ("weight", 3)]).unwrap();
        assert_eq!(meta.len(), 2);
        assert_eq!(meta.get("weight"), Some(&MetaValue::Integer(1)));
    }

    #[test]
    fn meta_out_of_bounds_is_refused_by_name() {
        assert_eq!(one("ip", "10.0.0.1"), Err(BadMeta::Reserved));
        assert_eq!(one("", 1), Err(BadMeta::EmptyKey));
        assert!(matches!(one(&"k".repeat(256), 1), Err(BadMeta::LongKey(_))));
        assert!(one(&"k".repeat(255), 1).is_ok());
        assert_eq!(
            one("k", "v".repeat(4097)),
            Err(BadMeta::LongValue("k".into()))
        );
        assert!(one("k", "v".repeat(4096)).is_ok());
        assert_eq!(one("k", f64::NAN), Err(BadMeta::NotFinite("k".into())));
        assert_eq!(
            one("k", MetaValue::Atom("v".repeat(256))),
            Err(BadMeta::LongAtom("k".into()))
        );
        assert!(Meta::new((0..64).map(|n| (n.to_string(), n))).is_ok());
        assert_eq!(
            Meta::new((0..65).map(|n| (n.to_string(), n))),
            Err(BadMeta::TooMany)
        );
    }

    proptest! {
        #[test]
        fn every_float_reads_back_from_its_text(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let Some(MetaValue::Float(back)) = MetaValue::float(&float_text(value)) else {
                return Err(TestCaseError::fail(float_text(value)));
            };
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }

        #[test]
        fn every_value_reads_back_from_its_letter_and_text(value in prop_oneof![
            any::<i64>().prop_map(MetaValue::Integer),
            "-?[1-9][0-9]{19,60}".prop_map(|text| MetaValue::integer(&text).unwrap()),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(MetaValue::Float),
            "\\PC{0,80}".prop_map(MetaValue::String),
            "\\PC{0,80}".prop_map(MetaValue::Atom),
            any::<Vec<u8>>().prop_map(MetaValue::Binary),
        ]) {
            prop_assert_eq!(MetaValue::from_typed(value.letter(), &value.text()), Some(value));
        }
    }
}
