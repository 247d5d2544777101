//! The mesh as a table: drawn once, or again and again in place.

use crate::{
    grid::{Member, Meta, Registration, Standing},
    node::Node,
};
use comfy_table::{ContentArrangement, Table, presets};
use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

/// How often the live table is drawn again.
const REFRESH: Duration = Duration::from_millis(500);

/// A terminal that says it has fewer columns does not know its size (a serial line, `script`): most say 0.
const NARROWEST: u16 = 20;

/// How wide the terminal is; `None` in a pipe, or where it does not say.
pub(crate) fn columns() -> Option<usize> {
    let width = if stdout().is_terminal() {
        Table::new()
            .set_content_arrangement(ContentArrangement::Dynamic)
            .width()
    } else {
        None
    };
    width
        .filter(|columns| *columns >= NARROWEST)
        .map(usize::from)
}

/// One row per member: lines around them on a terminal, bare columns in a pipe.
pub(crate) fn registrations<'a>(rows: impl Iterator<Item = (&'a Registration, String)>) -> String {
    let rows = rows.map(|(registration, state)| {
        let meta: Vec<String> = meta_lines(&registration.meta).collect();
        [
            registration.node.to_string(),
            registration.ip.clone(),
            state,
            registration.implementation.clone(),
            meta.join(" "),
        ]
    });
    aligned(["node", "ip", "state", "runs", "meta"], rows)
}

/// Columns under their headers.
pub(crate) fn aligned<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    let preset = if stdout().is_terminal() {
        presets::UTF8_FULL_CONDENSED
    } else {
        presets::NOTHING
    };
    table
        .load_preset(preset)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if table.width().is_some_and(|columns| columns < NARROWEST) {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

/// `KEY=TEXT`, one per entry.
pub(crate) fn meta_lines(meta: &Meta) -> impl Iterator<Item = String> {
    meta.iter()
        .map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(&value.text())))
}

/// Draws the mesh as a node sees it, until the future is dropped.
pub(crate) async fn live(node: &Node) {
    let mut lines = 0;
    let mut clock = tokio::time::interval(REFRESH);
    loop {
        clock.tick().await;
        let Some(view) = node.nodes() else { return };
        let rows = view.all().map(|member| {
            let state = state(member, member.name() == node.name());
            (&*member.registration, state.to_owned())
        });
        let text = registrations(rows);
        let mut out = stdout().lock();
        if lines > 0 {
            // Up to where the last one began, and clear from there.
            let _ = write!(out, "\x1b[{lines}A\x1b[J");
        }
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
        lines = text.lines().count();
    }
}

fn state(member: &Member, own: bool) -> &'static str {
    match (own, member.standing, member.connected) {
        (true, _, _) => "this node",
        (_, Standing::Suspended, _) => "suspended",
        (_, Standing::Lost, _) => "lost",
        (_, Standing::Listed, Some(_)) => "connected",
        (_, Standing::Listed, None) => "not connected",
    }
}
