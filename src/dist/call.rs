//! The envelopes a call arrives in, and what goes back. Pure.
//!
//! | Caller | what arrives | what goes back |
//! |---|---|---|
//! | `gen_server:call` | `{'$gen_call', {Pid, Tag}, Request}` | `{Tag, Reply}`, to the alias in `Tag` when there is one |
//! | `gen_server:cast` | `{'$gen_cast', Request}` | nothing |
//! | `rpc:call`, `erpc:call` | spawn request `erpc:execute_call(ResRef, M, F, A)` | spawn reply, then the exit reason `{ResRef, return, Value}` |
//! | `rpc:cast`, `erpc:cast` | spawn request `erpc:execute_cast(M, F, A)` | spawn reply |
//! | `spawn/4` | spawn request `M:F(A...)` | spawn reply, then the exit of the process |
//! | `rpc:block_call` | gen call to `rex` | the value or `{badrpc, {'EXIT', Reason}}` |
//!
//! The tag is copied back as it came, byte for byte: OTP's tags are of many shapes.

use super::message::{Body, Message};
use crate::term::{
    Raw, View,
    write::{put_atom, put_int, put_list, put_nil, put_raw, put_string, put_tuple},
};
use bytes::BytesMut;

/// What a function or a process made of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Reply(Raw),
    Error(Raw),
    Exit(Raw),
    Throw(Raw),
    Undef,
}

/// A message to a process, by the conventions of `gen`.
#[derive(Debug, PartialEq)]
pub(crate) enum Envelope {
    Call { from: From, request: Raw },
    Cast(Raw),
    Bare(Raw),
}

/// Who waits for the answer of a gen call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct From {
    pub(crate) pid: Raw,
    pub(crate) tag: Raw,
    /// The alias inside the tag: an answer to it vanishes when the caller has given up.
    pub(crate) alias: Option<Raw>,
    /// The reference of the caller's monitor, when the tag tells it: the caller can be told of an end by it, and takes
    /// it back when it waits no more.
    pub(crate) monitor: Option<Raw>,
}

/// Opens the envelope of a message.
pub(crate) fn open(message: Raw) -> Envelope {
    if let Some([tag, from, request]) = message.view().tuple_n::<3>()
        && tag.is_atom("$gen_call")
        && let Some(from) = From::read(&message, from)
    {
        return Envelope::Call {
            from,
            request: message.sub(request),
        };
    }
    if let Some([tag, request]) = message.view().tuple_n::<2>()
        && tag.is_atom("$gen_cast")
    {
        return Envelope::Cast(message.sub(request));
    }
    Envelope::Bare(message)
}

impl From {
    /// `{Pid, Tag}` inside a message.
    pub(crate) fn read(message: &Raw, from: View<'_>) -> Option<Self> {
        let [pid, tag] = from.tuple_n::<2>()?;
        if !pid.is_pid() {
            return None;
        }
        Some(Self {
            pid: message.sub(pid),
            tag: message.sub(tag),
            alias: alias_of(tag).map(|alias| message.sub(alias)),
            monitor: monitor_of(tag).map(|monitor| message.sub(monitor)),
        })
    }

    /// The caller of `{Pid, {call, ...}}`, as a C node asks `rex`: the answer is `{rex, Value}`.
    pub(crate) fn bare(pid: Raw, tag: &str) -> Self {
        Self {
            pid,
            tag: atom(tag),
            alias: None,
            monitor: None,
        }
    }

    /// The same in memory of its own, to be kept while the answer is awaited.
    pub(crate) fn compact(&self) -> Self {
        Self {
            pid: self.pid.compact(),
            tag: self.tag.compact(),
            alias: self.alias.as_ref().map(Raw::compact),
            monitor: self.monitor.as_ref().map(Raw::compact),
        }
    }

    /// The message that answers the call.
    pub(crate) fn reply(&self, own_pid: Raw, value: &Raw) -> Message<Body> {
        let message = Body::pair(&self.tag, value);
        match &self.alias {
            Some(alias) => Message::AliasSend {
                from: own_pid,
                alias: alias.clone(),
                owner: Some(self.pid.clone()),
                message,
            },
            None => Message::Send {
                to: self.pid.clone(),
                message,
            },
        }
    }
}

