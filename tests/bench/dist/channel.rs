//! The processes `echo` and `sink` on `erl_dist`'s own acceptor and channel: what the crates give by themselves.
//!
//! It is given the best case: a blocking socket and a thread for each connection, so that no runtime has to wake
//! anybody, and the flags that the crate sets by default, with which an Erlang node sends no monitors. What the crate's
//! channel does with a message is left as it is: three reads, three writes, everything decoded and encoded.

use super::wire::{Socket, now};
use crate::support::COOKIE;
use erl_dist::{
    DistributionFlags,
    epmd::{EpmdClient, NodeEntry},
    handshake::{HandshakeStatus, ServerSideHandshake},
    message::{Message, channel},
    node::{Creation, LocalNode, NodeName},
    term::{Atom, FixInteger, Term, Tuple},
};
use std::{
    error::Error,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

/// Serves until the process ends.
pub(crate) fn serve(name: &str, epmd: u16) -> Result<(), Box<dyn Error>> {
    let name: NodeName = name.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let entry = NodeEntry::new(name.name(), listener.local_addr()?.port());
    let socket = Socket::new(TcpStream::connect((Ipv4Addr::LOCALHOST, epmd))?);
    // Held for as long as the name is to be known.
    let (_registration, creation) = now(EpmdClient::new(socket).register(entry))?;
    let count = Arc::new(AtomicI32::new(0));
    for stream in listener.incoming() {
        let (socket, name, count) = (Socket::new(stream?), name.clone(), count.clone());
        std::thread::spawn(move || {
            if let Err(error) = connection(socket, name, creation, &count) {
                eprintln!("erl_dist: a connection ended: {error}");
            }
        });
    }
    Ok(())
}

fn connection(
    socket: Socket,
    name: NodeName,
    creation: Creation,
    count: &AtomicI32,
) -> Result<(), Box<dyn Error>> {
    let mut local = LocalNode::new(name, creation);
    local.flags |= DistributionFlags::PUBLISHED;
    let mut handshake = ServerSideHandshake::new(socket, local.clone(), COOKIE);
    now(handshake.execute_recv_name())?;
    let (socket, peer) = now(handshake.execute_rest(HandshakeStatus::Ok))?;
    let (mut sender, mut receiver) = channel(socket, local.flags & peer.flags);
    loop {
        let answer = match now(receiver.recv()) {
            Ok(Message::Tick) => Some(Message::Tick),
            Ok(Message::RegSend(sent)) => answer(&sent.to_name.name, sent.message, count),
            Ok(_) => None,
            Err(erl_dist::message::RecvError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if let Some(answer) = answer {
            now(sender.send(answer))?;
        }
    }
}

fn answer(process: &str, message: Term, count: &AtomicI32) -> Option<Message> {
    let Term::Tuple(Tuple { elements }) = message else {
        return None;
    };
    let back = |tag: Term, value: Term| Term::Tuple(Tuple::from(vec![tag, value]));
    match (process, <[Term; 3]>::try_from(elements)) {
        ("echo", Ok([Term::Pid(from), reference, payload])) => {
            Some(Message::send(from, back(reference, payload)))
        }
        ("echo", Ok([Term::Atom(_), Term::Tuple(from), request])) => {
            match <[Term; 2]>::try_from(from.elements) {
                Ok([Term::Pid(from), tag]) => Some(Message::send(from, back(tag, request))),
                _ => None,
            }
        }
        ("sink", Err(elements)) => match <[Term; 2]>::try_from(elements) {
            Ok([_, Term::Binary(_)]) => {
                count.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok([Term::Atom(total), Term::Pid(from)]) => {
                let value = FixInteger::from(count.swap(0, Ordering::Relaxed));
                let total = Atom::from(total.name);
                Some(Message::send(from, back(total.into(), value.into())))
            }
            _ => None,
        },
        _ => None,
    }
}
