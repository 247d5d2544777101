//! Which peer may reach what: the rules behind `--allow` and `--deny`, how they are read and what they decide. Pure.
//!
//! ```text
//! rules  item, item, ...
//! item   [PEER=]WHAT           what follows a PEER= is for that peer up to the next one; before the first, for all
//! PEER   billing@10.0.0.5      billing@*  *@admin.example  *
//! WHAT   module:function/2     module:function  module:*  Elixir.Stock.*:*     functions
//!        name                  worker_*                                        registered processes
//!        *                                                                     everything
//! ```
//!
//! A `*` stands for any text, also none. Three rules decide, in this order:
//!
//! 1. what OTP needs of every visible node ([`ALWAYS`]) is never kept from anybody, as whole clusters would wait for it;
//! 2. what is denied is denied, whatever else is allowed;
//! 3. where nothing is allowed explicitly everything else is allowed; else only what is.
//!
//! A process without a name cannot be named here. It is reached by its pid: by every peer that may reach anything at all.

use super::NodeName;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// The names of processes that are never kept from a peer. What `rex` runs is a function, and decided as one.
const ALWAYS: [&str; 3] = ["net_kernel", "global_name_server", "rex"];

/// At most so many lines a second tell of what was refused to one peer.
const LINES: u32 = 5;

/// What [`LINES`] counts in.
const WINDOW: Duration = Duration::from_secs(1);

/// What each peer may reach: see the [example](Rules::allow). Without any rule: all that there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {mend}")]
pub struct BadRule {
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub mend: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    peer: Pattern,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Everything,
    Function {
        module: Pattern,
        function: Pattern,
        arity: Option<u8>,
    },
    Process(Pattern),
}

/// A text in which `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(String);

impl Rules {
    /// Allows something: from then on what is not allowed is denied, for every peer.
    ///
    /// ```
    /// let rules = redgrid::dist::Rules::default()
    ///     .allow("redgrid:nodes, billing@*=stock:count/1,orders")?
    ///     .deny("*@10.9.0.7=*")?;
    /// # Ok::<(), redgrid::dist::BadRule>(())
    /// ```
    ///
    /// # Errors
    /// The text is no list of rules.
    pub fn allow(mut self, rules: &str) -> Result<Self, BadRule> {
        self.allow.extend(parse(rules)?);
        Ok(self)
    }

    /// Denies something, whatever else is allowed.
    ///
    /// # Errors
    /// The text is no list of rules, or names what cannot be denied.
    pub fn deny(mut self, rules: &str) -> Result<Self, BadRule> {
        let rules = parse(rules)?;
        for rule in &rules {
            // Nobody should believe to have kept somebody from these.
            if let What::Process(name) = &rule.what
                && ALWAYS.contains(&name.0.as_str())
            {
                return Err(BadRule {
                    problem: format!("{} cannot be denied: other nodes would wait for it", name.0),
                    mend: "deny functions, or keep the node away with the cookie",
                });
            }
        }
        self.deny.extend(rules);
        Ok(self)
    }

    /// What they say about one peer.
    pub(crate) fn of(&self, peer: &NodeName) -> Access {
        let of_peer = |rules: &[Rule]| -> Vec<Rule> {
            let rules = rules.iter();
            let rules = rules.filter(|rule| rule.peer.matches(peer.as_str()));
            rules.cloned().collect()
        };
        Access {
            allow: (!self.allow.is_empty()).then(|| of_peer(&self.allow)),
            deny: of_peer(&self.deny),
        }
    }
}

/// What one peer may reach.
#[derive(Debug)]
pub(crate) struct Access {
    /// `None`: nothing was allowed explicitly, to anybody.
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
}

/// What a peer reaches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Function {
        module: &'a str,
        function: &'a str,
        arity: usize,
    },
    /// A process with a registered name.
    Name(&'a str),
    /// A process without one.
    Unnamed,
}

/// Why something is kept from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Denied(String),
    NotAllowed,
}

impl Access {
    /// Whether all that there is may be reached: then nothing need be looked at.
    pub(crate) fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    pub(crate) fn decide(&self, target: Target<'_>) -> Result<(), Refusal> {
        if matches!(target, Target::Name(name) if ALWAYS.contains(&name)) {
            return Ok(());
        }
        if let Some(rule) = self.deny.iter().find(|rule| rule.what.covers(target)) {
            return Err(Refusal::Denied(rule.to_string()));
        }
        let allowed = match (&self.allow, target) {
            (None, _) => true,
            (Some(rules), Target::Unnamed) => !rules.is_empty(),
            (Some(rules), _) => rules.iter().any(|rule| rule.what.covers(target)),
        };
        match allowed {
            true => Ok(()),
            false => Err(Refusal::NotAllowed),
        }
    }
}

impl What {
    fn covers(&self, target: Target<'_>) -> bool {
        match (self, target) {
            (Self::Everything, _) => true,
            (
                Self::Function {
                    module: of,
                    function: named,
                    arity: with,
                },
                Target::Function {
                    module,
                    function,
                    arity,
                },
            ) => {
                with.is_none_or(|with| usize::from(with) == arity)
                    && of.matches(module)
                    && named.matches(function)
            }
            (Self::Process(pattern), Target::Name(name)) => pattern.matches(name),
            _ => false,
        }
    }
}