/// A tag is an alias when it is `[alias | Ref]`, and carries one when it is `[[alias | Ref] | _]`.
fn alias_of(tag: View<'_>) -> Option<View<'_>> {
    alias(tag).or_else(|| alias(first(tag)?))
}

/// The alias of a call is the monitor's reference, but for `gen_server:multi_call`, whose tags are
/// `[[alias | Alias] | Monitor]`. Before there were aliases the tag was the reference itself.
fn monitor_of(tag: View<'_>) -> Option<View<'_>> {
    alias(tag)
        .or_else(|| {
            let (head, monitor) = tag.cons()?;
            alias(head)?;
            Some(monitor)
        })
        .or(Some(tag))
        .filter(|monitor| monitor.is_reference())
}

fn alias(term: View<'_>) -> Option<View<'_>> {
    let (head, tail) = term.cons()?;
    (head.is_atom("alias") && tail.is_reference()).then_some(tail)
}

/// The first element of any list.
fn first(list: View<'_>) -> Option<View<'_>> {
    match list.improper() {
        Some((mut items, _)) => items.next(),
        None => list.list()?.next(),
    }
}

/// What a spawn request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    pub(crate) module: String,
    pub(crate) function: String,
    pub(crate) args: Vec<Raw>,
    /// How the caller wants to hear of the result.
    pub(crate) style: Style,
}

/// How the result of a spawned function travels: in the exit reason.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Style {
    /// `erpc:execute_call`: `{ResRef, return, Value}` and its relatives.
    Erpc { result: Raw },
    /// A process of its own: `normal`, or what it failed with.
    Process,
}

/// Reads the function and arguments of a spawn request; `None` when the arguments are no proper list.
pub(crate) fn task(mfa: &Raw, args: &Raw) -> Option<Task> {
    let [module, function, _arity] = mfa.view().tuple_n::<3>()?;
    let list: Vec<Raw> = args.view().list()?.map(|arg| args.sub(arg)).collect();
    match (module.as_atom()?, function.as_atom()?, &list[..]) {
        ("erpc", "execute_call", [result, m, f, a]) => {
            let style = Style::Erpc {
                result: result.clone(),
            };
            Task::of(m, f, a, style)
        }
        ("erpc", "execute_cast", [m, f, a]) => Task::of(m, f, a, Style::Process),
        (module, function, _) => Some(Task::new(module, function, list, Style::Process)),
    }
}

impl Task {
    fn of(module: &Raw, function: &Raw, args: &Raw, style: Style) -> Option<Self> {
        let (module, function) = (module.view().as_atom()?, function.view().as_atom()?);
        let args = args.view().list()?.map(|arg| args.sub(arg)).collect();
        Some(Self::new(module, function, args, style))
    }

    /// `erlang:apply` is what it applies: the function that an exported fun or an atom names. A local fun cannot run here,
    /// and stays as it is.
    fn new(module: &str, function: &str, args: Vec<Raw>, style: Style) -> Self {
        if (module, function) == ("erlang", "apply") {
            let applied = match &args[..] {
                [module, function, args] => Self::applied(module.view(), function.view(), args),
                [fun, args] => (fun.view().as_export())
                    .and_then(|(module, function, _)| Self::applied(module, function, args)),
                _ => None,
            };
            if let Some((module, function, args)) = applied {
                return Self {
                    module,
                    function,
                    args,
                    style,
                };
            }
        }
        Self {
            module: module.into(),
            function: function.into(),
            args,
            style,
        }
    }

    fn applied(
        module: View<'_>,
        function: View<'_>,
        args: &Raw,
    ) -> Option<(String, String, Vec<Raw>)> {
        let list = args.view().list()?.map(|arg| args.sub(arg)).collect();
        Some((module.as_atom()?.into(), function.as_atom()?.into(), list))
    }

    /// The same in memory of its own where that is cheap, to be kept while the function runs.
    pub(crate) fn compact(&mut self) {
        for arg in &mut self.args {
            *arg = arg.clone().kept();
        }
        if let Style::Erpc { result } = &mut self.style {
            *result = result.compact();
        }
    }

    /// The reason with which the spawned process ends.
    pub(crate) fn exit_reason(&self, outcome: &Outcome) -> Body {
        let mut head = BytesMut::new();
        match (&self.style, outcome) {
            (Style::Process, Outcome::Reply(_)) => atom("normal").into(),
            (Style::Process, Outcome::Error(reason)) => {
                put_tuple(&mut head, 2);
                put_raw(&mut head, reason);
                Body::written(head, &nil())
            }
            (Style::Process, Outcome::Exit(reason)) => reason.clone().into(),
            (Style::Process, Outcome::Throw(value)) => {
                put_tuple(&mut head, 2);
                put_tuple(&mut head, 2);
                put_atom(&mut head, "nocatch");
                put_raw(&mut head, value);
                Body::written(head, &nil())
            }
            (Style::Erpc { result }, Outcome::Exit(value)) => {
                put_tuple(&mut head, 3);
                put_raw(&mut head, result);
                put_atom(&mut head, "exit");
                Body::written(head, value)
            }
            (Style::Erpc { result }, Outcome::Throw(value)) => {
                put_tuple(&mut head, 3);
                put_raw(&mut head, result);
                put_atom(&mut head, "throw");
                Body::written(head, value)
            }
            (Style::Process, Outcome::Undef) => {
                put_tuple(&mut head, 2);
                put_atom(&mut head, "undef");
                Body::written(head, &self.undef_stack())
            }
            (Style::Erpc { result }, Outcome::Reply(value)) => {
                put_tuple(&mut head, 3);
                put_raw(&mut head, result);
                put_atom(&mut head, "return");
                Body::written(head, value)
            }
            (Style::Erpc { result }, Outcome::Error(reason)) => {
                put_tuple(&mut head, 4);
                put_raw(&mut head, result);
                put_atom(&mut head, "error");
                put_raw(&mut head, reason);
                Body::written(head, &nil())
            }
            (Style::Erpc { result }, Outcome::Undef) => {
                put_tuple(&mut head, 4);
                put_raw(&mut head, result);
                put_atom(&mut head, "error");
                put_atom(&mut head, "undef");
                Body::written(head, &self.undef_stack())
            }
        }
    }

    /// `{badrpc, {'EXIT', Reason}}`, or the value, or what was thrown: what `rex` answers to a call.
    pub(crate) fn rex_reply(&self, outcome: &Outcome) -> Raw {
        let reason = match outcome {
            Outcome::Reply(value) | Outcome::Throw(value) => return value.clone(),
            Outcome::Exit(reason) => reason.clone(),
            Outcome::Error(reason) => tuple(&[reason, &nil()]),
            Outcome::Undef => tuple(&[&atom("undef"), &self.undef_stack()]),
        };
        tuple(&[&atom("badrpc"), &tuple(&[&atom("EXIT"), &reason])])
    }

    /// `[{M, F, Args, []}]`, the stack that the BEAM gives with `undef`.
    fn undef_stack(&self) -> Raw {
        let mut out = BytesMut::new();
        put_list(&mut out, 1);
        put_tuple(&mut out, 4);
        put_atom(&mut out, &self.module);
        put_atom(&mut out, &self.function);
        put_list(&mut out, self.args.len());
        for arg in &self.args {
            put_raw(&mut out, arg);
        }
        put_nil(&mut out);
        put_nil(&mut out);
        put_nil(&mut out);
        Raw::own(out)
    }
}

/// An atom of ours as a term.
pub(crate) fn atom(name: &str) -> Raw {
    let mut out = BytesMut::new();
    put_atom(&mut out, name);
    Raw::own(out)
}

pub(crate) fn integer(value: i64) -> Raw {
    let mut out = BytesMut::new();
    put_int(&mut out, value);
    Raw::own(out)
}

/// A list of code points.
pub(crate) fn string(text: &str) -> Raw {
    let mut out = BytesMut::new();
    put_string(&mut out, text);
    Raw::own(out)
}

pub(crate) fn nil() -> Raw {
    let mut out = BytesMut::new();
    put_nil(&mut out);
    Raw::own(out)
}

/// A tuple of terms.
pub(crate) fn tuple(fields: &[&Raw]) -> Raw {
    let mut out = BytesMut::new();
    put_tuple(&mut out, fields.len());
    for field in fields {
        put_raw(&mut out, field);
    }
    Raw::own(out)
}

/// A proper list of terms.
pub(crate) fn list(items: &[Raw]) -> Raw {
    let mut out = BytesMut::new();
    put_list(&mut out, items.len());
    for item in items {
        put_raw(&mut out, item);
    }
    put_nil(&mut out);
    Raw::own(out)
}

#[cfg(test)]
mod tests;
