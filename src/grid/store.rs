//! The mesh's commands to Redis, and what its refusals mean.
//!
//! Everything is RESP2 and works with Redis 5 to 8 and Valkey. One look-up is one pipeline however many nodes it is
//! about; our own keys are written in one transaction, so that no reader sees half of them.

use super::Trouble;
use super::registration::{Fields, Scope};
use super::state::{Found, OwnKeys, Renewal, Write};
use crate::dist::NodeName;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long Redis may take to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to answer.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Expiry of our keys, and of the scan lock.
const EXPIRY_S: u64 = super::state::EXPIRY.as_secs();
const LOCK_MS: u64 = 30_000;
/// Keys that one step of a scan looks at.
const SCAN_STEP: usize = 1000;

/// Opens the connection for commands.
pub(crate) async fn connect(client: &redis::Client) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The commands of one mesh over one connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) scope: Scope,
    /// Members whose key stands in another version, as the last scan found them.
    versions: Arc<Mutex<HashMap<NodeName, Scope>>>,
}

impl Store {
    pub(crate) fn new(connection: MultiplexedConnection, scope: Scope) -> Self {
        Self {
            connection,
            scope,
            versions: Arc::default(),
        }
    }

    fn versions(&self) -> MutexGuard<'_, HashMap<NodeName, Scope>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scope in which a member's keys stand: ours, unless a scan over all versions found it elsewhere only.
    fn scope_of(&self, node: &NodeName) -> Scope {
        let elsewhere = self.versions().get(node).cloned();
        elsewhere.unwrap_or_else(|| self.scope.clone())
    }

    fn note_versions(&self, keys: &[Vec<u8>]) {
        let mut elsewhere = HashMap::new();
        let mut here = HashSet::new();
        for key in keys {
            let Some(Ok(node)) = self.scope.node_of(key) else {
                continue;
            };
            match self.scope.other_version(key) {
                Some(version) => {
                    elsewhere.insert(node, Scope::new(self.scope.domain(), version));
                }
                None => {
                    here.insert(node);
                }
            }
        }
        elsewhere.retain(|node, _| !here.contains(node));
        *self.versions() = elsewhere;
    }

    async fn query(&self, pipe: &Pipeline) -> RedisResult<Vec<Value>> {
        pipe.query_async(&mut self.connection.clone()).await
    }

