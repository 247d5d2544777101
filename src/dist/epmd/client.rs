//! What is asked of an epmd, on connections of our own. The requests are `erl_dist`'s, under a deadline.

use super::{EpmdStartError, PATIENCE};
use erl_dist::epmd::{EpmdClient, EpmdError, NodeEntry};
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, BufStream, Join},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

/// An answer of more bytes is cut there; the longest that an epmd can have to give is half as long.
const MAX_ANSWER: u64 = 1024 * 1024;

type Bounded = Join<tokio::io::Take<OwnedReadHalf>, OwnedWriteHalf>;

async fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// For questions whose answers are read whole: `erl_dist` would read as long as anything comes.
async fn ask(at: SocketAddr) -> io::Result<EpmdClient<Compat<BufStream<Bounded>>>> {
    let (read, write) = connect(at).await?.into_split();
    let stream = tokio::io::join(read.take(MAX_ANSWER), write);
    Ok(EpmdClient::new(BufStream::new(stream).compat()))
}

/// What is registered of a node; what went wrong is told in words.
pub(super) async fn look_up(at: SocketAddr, short: &str) -> Result<Option<NodeEntry>, String> {
    let entry = timeout(PATIENCE, async {
        let client = ask(at).await.map_err(|error| error.to_string())?;
        client
            .get_node(short)
            .await
            .map_err(|error| error.to_string())
    });
    entry
        .await
        .unwrap_or_else(|_| Err("no answer within 5 s".into()))
}

/// All names with their ports; what went wrong is told in words.
pub(super) async fn names(at: SocketAddr) -> Result<Vec<(String, u16)>, String> {
    let names = timeout(PATIENCE, async {
        let client = ask(at).await.map_err(|error| error.to_string())?;
        client.get_names().await.map_err(|error| error.to_string())
    });
    names
        .await
        .unwrap_or_else(|_| Err("no answer within 5 s".into()))
}

/// Registers a node for as long as the stream is held.
pub(super) async fn register(
    at: SocketAddr,
    entry: &NodeEntry,
) -> Result<TcpStream, EpmdStartError> {
    let strange = |why: String| EpmdStartError::Strange { at, why };
    let registered = timeout(PATIENCE, async {
        let stream = connect(at)
            .await
            .map_err(|why| EpmdStartError::Absent { at, why })?;
        let client = EpmdClient::new(BufStream::new(stream).compat());
        client
            .register(entry.clone())
            .await
            .map_err(|error| match error {
                EpmdError::RegisterNodeError { .. } => EpmdStartError::Taken {
                    at,
                    short: entry.name.clone(),
                    port: None,
                },
                error => strange(error.to_string()),
            })
    });
    let (stream, _creation) = registered
        .await
        .unwrap_or_else(|_| Err(strange("no answer within 5 s".into())))?;
    // epmd says nothing more, so the buffer around it is empty.
    Ok(stream.into_inner().into_inner())
}
