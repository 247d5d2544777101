//! A connection between two nodes as the socket has it: plain, or inside TLS.
//!
//! The handshake goes through [`Stream`], which asks at each read what it is. Once a connection is up its task is given
//! what is inside, so that a plain one pays nothing for the other kind.

use super::{
    NodeName,
    handshake::{HandshakeError, Transport},
    tls::Tls,
};
use std::{
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// Either kind.
pub(crate) enum Stream {
    Plain(TcpStream),
    Sealed(Sealed),
}

/// A connection inside TLS.
pub(crate) struct Sealed(Box<TlsStream<TcpStream>>);

impl Stream {
    /// A connection that we made: inside TLS when we speak it.
    pub(crate) async fn dialled(
        stream: TcpStream,
        tls: Option<&Tls>,
        peer: &NodeName,
        ip: IpAddr,
    ) -> Result<Self, HandshakeError> {
        Ok(match tls {
            Some(tls) => Self::Sealed(Sealed(Box::new(tls.connect(stream, peer, ip).await?))),
            None => Self::Plain(stream),
        })
    }

    /// One that was made to us.
    pub(crate) async fn accepted(
        stream: TcpStream,
        tls: Option<&Tls>,
    ) -> Result<Self, HandshakeError> {
        Ok(match tls {
            Some(tls) => Self::Sealed(Sealed(Box::new(tls.accept(stream).await?))),
            None => Self::Plain(stream),
        })
    }

    /// Whether the peer that connected to us may call itself so.
    pub(crate) fn check_name(
        &self,
        tls: Option<&Tls>,
        name: &NodeName,
    ) -> Result<(), HandshakeError> {
        match (self, tls) {
            (Self::Sealed(stream), Some(tls)) => tls.check_name(&stream.0, name),
            _ => Ok(()),
        }
    }
}

impl Transport for Stream {
    fn wide(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Sealed(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Sealed(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Sealed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Sealed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Sealed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &mut *self.get_mut().0;
        // What was written may still wait in here for room in the socket, and whoever has written all that it has does not
        // come back to write. It does read. A failure of the socket shows in the read as well.
        let _ = Pin::new(&mut *stream).poll_flush(cx);
        match Pin::new(stream).poll_read(cx, buf) {
            // Frames say how long they are, so that one who is gone without TLS' own goodbye has cut nothing off unseen.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{TlsPem, TlsVerify, handshake};
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
        time::timeout,
    };

    /// Both ends of one connection inside TLS, the first with hardly any room in its socket.
    async fn pair() -> (Stream, Stream) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let tls = Tls::new(TlsPem {
            certificate: Some(certificate.as_bytes()),
            key: Some(key.serialize_pem().as_bytes()),
            authorities: None,
            verify: TlsVerify::None,
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        let name = "peer@localhost".parse().unwrap();
        let dialled = async {
            let stream = socket.connect(at).await.unwrap();
            Stream::dialled(stream, Some(&tls), &name, at.ip()).await
        };
        let accepted = async {
            let (stream, _) = listener.accept().await.unwrap();
            Stream::accepted(stream, Some(&tls)).await
        };
        let (dialled, accepted) = tokio::join!(dialled, accepted);
        (dialled.unwrap(), accepted.unwrap())
    }

    #[tokio::test]
    async fn who_only_reads_after_writing_still_gets_out_what_he_wrote() {
        const SIZE: usize = 3_000_000;
        let (ours, mut theirs) = pair().await;
        let (mut reader, mut writer) = tokio::io::split(ours);
        let us = async {
            // As the task of a connection does it: never a flush, and from then on it reads.
            writer.write_all(&vec![7; SIZE]).await.unwrap();
            reader.read_u8().await.unwrap()
        };
        let them = async {
            let mut received = vec![0; SIZE];
            // So that the socket is full when the last byte is taken from the writer.
            tokio::time::sleep(Duration::from_millis(100)).await;
            theirs.read_exact(&mut received).await.unwrap();
            theirs.write_all(&[9]).await.unwrap();
            theirs.flush().await.unwrap();
        };
        let both = async { tokio::join!(us, them).0 };
        let answer = timeout(Duration::from_secs(10), both).await;
        assert_eq!(answer.expect("nothing is left inside"), 9);
    }

    #[tokio::test]
    async fn a_length_that_no_message_of_a_handshake_has_costs_no_memory() {
        for length in [0, 1101, u32::MAX] {
            let (mut ours, mut theirs) = pair().await;
            theirs.write_all(&length.to_be_bytes()).await.unwrap();
            theirs.flush().await.unwrap();
            let name = timeout(Duration::from_secs(10), handshake::receive_name(&mut ours));
            assert!(matches!(
                name.await.expect("an answer at once"),
                Err(HandshakeError::Malformed(_))
            ));
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_without_a_goodbye_is_the_end_of_the_stream() {
        let (mut ours, theirs) = pair().await;
        drop(theirs);
        let mut rest = Vec::new();
        assert_eq!(ours.read_to_end(&mut rest).await.unwrap(), 0);
    }
}
