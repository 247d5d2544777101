//! The mesh as Redis has it, for whoever has no node: `redgrid nodes`, `redgrid await`.

use super::registration::{Reading, Registration, Scope, node_name};
use super::state::Found;
use super::store::{self, Store};
use super::{GridError, MAX_MEMBERS, Status, store_client, unix_ms};
use crate::dist::NodeName;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Nodes per pipeline.
const BATCH: usize = 256;
/// Between two looks of [`await_members`].
const ROUND: Duration = Duration::from_millis(250);

/// One member, as Redis has it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it announces.
    pub registration: Registration,
    /// Until its registration ends without being renewed; `None` when it has no end.
    pub ends_in: Option<Duration>,
    /// What is wrong with what it announces.
    pub note: Option<String>,
}

/// All members by name, as Redis has them now; with `all` the suspended as well.
///
/// # Errors
/// [`GridError::Url`], or [`GridError::Redis`] with what to do about it.
pub async fn list(redis: &str, scope: &Scope, all: bool) -> Result<Vec<Listed>, GridError> {
    Lister::connect(redis, scope).await?.list(all).await
}

/// What somebody sees who looks at the Redis of a mesh to find what is wrong.
#[derive(Debug, Clone)]
pub struct Examined {
    /// Where it is, without the password.
    pub place: String,
    /// How long one command took, and its answer.
    pub took: Duration,
    /// By how many ms its clock is ahead of ours; less than 0: behind.
    pub ahead_ms: i64,
    /// All members, the suspended as well.
    pub members: Vec<Listed>,
}

/// Looks at the members and at the clock.
///
/// # Errors
/// As [`list`].
pub async fn examine(redis: &str, scope: &Scope) -> Result<Examined, GridError> {
    let lister = Lister::connect(redis, scope).await?;
    let explain = |error| GridError::Redis(store::trouble(&lister.place, &error));
    let before = unix_ms().unwrap_or_default();
    let asked = Instant::now();
    let (time, _) = lister.store.look_up(&[]).await.map_err(explain)?;
    let took = asked.elapsed();
    // Half of that went by before Redis read its clock.
    let here = before.saturating_add(took.as_millis() as i64 / 2);
    let members = lister.list(true).await?;
    Ok(Examined {
        place: lister.place,
        took,
        ahead_ms: time.saturating_sub(here),
        members,
    })
}

/// Waits until at least `nodes` members have all of these keys with these texts in their meta. Gives them.
///
/// # Errors
/// [`GridError::Timeout`] with how many there were; [`GridError::Url`]. Redis being away is waited for.
pub async fn await_members(
    redis: &str,
    scope: &Scope,
    nodes: usize,
    with: &[(String, String)],
    timeout: Duration,
) -> Result<Vec<Listed>, GridError> {
    store_client(redis)?;
    let deadline = Instant::now() + timeout;
    let mut lister = None;
    let mut so_far = "Redis did not answer in time".to_owned();
    loop {
        let looked =
            tokio::time::timeout_at(deadline.into(), look(&mut lister, redis, scope)).await;
        so_far = match looked {
            Ok(Ok(mut members)) => {
                members.retain(|member| has(&member.registration, with));
                if members.len() >= nodes {
                    return Ok(members);
                }
                format!("{} of {nodes} members were there", members.len())
            }
            Ok(Err(why)) => why.to_string(),
            // The look before the deadline says more than one that was cut short by it.
            Err(_) => so_far,
        };
        if Instant::now() + ROUND > deadline {
            let waited = timeout.as_secs_f64();
            return Err(GridError::Timeout(format!("after {waited} s {so_far}")));
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn look(
    lister: &mut Option<Lister>,
    redis: &str,
    scope: &Scope,
) -> Result<Vec<Listed>, GridError> {
    let connected = match lister.take() {
        Some(lister) => lister,
        None => Lister::connect(redis, scope).await?,
    };
    // A connection that failed is not used again.
    let members = connected.list(false).await?;
    *lister = Some(connected);
    Ok(members)
}

fn has(registration: &Registration, with: &[(String, String)]) -> bool {
    let same = |(key, text): &(String, String)| {
        let value = registration.meta.get(key);
        value.is_some_and(|value| value.text() == text.as_bytes())
    };
    with.iter().all(same)
}

struct Lister {
    store: Store,
    place: String,
}

impl Lister {
    async fn connect(redis: &str, scope: &Scope) -> Result<Self, GridError> {
        let client = store_client(redis)?;
        let place = store::place(&client);
        let connection = store::connect(&client).await;
        let connection =
            connection.map_err(|error| GridError::Redis(store::trouble(&place, &error)))?;
        Ok(Self {
            store: Store::new(connection, scope.clone()),
            place,
        })
    }

    async fn list(&self, all: bool) -> Result<Vec<Listed>, GridError> {
        let explain = |error| GridError::Redis(store::trouble(&self.place, &error));
        // Classic members are in the keys only, suspended ones of today in neither keys nor index.
        let mut keys = self
            .store
            .scan(None, 2 * MAX_MEMBERS)
            .await
            .map_err(explain)?
            .unwrap_or_default();
        if all {
            keys.extend(
                self.store
                    .scan_info(2 * MAX_MEMBERS)
                    .await
                    .map_err(explain)?,
            );
        }
        let index = match self.store.index(0, MAX_MEMBERS).await {
            Ok(index) => index,
            Err(error) if store::is_away(&error) => return Err(explain(error)),
            // Most members have keys that were found already.
            Err(error) => {
                tracing::warn!("{}", explain(error));
                Vec::new()
            }
        };
        let of_index = index.iter().filter_map(|(name, _)| node_name(name).ok());
        let scope = &self.store.scope;
        let named = |key: &Vec<u8>| scope.node_of(key).or_else(|| scope.node_of_info(key))?.ok();
        let nodes: BTreeSet<NodeName> = keys.iter().filter_map(named).chain(of_index).collect();
        let nodes: Vec<NodeName> = nodes.into_iter().take(MAX_MEMBERS).collect();
        let mut members = Vec::new();
        for batch in nodes.chunks(BATCH) {
            let (_, found) = self.store.look_up(batch).await.map_err(explain)?;
            members.extend(found.into_iter().filter_map(listed));
        }
        members.retain(|member| all || member.registration.status != Status::Suspended);
        Ok(members)
    }
}

fn listed(found: Found) -> Option<Listed> {
    let (classic, info) = (found.classic?, found.info.unwrap_or_default());
    let Reading {
        registration,
        left_out,
    } = Registration::read(&found.node, &classic, &info).ok()?;
    Some(Listed {
        registration,
        ends_in: found
            .left_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis),
        note: left_out.map(|left_out| left_out.to_string()),
    })
}
