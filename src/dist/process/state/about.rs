//! What there is to tell of a process, as tools ask for it. Pure.

use super::State;
use crate::term::Raw;

/// A process seen from outside.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct About {
    /// The name that it has registered.
    pub(crate) name: Option<String>,
    pub(crate) trap_exit: bool,
    /// Whom it is linked to.
    pub(crate) links: Vec<Raw>,
    /// What it watches: a pid, or `{Name, Node}`.
    pub(crate) monitors: Vec<Raw>,
    /// Who watches it.
    pub(crate) watchers: Vec<Raw>,
    /// Its group leader, where it was given one.
    pub(crate) leader: Option<Raw>,
    /// How many mails wait.
    pub(crate) queue: usize,
    /// Bytes of these.
    pub(crate) bytes: usize,
}

impl State {
    /// All but its mailbox, which is not kept here.
    pub(crate) fn about(&self, number: u64) -> Option<About> {
        let entry = self.processes.get(&number)?;
        let links = entry
            .links
            .iter()
            .filter(|(_, link)| link.unlinking.is_none());
        let watchers = entry.watchers.iter();
        let monitors = entry.monitors.iter();
        Some(About {
            name: entry.name.clone(),
            trap_exit: entry.trap_exit,
            links: links.map(|(pid, _)| pid.clone()).collect(),
            monitors: monitors
                .filter_map(|monitor| Some(self.monitors.get(monitor)?.told.clone()))
                .collect(),
            watchers: watchers
                .filter_map(|key| Some(self.watchers.get(key)?.pid.clone()))
                .collect(),
            leader: entry.leader.clone(),
            queue: 0,
            bytes: 0,
        })
    }
}
