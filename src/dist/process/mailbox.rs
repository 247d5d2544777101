//! One mailbox: a bounded queue with one reader, who may take from its middle.

use super::state::Mail;
use crate::{dist::node::lock, term::Raw};
use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, watch};
use tracing::warn;

/// Messages that wait in one mailbox at most.
pub const MAX_MESSAGES: usize = 100_000;

/// Bytes of the messages that wait in one mailbox at most; a message that comes into an empty one is never too large.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Mailbox {
    queue: Mutex<Queue>,
    more: Notify,
    /// The reason of the end, once it is known.
    over: watch::Sender<Option<Raw>>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    mails: VecDeque<Mail>,
    bytes: usize,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            more: Notify::new(),
            over: watch::channel(None).0,
            dropped: AtomicU64::new(0),
        }
    }
}

impl Mailbox {
    /// Appends, or drops and counts what has no room.
    pub(super) fn put(&self, mail: Mail) {
        let mut queue = lock(&self.queue);
        let size = size(&mail);
        if let Mail::Message(_) = mail {
            let full = queue.mails.len() >= MAX_MESSAGES || queue.bytes + size > MAX_BYTES;
            if full && !queue.mails.is_empty() {
                drop(queue);
                let before = self.dropped.fetch_add(1, Ordering::Relaxed);
                if before == 0 {
                    warn!(
                        messages = MAX_MESSAGES,
                        "the mailbox of a process is full: what comes now is dropped"
                    );
                }
                return;
            }
        }
        queue.bytes += size;
        queue.mails.push_back(mail);
        drop(queue);
        self.more.notify_one();
    }

    /// The first from `seen` on that fits; what was looked at in vain is counted in `seen`. The reason of the end, when
    /// nothing is left to be looked at.
    pub(super) fn take(
        &self,
        seen: &mut usize,
        fits: &impl Fn(&Mail) -> bool,
    ) -> Result<Option<Mail>, Raw> {
        let mut queue = lock(&self.queue);
        while let Some(mail) = queue.mails.get(*seen) {
            if fits(mail) {
                let mail = queue.mails.remove(*seen);
                queue.bytes -= mail.as_ref().map_or(0, size);
                return Ok(mail);
            }
            *seen += 1;
        }
        match &*self.over.borrow() {
            Some(reason) => Err(reason.clone()),
            None => Ok(None),
        }
    }

    /// Waits for more than was there when this was called.
    pub(super) fn more(&self) -> impl Future<Output = ()> {
        self.more.notified()
    }

    /// Takes out what is to be forgotten.
    pub(super) fn remove(&self, which: impl Fn(&Mail) -> bool) {
        let mut queue = lock(&self.queue);
        let before = queue.mails.len();
        queue.mails.retain(|mail| !which(mail));
        if queue.mails.len() < before {
            queue.bytes = queue.mails.iter().map(size).sum();
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.queue).mails.len()
    }

    pub(super) fn bytes(&self) -> usize {
        lock(&self.queue).bytes
    }

    /// What waits.
    pub(super) fn mails(&self) -> Vec<Mail> {
        lock(&self.queue).mails.iter().cloned().collect()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self, reason: Raw) {
        self.over.send_replace(Some(reason));
        self.more.notify_one();
    }

    pub(super) async fn closed(&self) {
        // The sender is ours, so it is there as long as we are.
        let _ = self.over.subscribe().wait_for(Option::is_some).await;
    }
}

/// About what a mail keeps in memory.
fn size(mail: &Mail) -> usize {
    match mail {
        Mail::Message(message) => message.len(),
        Mail::Down { target, reason, .. } => target.len() + reason.len(),
        Mail::Exit { from, reason } => from.len() + reason.len(),
        Mail::NodeUp(node) | Mail::NodeDown(node) => node.as_str().len(),
    }
}
