//! Settings as given. A value is looked for in the same places in the same
//! order, whichever setting of the table it is:
//!
//! 1. the flag,
//! 2. the variable `REDGRID_<FLAG>` (capitals, dashes as underscores),
//! 3. the heritage variable of the table (`REDIS_URL`, `DOMAIN`, ...),
//! 4. the TOML file given with `--config` (its keys are the flags' names),
//! 5. the default, which is the business of whoever asks.
//!
//! An empty variable counts as not set, as it is what `VAR=` in a unit file or
//! a compose file means. Only where emptiness is a value (the scope: `--domain`,
//! `--mesh-version`) it is one, so that `REDGRID_DOMAIN=` undoes a `DOMAIN=x`.
//! A setting that takes several values takes all of them from one place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{ConfigError, Origin, shown};
use super::table::{Kind, SETTINGS, setting};

/// The environment of a process, or what a test says it is.
pub type Environment = BTreeMap<String, OsString>;

/// The environment of this process. Variables whose *name* is no text are left
/// out: none of ours is such.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .collect()
}

/// The flags exactly as typed; no `Debug`, because the cookie is among them.
#[derive(Default, Clone)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl Flags {
    /// Takes a flag that was given once, if it was.
    pub fn one(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.0.insert(key, vec![value.to_owned()]);
        }
    }

    /// Takes a flag that can be repeated.
    pub fn many(&mut self, key: &'static str, values: &[String]) {
        if !values.is_empty() {
            self.0.insert(key, values.to_vec());
        }
    }

    /// Whether a flag was given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The same without one of them.
    pub(super) fn without(mut self, key: &str) -> Flags {
        self.0.remove(key);
        self
    }

    /// Takes a bare flag.
    pub fn switch(&mut self, key: &'static str, on: bool) {
        if on {
            self.0.insert(key, vec!["true".to_owned()]);
        }
    }
}

/// What one place says about a setting. No `Debug`: it may be the cookie.
pub(super) struct Found {
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
}

impl Found {
    /// The one value. A setting that takes one has exactly one here.
    pub(super) fn text(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }
}

/// All places together.
pub(super) struct Sources {
    flags: Flags,
    env: Environment,
    file: Option<(PathBuf, toml::Table)>,
}

impl Sources {
    /// Opens the configuration file too, when one is named.
    pub(super) fn new(flags: Flags, env: Environment) -> Result<Sources, ConfigError> {
        let mut sources = Sources {
            flags,
            env,
            file: None,
        };
        if let Some(path) = sources.find("config")? {
            let path = PathBuf::from(path.text());
            let table = read_file(&path).map_err(|reason| ConfigError::File {
                path: path.clone(),
                reason,
            })?;
            sources.file = Some((path, table));
        }
        Ok(sources)
    }

    /// What the first place that names the setting says.
    pub(super) fn find(&self, key: &'static str) -> Result<Option<Found>, ConfigError> {
        let setting = setting(key);
        if let Some(values) = self.flags.0.get(key) {
            let values = match setting.kind {
                Kind::List => values.iter().flat_map(|value| commas(value)).collect(),
                _ => values.clone(),
            };
            return Ok(Some(Found {
                values,
                origin: Origin::Flag(key),
            }));
        }
        let ours = Origin::Variable(variable(key));
        let heritage = setting.heritage.iter().map(|name| Origin::Heritage(name));
        for origin in std::iter::once(ours).chain(heritage) {
            if let Some(value) = self.variable(&origin.to_string())?
                && (!value.is_empty() || setting.may_be_empty)
            {
                let values = match setting.kind {
                    Kind::One | Kind::Switch | Kind::Texts => vec![value],
                    Kind::List => commas(&value),
                    Kind::Entries => entries(&value),
                };
                return Ok(Some(Found { values, origin }));
            }
        }
        let Some((path, table)) = &self.file else {
            return Ok(None);
        };
        let Some(value) = table.get(key) else {
            return Ok(None);
        };
        let origin = Origin::File(path.clone(), setting.key);
        match in_file(setting.kind, value) {
            Some(values) => Ok(Some(Found { values, origin })),
            None => Err(ConfigError::Value {
                origin,
                problem: format!("a {} cannot stand here", value.type_str()),
                mend: format!("write {}", expected(setting.kind)),
            }),
        }
    }

