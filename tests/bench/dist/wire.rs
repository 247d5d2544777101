//! A connection of the distribution protocol on a blocking socket: epmd, handshake and control messages are those of the
//! crate `erl_dist`; frames are whatever the caller writes.

use crate::support::COOKIE;
use erl_dist::{
    DistributionFlags, LOWEST_DISTRIBUTION_PROTOCOL_VERSION,
    epmd::EpmdClient,
    handshake::ClientSideHandshake,
    node::{Creation, LocalNode},
};
use futures_util::{
    FutureExt,
    io::{AsyncRead, AsyncWrite},
};
use redgrid::term::{Raw, Term};
use std::{
    future::Future,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// What a node of OTP 27 offers, less what would change the frames: the header with the atom cache, fragments; and less
/// the bit that publishes the node, so that nobody's `global` begins to talk with us.
pub(crate) const FLAGS: DistributionFlags = DistributionFlags::from_bits_truncate(0xD_075F_5FBC);

/// How long the other side may be silent where an answer is due.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// A blocking socket that passes for one that is not: for this it is always ready.
#[derive(Clone)]
pub(crate) struct Socket(pub(crate) Arc<TcpStream>);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self(Arc::new(stream))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready((&*self.0).read(buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready((&*self.0).write(buffer))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(Shutdown::Write))
    }
}

/// Runs what waits for nothing but a [`Socket`].
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("a blocking socket is always ready")
}

/// The port of a node, as epmd has it.
pub(crate) fn port_of(epmd: u16, name: &str) -> Option<u16> {
    let short = name.split('@').next().unwrap_or(name);
    let socket = Socket::new(TcpStream::connect((Ipv4Addr::LOCALHOST, epmd)).ok()?);
    now(EpmdClient::new(socket).get_node(short))
        .ok()?
        .map(|node| node.port)
}

/// Connects to a node as a hidden node of another name.
pub(crate) fn dial(epmd: u16, own: &str, peer: &str) -> Result<TcpStream, String> {
    let port = port_of(epmd, peer).ok_or_else(|| format!("epmd does not know {peer}"))?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(SILENCE))
        .and_then(|()| stream.set_write_timeout(Some(SILENCE)))
        .map_err(|e| e.to_string())?;
    let mut local = LocalNode::new(own.parse().expect("a node name"), Creation::new(CREATION));
    local.flags = FLAGS;
    let mut handshake = ClientSideHandshake::new(Socket::new(stream), local, COOKIE);
    now(handshake.execute_send_name(LOWEST_DISTRIBUTION_PROTOCOL_VERSION))
        .map_err(|e| e.to_string())?;
    let (socket, _) = now(handshake.execute_rest(true)).map_err(|e| e.to_string())?;
    socket.0.try_clone().map_err(|e| e.to_string())
}

/// Which life of ours the pids that we make are of.
pub(crate) const CREATION: u32 = 77;

/// A frame of a connection without header and fragments: its length, 112, the control message, the message.
pub(crate) fn frame(control: &Term, message: Option<&Term>) -> Vec<u8> {
    let mut body = vec![112];
    body.extend(Raw::encode(control).to_versioned());
    if let Some(message) = message {
        body.extend(Raw::encode(message).to_versioned());
    }
    let mut frame = u32::try_from(body.len())
        .expect("a small frame")
        .to_be_bytes()
        .to_vec();
    frame.extend(body);
    frame
}

/// The next frame, without its length, into `frame`; that of a tick is empty.
pub(crate) fn read_frame(from: &mut impl Read, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    frame.resize(u32::from_be_bytes(length) as usize, 0);
    from.read_exact(frame)
}

/// The operation of a frame: the first element of its control message.
pub(crate) fn operation(frame: &[u8]) -> u8 {
    // 112, 131, a tuple and its size, a small integer and its value.
    match frame {
        [112, 131, 104, _, 97, operation, ..] => *operation,
        _ => 0,
    }
}
