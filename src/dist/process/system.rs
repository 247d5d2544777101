//! What `sys` asks of a process: pure. Every OTP process answers these beside its own messages, so that an operator can look
//! at it, halt it and let it go on (chapter "sys and proc_lib" of the OTP design principles).
//!
//! `{system, From, Request}`, answered with `{Tag, Reply}` as a gen call is:
//!
//! | Request | Reply | |
//! |---|---|---|
//! | `get_state` | `{ok, State}`, to OTP 25 `State` | what the program last said of its state |
//! | `get_status` | `{status, Pid, {module, redgrid}, [PDict, Running, Parent, Debug, Misc]}` | |
//! | `suspend`, `resume` | `ok` | between the two only these messages are received |
//! | `{terminate, Reason}` | `ok` | and then the process ends with that reason |
//! | `{replace_state, Fun}` and all that would run code here | `{error, ...}` | no code is run that was sent |

use crate::dist::call;
use crate::term::Raw;

/// A system message.
#[derive(Debug)]
pub(super) struct System {
    pub(super) from: call::From,
    request: Raw,
}

/// What is to be done beside answering.
#[derive(Debug, PartialEq)]
pub(super) enum Then {
    Nothing,
    Suspend,
    Resume,
    End(Raw),
}

impl System {
    /// The system message in a message; `None` when it is something else.
    pub(super) fn of(message: &Raw) -> Option<Self> {
        let [from, request] = message.view().tagged::<2>("system")?;
        Some(Self {
            from: call::From::read(message, from)?,
            request: message.sub(request),
        })
    }

    /// The reply, and what it means for the process.
    pub(super) fn answer(&self, pid: &Raw, state: &Raw, suspended: bool) -> (Raw, Then) {
        let ok = call::atom("ok");
        let view = self.request.view();
        let name = view.as_atom();
        match name {
            Some("get_state") if self.takes_ok() => (call::tuple(&[&ok, state]), Then::Nothing),
            Some("get_state") => (state.clone(), Then::Nothing),
            Some("get_status") => (status(pid, state, suspended), Then::Nothing),
            Some("suspend") => (ok, Then::Suspend),
            Some("resume") => (ok, Then::Resume),
            _ => match view.tagged::<1>("terminate") {
                Some([reason]) => (ok, Then::End(self.request.sub(reason))),
                None => (refused(), Then::Nothing),
            },
        }
    }
}

impl System {
    /// Whether the caller wants its state inside `{ok, State}`: since OTP 26.1. Nothing in the handshake tells the releases
    /// apart, but the reference of an alias does: since OTP 26 it has five words, where it had three.
    fn takes_ok(&self) -> bool {
        let alias = self.from.alias.as_ref();
        alias.is_some_and(|alias| {
            (alias.view().as_reference()).is_some_and(|reference| reference.words().len() > 3)
        })
    }
}

/// Whether a message is one; looked at for every message, so nothing is made of it.
pub(super) fn is_system(message: &Raw) -> bool {
    message.view().tagged::<2>("system").is_some()
}

/// `sys` makes an exception of the second element.
fn refused() -> Raw {
    let reason = call::tuple(&[&call::atom("not_on_this_node"), &call::atom("redgrid")]);
    call::tuple(&[&call::atom("error"), &reason])
}

fn status(pid: &Raw, state: &Raw, suspended: bool) -> Raw {
    let atom = call::atom;
    let initial = call::tuple(&[&atom("redgrid"), &atom("init"), &call::integer(1)]);
    let dictionary = call::list(&[
        call::tuple(&[&atom("$ancestors"), &call::nil()]),
        call::tuple(&[&atom("$initial_call"), &initial]),
    ]);
    let running = atom(if suspended { "suspended" } else { "running" });
    // The shape that `observer` and `sys:get_status/1` of a gen_server have.
    let data = call::list(&[call::tuple(&[&call::string("State"), state])]);
    let misc = call::list(&[
        call::tuple(&[
            &atom("header"),
            &call::string("Status for a process of redgrid"),
        ]),
        call::tuple(&[&atom("data"), &data]),
    ]);
    let items = call::list(&[dictionary, running, pid.clone(), call::nil(), misc]);
    let module = call::tuple(&[&atom("module"), &atom("redgrid")]);
    call::tuple(&[&atom("status"), pid, &module, &items])
}