    /// What a variable that is no setting says, `HOME` for one.
    pub(super) fn variable(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.env.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value.to_owned())),
                None => Err(ConfigError::NotText(name.to_owned())),
            },
        }
    }

    /// Of two settings that exclude each other the one that counts: the one
    /// from the higher place.
    pub(super) fn either(
        &self,
        a: &'static str,
        b: &'static str,
    ) -> Result<Option<(&'static str, Found)>, ConfigError> {
        match (self.find(a)?, self.find(b)?) {
            (Some(first), Some(second)) => match rank(&first.origin).cmp(&rank(&second.origin)) {
                std::cmp::Ordering::Less => Ok(Some((a, first))),
                std::cmp::Ordering::Greater => Ok(Some((b, second))),
                std::cmp::Ordering::Equal => Err(ConfigError::Both(first.origin, second.origin)),
            },
            (Some(found), None) => Ok(Some((a, found))),
            (None, Some(found)) => Ok(Some((b, found))),
            (None, None) => Ok(None),
        }
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, key: &'static str) -> Result<bool, ConfigError> {
        let Some(found) = self.find(key)? else {
            return Ok(false);
        };
        match found.text().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(ConfigError::Value {
                problem: format!("{} is neither on nor off", shown(found.text())),
                mend: "write true or false".to_owned(),
                origin: found.origin,
            }),
        }
    }

    /// The configuration file, for judging who can read it.
    pub(super) fn file(&self) -> Option<(&PathBuf, &toml::Table)> {
        self.file.as_ref().map(|(path, table)| (path, table))
    }
}

fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Flag(_) => 0,
        Origin::Variable(_) => 1,
        Origin::Heritage(_) => 2,
        Origin::File(..) => 3,
    }
}

/// `net-ticktime` → `REDGRID_NET_TICKTIME`.
fn variable(key: &str) -> String {
    format!("REDGRID_{}", key.replace('-', "_").to_ascii_uppercase())
}

fn read_file(path: &std::path::Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{error}; check the path given with --config"))?;
    // The parser's own message quotes the line, and the line may hold the cookie.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        format!(
            "line {line} is not TOML: {}",
            error.message().lines().next().unwrap_or_default()
        )
    })?;
    for key in table.keys() {
        if key == "config" || !SETTINGS.iter().any(|setting| setting.key == key) {
            return Err(format!(
                "there is no setting {}; the keys are the long flags of `redgrid node` without their dashes",
                shown(key)
            ));
        }
    }
    Ok(table)
}

fn in_file(kind: Kind, value: &toml::Value) -> Option<Vec<String>> {
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    match (kind, value) {
        (Kind::Switch, toml::Value::Boolean(on)) => Some(vec![on.to_string()]),
        (Kind::Switch, _) => None,
        (Kind::One, value) => scalar(value).map(|text| vec![text]),
        (Kind::List, toml::Value::String(text)) => Some(commas(text)),
        (Kind::Entries | Kind::Texts, toml::Value::String(text)) => Some(vec![text.clone()]),
        (Kind::List | Kind::Entries | Kind::Texts, toml::Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        (Kind::List | Kind::Entries | Kind::Texts, _) => None,
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::One => "a string or a number",
        Kind::Switch => "true or false",
        Kind::List | Kind::Texts => "an array of strings",
        Kind::Entries => "an array of strings: [\"KEY=VALUE\", ...]",
    }
}

fn commas(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// Splits `a=1,b:=[1,2],c=x` at the commas that separate entries: inside the
/// term after a `:=` those in brackets and quotes belong to the term.
fn entries(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end = entry_end(rest);
        parts.push(rest[..end].trim().to_owned());
        match rest.get(end + 1..) {
            Some(after) => rest = after,
            None => return parts,
        }
    }
}

/// Where the first entry ends: at a comma or at the end.
fn entry_end(text: &str) -> usize {
    let first_comma = text.find(',').unwrap_or(text.len());
    let Some(term) = text
        .find('=')
        .filter(|at| *at < first_comma && text[..*at].ends_with(':'))
    else {
        return first_comma;
    };
    let mut depth = 0usize;
    let mut quote = None;
    let mut chars = text.char_indices().skip_while(|(at, _)| *at <= term);
    let mut before = '=';
    while let Some((at, c)) = chars.next() {
        let arrow = (before, c) == ('=', '>');
        before = c;
        match (quote, c) {
            // `\"` inside quotes and `$,` outside stand for themselves.
            (Some(_), '\\') | (None, '$') => {
                chars.next();
            }
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{' | '(' | '<') => depth += 1,
            (None, ']' | '}' | ')' | '>') if !arrow => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => return at,
            (None, _) => {}
        }
    }
    text.len()
}