    /// Both keys under a name, and the time.
    pub(crate) async fn read_own(&self, node: &NodeName) -> RedisResult<OwnKeys> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors().cmd("TIME");
        pipe.cmd("HGETALL").arg(self.scope.key(node));
        pipe.cmd("HGETALL").arg(self.scope.info_key(node));
        let mut values = self.query(&pipe).await?.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let now = time(next())?;
        // Something that is no hash will be overwritten.
        Ok(OwnKeys {
            classic: hash(next())?.unwrap_or_default(),
            info: hash(next())?.unwrap_or_default(),
            now,
        })
    }

    /// Writes or deletes our keys and tells the others, all or nothing. Gives the time.
    pub(crate) async fn write(&self, node: &NodeName, write: &Write) -> RedisResult<i64> {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("TIME");
        for (key, fields) in [
            (self.scope.key(node), &write.classic),
            (self.scope.info_key(node), &write.info),
        ] {
            pipe.cmd("DEL").arg(&key);
            if let Some(fields) = fields {
                let hset = pipe.cmd("HSET").arg(&key);
                for (field, value) in fields {
                    hset.arg(field.as_slice()).arg(value.as_slice());
                }
                pipe.cmd("EXPIRE").arg(&key).arg(EXPIRY_S);
            }
        }
        let index = self.scope.index();
        match write.score {
            Some(score) => pipe.cmd("ZADD").arg(&index).arg(score).arg(node.as_str()),
            None => pipe.cmd("ZREM").arg(&index).arg(node.as_str()),
        };
        let channel = self.scope.channel();
        if write.publish_key {
            pipe.cmd("PUBLISH").arg(&channel).arg(self.scope.key(node));
        }
        if write.ping {
            pipe.cmd("PUBLISH").arg(&channel).arg("ping");
        }
        pipe.cmd("PUBLISH")
            .arg(self.scope.events())
            .arg(write.event.as_ref());
        let values = self.query(&pipe).await?;
        time(values.into_iter().next().unwrap_or(Value::Nil))
    }

    /// Extends the expiry of our keys. Gives whether all were still there, and the time.
    pub(crate) async fn renew(
        &self,
        node: &NodeName,
        renewal: Renewal,
    ) -> RedisResult<(bool, i64)> {
        let mut pipe = redis::pipe();
        pipe.cmd("TIME");
        let keys = [
            (renewal.classic, self.scope.key(node)),
            (renewal.info, self.scope.info_key(node)),
        ];
        let keys: Vec<_> = keys
            .into_iter()
            .filter_map(|(due, key)| due.then_some(key))
            .collect();
        for key in &keys {
            pipe.cmd("EXPIRE").arg(key).arg(EXPIRY_S);
        }
        if let Some(score) = renewal.score {
            pipe.cmd("ZADD")
                .arg(self.scope.index())
                .arg(score)
                .arg(node.as_str());
        }
        let mut values = self.query(&pipe).await?.into_iter();
        let now = time(values.next().unwrap_or(Value::Nil))?;
        let there = values.take(keys.len()).all(|value| value == Value::Int(1));
        Ok((there, now))
    }

    /// Everything about these nodes, and the time.
    pub(crate) async fn look_up(&self, nodes: &[NodeName]) -> RedisResult<(i64, Vec<Found>)> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors().cmd("TIME");
        for node in nodes {
            let scope = self.scope_of(node);
            let key = scope.key(node);
            pipe.cmd("HGETALL").arg(&key);
            pipe.cmd("HGETALL").arg(scope.info_key(node));
            pipe.cmd("PTTL").arg(&key);
            pipe.cmd("ZSCORE").arg(scope.index()).arg(node.as_str());
        }
        let mut values = self.query(&pipe).await?.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let now = time(next())?;
        let found = |node: &NodeName| {
            Ok(Found {
                node: node.clone(),
                classic: hash(next())?,
                info: hash(next())?,
                left_ms: match next() {
                    Value::Int(left) if left >= 0 => Some(left),
                    _ => None,
                },
                score: score(&next()),
            })
        };
        let found: RedisResult<Vec<Found>> = nodes.iter().map(found).collect();
        Ok((now, found?))
    }

    /// Names and scores of the index from a score on.
    pub(crate) async fn index(&self, from: i64, most: usize) -> RedisResult<Vec<(Vec<u8>, i64)>> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.scope.index()).arg(from).arg("+inf");
        command.arg("WITHSCORES").arg("LIMIT").arg(0).arg(most);
        let values: Vec<Value> = command.query_async(&mut self.connection.clone()).await?;
        let (pairs, _) = values.as_chunks::<2>();
        let entry = |[name, of]: &[Value; 2]| Some((bytes(name)?.to_vec(), score(of)?));
        Ok(pairs.iter().filter_map(entry).collect())
    }

    /// All classic keys, at most so many. `None` when the lock is wanted and someone else has it.
    pub(crate) async fn scan(
        &self,
        lock: Option<&NodeName>,
        most: usize,
    ) -> RedisResult<Option<Vec<Vec<u8>>>> {
        let mut connection = self.connection.clone();
        if let Some(node) = lock {
            let mut set = redis::cmd("SET");
            set.arg(self.scope.scan_lock()).arg(node.as_str());
            set.arg("NX").arg("PX").arg(LOCK_MS);
            let taken: Value = set.query_async(&mut connection).await?;
            if taken == Value::Nil {
                return Ok(None);
            }
        }
        let keys = self.scan_for(&self.scope.pattern(), most).await?;
        self.note_versions(&keys);
        Ok(Some(keys))
    }

    /// All info keys, at most so many.
    pub(crate) async fn scan_info(&self, most: usize) -> RedisResult<Vec<Vec<u8>>> {
        self.scan_for(&self.scope.info_pattern(), most).await
    }

    /// Step by step, so that Redis never stops for it.
    async fn scan_for(&self, pattern: &str, most: usize) -> RedisResult<Vec<Vec<u8>>> {
        let mut connection = self.connection.clone();
        let mut keys = Vec::new();
        let mut cursor = 0u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(SCAN_STEP);
            let (next, some): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
            keys.extend(some);
            cursor = next;
            if cursor == 0 || keys.len() >= most {
                return Ok(keys);
            }
        }
    }

    /// Publishes on the events channel.
    pub(crate) async fn announce(&self, message: &Bytes) -> RedisResult<()> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.scope.events()).arg(message.as_ref());
        publish
            .query_async::<Value>(&mut self.connection.clone())
            .await
            .map(drop)
    }
}

