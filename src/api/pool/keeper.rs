//! The thread of a pool: it polls dials and the ends of connections, waits for time, and does what
//! the plan says.

use std::collections::HashMap;
use std::sync::Arc;

use super::errors::PoolError;
use super::futures::PolledFutures;
use super::name::PeerName;
use super::peer::{PoolStep, SignOfLife};
use super::shared::{PoolCaller, PoolShared, PoolState, PooledConnection, ended};
use crate::api::{ConnectError, Connection, ConnectionError, Engine};
use crate::engine::now;

/// What came of a future.
enum Happened {
    Dialled(Result<Connection, ConnectError>),
    Ended(ConnectionError),
}

/// What the thread has for itself.
pub(super) struct PoolKeeper {
    engine: Engine,
    shared: Arc<PoolShared>,
    futures: PolledFutures<(u64, Happened)>,
    /// Whose dials and connections they are.
    names: HashMap<u64, Arc<PeerName>>,
    /// Questions for a sign of life.
    asked: HashMap<u64, u64>,
}

impl Drop for PoolKeeper {
    /// Whatever becomes of the thread, nobody waits for it for ever.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.plan.drop_all();
        state.is_over = true;
        let connections = std::mem::take(&mut state.connections);
        let callers = std::mem::take(&mut state.callers);
        drop(state);
        drop(connections);
        for caller in callers.into_values() {
            caller.give(Err(PoolError::Dropped));
        }
        self.shared.told.notify(usize::MAX);
        self.shared.ended.notify(usize::MAX);
    }
}

/// What is done when nothing is locked any more.
#[derive(Default)]
struct Afterwards {
    answers: Vec<(Arc<PoolCaller>, Result<PooledConnection, PoolError>)>,
    has_told: bool,
}

impl PoolKeeper {
    pub(super) fn new(engine: Engine, shared: Arc<PoolShared>) -> PoolKeeper {
        let futures = PolledFutures::new(shared.bell.clone());
        PoolKeeper {
            engine,
            shared,
            futures,
            names: HashMap::new(),
            asked: HashMap::new(),
        }
    }

    /// Until the pool is dropped or drained.
    pub(super) fn run(mut self) {
        loop {
            let happened = self.futures.poll();
            let now = now();
            let mut afterwards = Afterwards::default();
            let shared = self.shared.clone();
            let mut state = shared.state();
            for (number, happened) in happened {
                self.take_in(&mut state, number, happened);
            }
            if state.is_dropped {
                state.plan.drop_all();
            }
            state.plan.turn(now);
            while let Some(step) = state.plan.next_step() {
                self.carry_out(&mut state, step, &mut afterwards);
            }
            let wake_at = state.plan.deadline(now);
            let is_over = state.plan.drained().is_some();
            drop(state);
            for (caller, answer) in afterwards.answers {
                caller.give(answer);
            }
            if afterwards.has_told {
                shared.told.notify(usize::MAX);
            }
            if is_over {
                return;
            }
            let at_most = wake_at.map(|at| at.saturating_duration_since(now));
            shared.bell.wait(at_most);
        }
    }

    fn take_in(&mut self, state: &mut PoolState, number: u64, happened: Happened) {
        let Some(name) = self.names.get(&number).cloned() else {
            return;
        };
        match happened {
            Happened::Dialled(Ok(connection)) => {
                let key = connection.peer();
                if !state.plan.connected(now(), &name, (number, key)) {
                    self.forget(state, number);
                    return;
                }
                state.connections.insert(number, connection.clone());
                let ends = async move { (number, Happened::Ended(connection.closed().await)) };
                self.futures.insert(number, ends);
            }
            Happened::Dialled(Err(error)) => {
                self.forget(state, number);
                state.plan.dial_failed(now(), &name, (number, error));
            }
            Happened::Ended(why) => {
                self.forget(state, number);
                state.plan.ended(now(), &name, (number, why));
            }
        }
    }

    fn forget(&mut self, state: &mut PoolState, number: u64) {
        self.futures.remove(number);
        self.names.remove(&number);
        self.asked.remove(&number);
        state.connections.remove(&number);
    }

    fn carry_out(&mut self, state: &mut PoolState, step: PoolStep, afterwards: &mut Afterwards) {
        match step {
            PoolStep::Dial { peer, dial } => {
                self.names.insert(dial, peer.clone());
                let engine = self.engine.clone();
                self.futures.insert(dial, async move {
                    let trust = peer.trust.clone();
                    let connected = engine.connect(&peer.address, trust).await;
                    (dial, Happened::Dialled(connected))
                });
            }
            PoolStep::StopDial(dial) => self.forget(state, dial),
            PoolStep::Give {
                peer,
                caller,
                connection,
            } => {
                let found = state.connections.get(&connection).cloned();
                match (ended(found.as_ref()), found) {
                    (None, Some(found)) => {
                        // A place whose caller went away meanwhile goes back with the answer.
                        let answer = Ok(self.shared.pooled(&peer, connection, found));
                        let caller = state.callers.remove(&caller.number).unwrap_or_default();
                        afterwards.answers.push((caller, answer));
                    }
                    (why, _) => {
                        if let Some(why) = why {
                            state.plan.ended(now(), &peer, (connection, why));
                        }
                        if state.callers.contains_key(&caller.number) {
                            state.plan.wait_again(now(), &peer, caller);
                            self.shared.bell.ring();
                        }
                    }
                }
            }
            PoolStep::Refuse { caller, error } => {
                if let Some(caller) = state.callers.remove(&caller) {
                    afterwards.answers.push((caller, Err(error)));
                }
            }
            PoolStep::Close { connection, why } => {
                if let Some(found) = state.connections.get(&connection) {
                    found.close(0, why);
                }
                self.forget(state, connection);
            }
            PoolStep::Ask(connection) => {
                if let Some(found) = state.connections.get(&connection) {
                    self.asked.insert(connection, found.ask_for_life());
                }
            }
            PoolStep::Judge { peer, connection } => {
                let found = state.connections.get(&connection);
                let question = self.asked.get(&connection);
                let sign = match found.zip(question) {
                    Some((found, question)) if found.has_answered(*question) => SignOfLife::Came,
                    Some((found, question)) if !found.was_asked(*question) => {
                        SignOfLife::NotAskedFor
                    }
                    _ => SignOfLife::Missing,
                };
                state.plan.judged(now(), &peer, (connection, sign));
            }
            PoolStep::Tell(event) => {
                state.events.push(event);
                afterwards.has_told = true;
            }
        }
    }
}
