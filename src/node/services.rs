//! What a node offers, put together: the mesh, the processes of the binary, and the functions that the program exports.
//!
//! A name belongs to the first service that registered it. A function is asked of the exports first, then of each
//! service, until one knows it.

use crate::{
    dist::{Answer, Body, DownReason, Located, NodeName, PeerInfo, Service},
    term::{Raw, Term, atom, nil, tuple},
};
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
};

/// A call of a function that the program exported.
#[derive(Debug, Clone)]
pub struct Call {
    /// The function's name.
    pub function: String,
    /// Its arguments.
    pub args: Vec<Term>,
}

/// What an exported function did not give a value for; the caller gets it as OTP would say it.
#[derive(Debug, Clone, PartialEq)]
pub enum Exception {
    /// There is no function of this name and arity: `undef`.
    Undefined,
    /// It failed: `error(Reason)`.
    Error(Term),
    /// `exit(Reason)`.
    Exit(Term),
    /// `throw(Value)`: `rpc:call` takes it for the value, `erpc:call` throws it at its caller.
    Throw(Term),
}

impl Exception {
    /// An error whose reason is an atom, such as `badarg`.
    pub fn error(reason: &str) -> Self {
        Self::Error(atom(reason))
    }
}

type Result = std::result::Result<Term, Exception>;
type Export = Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = Result> + Send>> + Send + Sync>;

/// All services of one node.
pub(crate) struct Services {
    services: Vec<Arc<dyn Service>>,
    names: HashMap<String, usize>,
    exports: RwLock<HashMap<String, Export>>,
}

impl Services {
    pub(crate) fn new(services: Vec<Arc<dyn Service>>) -> Self {
        let mut names = HashMap::new();
        for (index, service) in services.iter().enumerate() {
            for name in service.names() {
                names.entry(name).or_insert(index);
            }
        }
        Self {
            services,
            names,
            exports: RwLock::default(),
        }
    }

    /// Offers the functions of a module; an earlier export of the same module is replaced.
    pub(crate) fn export<F, R>(&self, module: &str, function: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result> + Send + 'static,
    {
        let export: Export = Arc::new(move |call| Box::pin(function(call)));
        self.exports
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(module.into(), export);
    }

    fn named(&self, name: &str) -> Option<&dyn Service> {
        self.names.get(name).map(|index| &*self.services[*index])
    }

    fn exported(&self, module: &str) -> Option<Export> {
        self.exports
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(module)
            .cloned()
    }
}

impl Service for Services {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn call(&self, name: &str, request: &Raw) -> Answer {
        self.named(name)
            .map_or(Answer::Undef, |service| service.call(name, request))
    }

    fn cast(&self, name: &str, message: &Raw) {
        if let Some(service) = self.named(name) {
            service.cast(name, message);
        }
    }

    fn info(&self, name: &str, message: &Raw) -> Vec<(Raw, Body)> {
        self.named(name)
            .map_or_else(Vec::new, |service| service.info(name, message))
    }

    fn apply(&self, module: &str, function: &str, args: &[Raw]) -> Answer {
        if let Some(export) = self.exported(module) {
            return apply_export(&export, function, args);
        }
        self.services
            .iter()
            .map(|service| service.apply(module, function, args))
            .find(|answer| !matches!(answer, Answer::Undef))
            .unwrap_or(Answer::Undef)
    }

    /// The program alone decides which functions a module that it exports has: so any may be there.
    fn exports(&self, module: &str, function: &str, arity: usize) -> bool {
        self.exported(module).is_some()
            || self
                .services
                .iter()
                .any(|service| service.exports(module, function, arity))
    }

    fn peer_up(&self, peer: &PeerInfo) {
        self.services
            .iter()
            .for_each(|service| service.peer_up(peer));
    }

    fn peer_down(&self, peer: &PeerInfo, reason: &DownReason) {
        self.services
            .iter()
            .for_each(|service| service.peer_down(peer, reason));
    }

    fn locate(&self, peer: &NodeName) -> Located {
        self.services
            .iter()
            .map(|service| service.locate(peer))
            .find(|located| *located != Located::Unknown)
            .unwrap_or(Located::Unknown)
    }
}

fn apply_export(export: &Export, function: &str, args: &[Raw]) -> Answer {
    let decoded: std::result::Result<Vec<Term>, _> = args.iter().map(Raw::decode).collect();
    match decoded {
        Ok(args) => {
            let running = export(Call {
                function: function.into(),
                args,
            });
            Answer::Later(Box::pin(async move { answer(running.await) }))
        }
        Err(why) => {
            tracing::debug!(function, "an argument cannot be held: {why}");
            Answer::Error(Raw::encode(&atom("badarg")))
        }
    }
}

fn answer(result: Result) -> Answer {
    // What the program made up may be no term that can be sent, such as an atom of 300 characters.
    let sent =
        |term: &Term| Raw::try_encode(term).unwrap_or_else(|_| Raw::encode(&atom("bad_reason")));
    match result {
        Ok(value) => match Raw::try_encode(&value) {
            Ok(value) => Answer::Reply(value),
            Err(why) => {
                tracing::warn!("an exported function returned what cannot be sent: {why}");
                Answer::Error(Raw::encode(&tuple([atom("bad_return"), nil()])))
            }
        },
        Err(Exception::Undefined) => Answer::Undef,
        Err(Exception::Error(reason)) => Answer::Error(sent(&reason)),
        Err(Exception::Exit(reason)) => Answer::Exit(sent(&reason)),
        Err(Exception::Throw(value)) => Answer::Throw(sent(&value)),
    }
}