/// Unix ms out of `TIME`.
fn time(value: Value) -> RedisResult<i64> {
    if let Value::ServerError(error) = value {
        return Err(error.into());
    }
    let (seconds, micros): (i64, i64) = redis::from_redis_value(value)?;
    Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

/// The fields of a hash; `None` when the key is none.
fn hash(value: Value) -> RedisResult<Option<Fields>> {
    match value {
        Value::ServerError(error) => match error.code() {
            "WRONGTYPE" => Ok(None),
            _ => Err(error.into()),
        },
        Value::Array(values) => {
            let (pairs, _) = values.as_chunks::<2>();
            let field =
                |[key, value]: &[Value; 2]| Some((bytes(key)?.to_vec(), bytes(value)?.to_vec()));
            Ok(Some(pairs.iter().filter_map(field).collect()))
        }
        _ => Ok(Some(Fields::new())),
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn score(value: &Value) -> Option<i64> {
    let text = std::str::from_utf8(bytes(value)?).ok()?;
    let score: f64 = text.parse().ok()?;
    (score.abs() < 1e15).then_some(score as i64)
}

/// Whether the connection is of no more use.
pub(crate) fn is_away(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// Where Redis is, without the password.
pub(crate) fn place(client: &redis::Client) -> String {
    format!("Redis at {}", client.get_connection_info().addr())
}

/// What went wrong and how to mend it, in one line.
pub(crate) fn explain(place: &str, error: &RedisError) -> String {
    trouble(place, error).to_string()
}

/// The same in its two halves.
pub(crate) fn trouble(place: &str, error: &RedisError) -> Trouble {
    // A pipeline or a transaction has failed for the first of its commands that did.
    let first = error.clone().into_server_errors();
    let first = first.as_deref().and_then(|errors| errors.first());
    let (code, detail) = match first {
        Some((_, error)) => (Some(error.code()), error.details()),
        None => (error.code(), error.detail()),
    };
    let detail = detail.unwrap_or_default();
    let (what, mend) = match code {
        Some("NOAUTH") => (
            "wants a password".to_owned(),
            "give it in the URL, --redis redis://USER:PASSWORD@HOST:PORT/",
        ),
        _ if error.kind() == ErrorKind::AuthenticationFailed || code == Some("WRONGPASS") => (
            "refuses the user name or password in the URL of --redis".to_owned(),
            "correct them",
        ),
        Some("NOPERM") => (
            format!("does not permit what the mesh needs ({detail})"),
            "give the user the ACL of docs/security.md",
        ),
        Some("READONLY") => (
            "is a read-only replica".to_owned(),
            "--redis must name its master",
        ),
        // Any other key of ours is replaced or told by its name.
        Some("WRONGTYPE") => (
            "has something else than the index of the mesh under its key, redgrid.index:DOMAIN:VERSION"
                .to_owned(),
            "delete it",
        ),
        Some("LOADING") => (
            "is still loading its data".to_owned(),
            "waiting for it",
        ),
        _ if error.is_timeout() => (
            "does not answer in time".to_owned(),
            "is it blocked, or the way to it?",
        ),
        _ if is_away(error) => (
            format!("cannot be reached ({error})"),
            "is it running there, and is --redis right?",
        ),
        _ => (
            format!("refuses a command of the mesh ({error})"),
            "is it a Redis of version 5 or newer?",
        ),
    };
    Trouble {
        what: format!("{place} {what}"),
        mend: mend.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_redis_is_never_tells_the_password() {
        let client = redis::Client::open("redis://someone:s3cret@10.0.0.1:6380/2").unwrap();
        assert_eq!(place(&client), "Redis at 10.0.0.1:6380");
    }

    #[test]
    fn a_key_that_is_no_hash_is_told_from_an_empty_one() {
        assert_eq!(hash(Value::Array(Vec::new())).unwrap(), Some(Fields::new()));
        let odd = Value::Array(vec![Value::BulkString(b"ip".to_vec()), Value::Int(1)]);
        assert_eq!(hash(odd).unwrap(), Some(Fields::new()));
    }

    #[test]
    fn a_score_that_is_no_time_is_none() {
        let text = |text: &str| score(&Value::BulkString(text.as_bytes().to_vec()));
        assert_eq!(text("1700000000123"), Some(1_700_000_000_123));
        assert_eq!((text("inf"), text("nan"), text("x")), (None, None, None));
    }
}
