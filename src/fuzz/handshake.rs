//! Handshakes: with a stranger who says anything, and between two nodes over a line that lies.
//!
//! Both run in memory and without a clock, polled by hand: a side that waits for what never comes is simply not done.

use super::made::Made;
use crate::dist::handshake::{
    FLAGS, HandshakeError, Local, Remote, Status, Transport, accept, dial, receive_name,
};
use crate::dist::{Cookie, NodeName};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::{future::Future, io};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than a node ever says in one handshake.
const MOST_SAID: usize = 4 * 1100;

/// The first bytes choose who is there and what becomes of the line; the rest is what a stranger says.
pub fn handshake(input: &[u8]) {
    let mut made = Made::of(input);
    let (who, lies) = (made.byte(), [made.u32(), made.u32()]);
    stranger(who, input.get(9..).unwrap_or_default());
    between(who, lies);
}

fn local(name: &str, cookie: &str) -> Option<Local> {
    Some(Local {
        name: name.parse().ok()?,
        flags: FLAGS,
        creation: 7,
        cookie: Cookie::new(cookie).ok()?,
    })
}

fn status(who: u8) -> Status {
    match who % 5 {
        0 | 1 => Status::Ok,
        2 => Status::OkSimultaneous,
        3 => Status::Alive,
        _ => Status::Nok,
    }
}

async fn accepted(line: &mut End, ours: &Local, status: Status) -> Result<Remote, HandshakeError> {
    let (remote, dynamic) = receive_name(line).await?;
    accept(line, ours, &remote, dynamic, status, async { true }).await?;
    Ok(remote)
}

/// Somebody who does not know the cookie says something and hangs up: that ends at once, and never in a connection.
fn stranger(who: u8, says: &[u8]) {
    let (Some(ours), Ok(wanted)) = (local("a@h", "secret"), "b@h".parse::<NodeName>()) else {
        return;
    };
    let (mut near, far) = line();
    far.send(says);
    let sent = near.out.clone();
    drop(far);
    let result = match who & 0x80 {
        0 => finished(dial(&mut near, &ours, &wanted, || true)),
        _ => finished(accepted(&mut near, &ours, status(who))),
    };
    assert!(matches!(result, Some(Err(_))), "{says:?} led to {result:?}");
    assert!(sent.lock().is_ok_and(|sent| sent.bytes.len() <= MOST_SAID));
}

/// Polls once: all that will ever come is there.
fn finished<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Two nodes, and a line that changes one byte in each direction.
fn between(who: u8, lies: [u32; 2]) {
    let one_cookie = who & 0x40 == 0;
    let theirs = if one_cookie { "secret" } else { "other" };
    let (Some(a), Some(b)) = (local("a@h", "secret"), local("b@h", theirs)) else {
        return;
    };
    let (mut near, mut far) = line();
    near.lie = Lie::of(lies[0]);
    far.lie = Lie::of(lies[1]);
    let honest = near.lie.with == 0 && far.lie.with == 0;
    let wanted = b.name.clone();
    // Each side hangs up when it is done, as its connection would.
    let dialler = async move { dial(&mut near, &a, &wanted, || true).await };
    let acceptor = async move { accepted(&mut far, &b, status(who)).await };
    let (mut dialler, mut acceptor) = (pin!(dialler), pin!(acceptor));
    let (mut dialled, mut taken) = (None, None);
    // Six messages: after as many rounds nothing moves any more.
    for _ in 0..8 {
        let mut context = Context::from_waker(Waker::noop());
        if dialled.is_none() {
            dialled = ready(dialler.as_mut().poll(&mut context));
        }
        if taken.is_none() {
            taken = ready(acceptor.as_mut().poll(&mut context));
        }
    }
    let (up, also_up) = (matches!(dialled, Some(Ok(_))), matches!(taken, Some(Ok(_))));
    if !one_cookie {
        assert!(!up && !also_up, "{dialled:?}, {taken:?}");
    }
    // Who dials is the last to be convinced.
    assert!(!up || also_up, "{dialled:?}, {taken:?}");
    if honest {
        let meant = one_cookie && !matches!(status(who), Status::Nok);
        assert!(up == meant && also_up == meant, "{dialled:?}, {taken:?}");
    }
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// One byte of a direction that arrives as another.
#[derive(Clone, Copy, Default)]
struct Lie {
    at: usize,
    with: u8,
}

impl Lie {
    fn of(number: u32) -> Self {
        Self {
            at: (number >> 8) as usize % 100,
            with: number as u8,
        }
    }
}

/// What one side has said, in all, and whether it has hung up.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    heard: usize,
    over: bool,
}

/// One end of a line in memory.
struct End {
    out: Arc<Mutex<Said>>,
    heard: Arc<Mutex<Said>>,
    lie: Lie,
}

impl Transport for End {
    fn wide(&self) -> bool {
        false
    }
}

fn line() -> (End, End) {
    let (a, b) = (Arc::default(), Arc::default());
    let end = |out: &Arc<_>, heard: &Arc<_>| End {
        out: Arc::clone(out),
        heard: Arc::clone(heard),
        lie: Lie::default(),
    };
    (end(&a, &b), end(&b, &a))
}

impl End {
    fn send(&self, bytes: &[u8]) {
        if let Ok(mut said) = self.out.lock() {
            for byte in bytes {
                let lie = said.bytes.len() == self.lie.at;
                let with = if lie { self.lie.with } else { 0 };
                said.bytes.push(byte ^ with);
            }
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(mut said) = self.out.lock() {
            said.over = true;
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Ok(mut said) = self.heard.lock() else {
            return Poll::Ready(Err(io::ErrorKind::Other.into()));
        };
        let fresh = said.bytes.get(said.heard..).unwrap_or_default();
        let count = fresh.len().min(into.remaining());
        if count == 0 && !said.over {
            return Poll::Pending;
        }
        into.put_slice(&fresh[..count]);
        said.heard += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
