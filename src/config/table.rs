//! The table of all settings: what they are called, everywhere, and how many
//! values they take. A new flag is a new line here, and one in `cli`; a test
//! there keeps the two alike.

/// How many values a setting takes, and how they are written in one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value.
    One,
    /// On or off: a bare flag; a word like `true` in the environment; a boolean
    /// in the file.
    Switch,
    /// Several values, separated by commas.
    List,
    /// Several `KEY=VALUE`: the flag is repeated, the environment separates by
    /// commas (those inside an Erlang term do not count).
    Entries,
    /// Several texts that are read whole, commas and all: the flag is repeated,
    /// the variable is one of them.
    Texts,
}

/// One line of the table.
#[derive(Debug)]
pub struct Setting {
    /// The flag without its dashes; also the key in the file.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Variables that other programs use for the same thing.
    pub heritage: &'static [&'static str],
    /// Whether an empty variable is a value.
    pub may_be_empty: bool,
    /// Whether there is a flag for it. `ERL_EPMD_ADDRESS` has none: it is
    /// honoured as `epmd` itself does.
    pub has_flag: bool,
}

const fn one(key: &'static str, heritage: &'static [&'static str]) -> Setting {
    Setting {
        key,
        kind: Kind::One,
        heritage,
        may_be_empty: false,
        has_flag: true,
    }
}

const fn many(key: &'static str, kind: Kind) -> Setting {
    Setting {
        key,
        kind,
        heritage: &[],
        may_be_empty: false,
        has_flag: true,
    }
}

const fn scope(key: &'static str, heritage: &'static [&'static str]) -> Setting {
    Setting {
        key,
        kind: Kind::One,
        heritage,
        may_be_empty: true,
        has_flag: true,
    }
}

const fn switch(key: &'static str) -> Setting {
    Setting {
        key,
        kind: Kind::Switch,
        heritage: &[],
        may_be_empty: false,
        has_flag: true,
    }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    one("config", &[]),
    one("name", &[]),
    one("sname", &[]),
    one("cookie", &[]),
    one("cookie-file", &[]),
    one("redis", &["REDIS_URL"]),
    scope("domain", &["DOMAIN"]),
    scope("mesh-version", &["VERSION"]),
    switch("any-version"),
    one("ip", &["LOCAL_IP"]),
    many("meta", Kind::Entries),
    one("listen", &[]),
    one("epmd", &[]),
    one("epmd-port", &["ERL_EPMD_PORT"]),
    Setting {
        key: "epmd-address",
        kind: Kind::List,
        heritage: &["ERL_EPMD_ADDRESS"],
        may_be_empty: false,
        has_flag: false,
    },
    one("connect", &[]),
    many("peers", Kind::List),
    switch("hidden"),
    one("net-ticktime", &[]),
    one("tls-cert", &[]),
    one("tls-key", &[]),
    one("tls-ca", &[]),
    one("tls-verify", &[]),
    many("allow", Kind::Texts),
    many("deny", Kind::Texts),
    one("max-frame", &[]),
    one("max-depth", &[]),
    one("max-members", &[]),
    switch("echo"),
    one("timeout", &[]),
    one("log-level", &["LOGLEVEL"]),
    one("log-format", &[]),
];

/// The line of a setting.
pub(super) fn setting(key: &'static str) -> &'static Setting {
    match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => setting,
        // Only this crate's own sources can get here, at the first start.
        None => unreachable!("the setting {key} is missing in the table"),
    }
}