impl Pattern {
    /// Without recursion, and going back to the last `*` only: what comes from a peer must not cost more than its length
    /// times that of the pattern.
    fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        let mut last: Option<(usize, usize)> = None;
        while t < text.len() {
            if pattern.get(p) == Some(&b'*') {
                last = Some((p, t));
                p += 1;
            } else if pattern.get(p) == Some(&text[t]) {
                p += 1;
                t += 1;
            } else if let Some((star, at)) = last {
                last = Some((star, at + 1));
                p = star + 1;
                t = at + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.peer.0)?;
        match &self.what {
            What::Everything => f.write_str("*"),
            What::Process(name) => f.write_str(&name.0),
            What::Function {
                module,
                function,
                arity,
            } => {
                write!(f, "{}:{}", module.0, function.0)?;
                match arity {
                    Some(arity) => write!(f, "/{arity}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(rule) => write!(f, "deny {rule}"),
            Self::NotAllowed => f.write_str("no allow names it"),
        }
    }
}

/// Names are told as they are, but a peer must not break out of its line in the log nor fill it.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function {
                module,
                function,
                arity,
            } => write!(f, "{}:{}/{arity}", shown(module), shown(function)),
            Self::Name(name) => f.write_str(&shown(name)),
            Self::Unnamed => f.write_str("a process without a name"),
        }
    }
}

/// Quoted where it is more than a word, and cut.
fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let cut: String = name.chars().take(LONGEST).collect();
    let more = if cut.len() < name.len() { "..." } else { "" };
    let plain = |c: char| c.is_ascii_graphic() && !"'\"\\".contains(c);
    match !cut.is_empty() && cut.chars().all(plain) {
        true => cut + more,
        false => format!("'{}'{more}", cut.escape_debug()),
    }
}

fn parse(text: &str) -> Result<Vec<Rule>, BadRule> {
    let mut peer = Pattern("*".into());
    let mut rules = Vec::new();
    for item in text.split(',') {
        let item = item.trim();
        let what = match item.split_once('=') {
            // `erlang:=:=/2` has no peer.
            Some((before, _)) if before.contains(':') && !before.contains('@') => item,
            Some((before, what)) => {
                peer = peer_pattern(before.trim())?;
                what.trim()
            }
            None => item,
        };
        rules.push(Rule {
            peer: peer.clone(),
            what: what_of(what)?,
        });
    }
    Ok(rules)
}

fn peer_pattern(text: &str) -> Result<Pattern, BadRule> {
    // So that a forgotten host does not make a rule that is for nobody.
    let named = text
        .split_once('@')
        .is_some_and(|(short, host)| !short.is_empty() && !host.is_empty() && !host.contains('@'));
    let foreign = |c: char| c.is_control() || c.is_whitespace() || "\"'\\/,;{}()<>".contains(c);
    match (named || text == "*") && !text.contains(foreign) {
        true => Ok(Pattern(text.into())),
        false => Err(BadRule {
            problem: format!("{} names no peer", quoted(text)),
            mend: "write NAME@HOST=WHAT, in which * stands for any text, like billing@*=stock:*",
        }),
    }
}

fn what_of(text: &str) -> Result<What, BadRule> {
    let bad = |problem: String| BadRule {
        problem,
        mend: "write MODULE:FUNCTION/ARITY, MODULE:FUNCTION, MODULE:*, the name of a process, or * for everything, \
               without quotes",
    };
    // Quotes belong to the notation of Erlang, not to a name: a rule with them would be for nobody.
    let foreign = |c: char| c.is_control() || c.is_whitespace() || "\"'".contains(c);
    if text.is_empty() || text.contains(foreign) {
        return Err(bad(format!(
            "{} names neither a function nor a process",
            quoted(text)
        )));
    }
    if text == "*" {
        return Ok(What::Everything);
    }
    let Some((module, function)) = text.split_once(':') else {
        // With a slash a module was forgotten.
        return match text.contains('/') {
            true => Err(bad(format!("{} has no module", quoted(text)))),
            false => Ok(What::Process(Pattern(text.into()))),
        };
    };
    // The operators `/` and `/=` are functions as well.
    let (function, arity) = match function.rsplit_once('/') {
        Some((name, arity)) if !name.is_empty() => (name, Some(arity)),
        _ => (function, None),
    };
    let arity = match arity {
        None | Some("*") => None,
        Some(digits) => {
            let number = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.then(|| digits.parse().ok()).flatten();
            Some(number.ok_or_else(|| bad(format!("{} is no arity", quoted(digits))))?)
        }
    };
    if module.is_empty() || function.is_empty() {
        return Err(bad(format!("{} names no function", quoted(text))));
    }
    Ok(What::Function {
        module: Pattern(module.into()),
        function: Pattern(function.into()),
        arity,
    })
}

fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{cut:?}{more}")
}

/// How often it is told what was refused to a peer: [`LINES`] times a second at most; the rest is counted.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Audit {
    /// Something was refused. `Some`: there may be a line about it, which tells how many had none before it.
    pub(crate) fn refused(&mut self, now: Instant) -> Option<u64> {
        if self.over(now) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines < LINES {
            self.lines += 1;
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }

    /// What is still to be told when nothing more is refused.
    pub(crate) fn rest(&mut self, now: Instant) -> Option<u64> {
        let due = self.left_out > 0 && self.over(now);
        due.then(|| self.end())
    }

    /// The same at the end of the connection, however early.
    pub(crate) fn end(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    fn over(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.duration_since(since) >= WINDOW)
    }
}

#[cfg(test)]
mod tests;
