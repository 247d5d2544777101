//! The smaller modules of OTP's kernel that tools ask: who the node is, which applications run, where code is.

use super::{
    super::{NameStyle, Node, call},
    Function, boolean, clock, pair,
};
use crate::term::{
    Raw,
    write::{put_atom, put_map},
};
use bytes::BytesMut;

pub(super) const NET_KERNEL: &[Function] = &[
    ("get_net_ticktime", 0, |node, _| {
        Some(call::integer(node.tick_time().as_secs() as i64))
    }),
    ("get_state", 0, |node, _| Some(state(node))),
    ("longnames", 0, |node, _| {
        Some(boolean(node.name().style() == NameStyle::Long))
    }),
    ("epmd_module", 0, |_, _| Some(call::atom("erl_epmd"))),
];

pub(super) const NET_ADM: &[Function] = &[("localhost", 0, |node, _| {
    Some(call::string(node.name().host()))
})];

pub(super) const INET: &[Function] = &[("gethostname", 0, |_, _| {
    let name = hostname::get().ok()?;
    let name = name.to_string_lossy();
    // Without its domain, as OTP tells it.
    let short = name.split('.').next().unwrap_or_default();
    Some(pair("ok", &call::string(short)))
})];

pub(super) const APPLICATION: &[Function] = &[
    ("which_applications", 0, |_, _| Some(applications())),
    ("which_applications", 1, |_, _| Some(applications())),
    ("loaded_applications", 0, |_, _| Some(applications())),
    // No application of ours has an environment of Erlang's.
    ("get_env", 1, |_, _| Some(call::atom("undefined"))),
    ("get_env", 2, |_, _| Some(call::atom("undefined"))),
    ("get_env", 3, |_, args| Some(args[2].clone())),
    ("get_all_env", 0, |_, _| Some(call::nil())),
    ("get_all_env", 1, |_, _| Some(call::nil())),
    ("get_key", 2, |_, args| {
        let [name, key] = [&args[0], &args[1]].map(|term| term.view().as_atom());
        Some(match (name?, key?) {
            (NAME, "vsn") => pair("ok", &call::string(env!("CARGO_PKG_VERSION"))),
            (NAME, "description") => pair("ok", &call::string(DESCRIPTION)),
            _ => call::atom("undefined"),
        })
    }),
    ("get_application", 1, |_, _| Some(call::atom("undefined"))),
];

/// No module of Erlang's is here, nor can one be brought.
pub(super) const CODE: &[Function] = &[
    // `erl -remsh` asks this first, and then ends with one line instead of a crash report.
    ("ensure_loaded", 1, |_, _| {
        Some(pair("error", &call::atom("nofile")))
    }),
    ("which", 1, |_, _| Some(call::atom("non_existing"))),
    ("is_loaded", 1, |_, _| Some(boolean(false))),
    ("is_sticky", 1, |_, _| Some(boolean(false))),
    ("module_status", 1, |_, _| Some(call::atom("not_loaded"))),
    ("get_object_code", 1, |_, _| Some(call::atom("error"))),
    ("all_loaded", 0, |_, _| Some(call::nil())),
    ("all_available", 0, |_, _| Some(call::nil())),
    ("modified_modules", 0, |_, _| Some(call::nil())),
    ("get_path", 0, |_, _| Some(call::nil())),
    ("lib_dir", 1, |_, _| {
        Some(pair("error", &call::atom("bad_name")))
    }),
    ("priv_dir", 1, |_, _| {
        Some(pair("error", &call::atom("bad_name")))
    }),
    // What `c:nl/1` and others send everywhere: refused in the words of its own contract, nothing is done with it.
    ("load_binary", 3, |_, _| {
        Some(pair("error", &call::atom("badfile")))
    }),
];

pub(super) const OS: &[Function] = &[
    ("system_time", 0, clock::system_time),
    ("system_time", 1, clock::system_time),
    ("timestamp", 0, |_, _| Some(clock::timestamp())),
    ("getpid", 0, |_, _| {
        Some(call::string(&std::process::id().to_string()))
    }),
    ("type", 0, |_, _| {
        let [family, name] = [std::env::consts::FAMILY, std::env::consts::OS].map(call::atom);
        Some(call::tuple(&[&family, &name]))
    }),
];

const NAME: &str = "redgrid";
const DESCRIPTION: &str = "A node that is no Erlang: a Rust program";

/// This node is one program, and no application of OTP's runs on it.
fn applications() -> Raw {
    let application = call::tuple(&[
        &call::atom(NAME),
        &call::string(DESCRIPTION),
        &call::string(env!("CARGO_PKG_VERSION")),
    ]);
    call::list(&[application])
}

fn state(node: &Node) -> Raw {
    let domain = match node.name().style() {
        NameStyle::Long => "longnames",
        NameStyle::Short => "shortnames",
    };
    let pairs = [
        ("started", "static"),
        ("name_domain", domain),
        ("name_type", "static"),
        ("name", node.name().as_str()),
    ];
    let mut out = BytesMut::new();
    put_map(&mut out, pairs.len());
    for (key, value) in pairs {
        put_atom(&mut out, key);
        put_atom(&mut out, value);
    }
    Raw::own(out)
}
