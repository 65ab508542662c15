//! What may happen next, and which of it does.

use std::time::{Duration, Instant};

use super::link::{EndState, Room};
use super::mail::Way;
use super::{CLIENT, IDLE, SERVER, World};
use crate::proto::lanes::{DialKind, Newcomer};
use crate::proto::sim::ops::Pending;

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Establish {
        link: usize,
        side: usize,
    },
    Carry {
        link: usize,
        side: usize,
    },
    Read {
        link: usize,
        side: usize,
    },
    Room {
        link: usize,
        side: usize,
    },
    Delivered {
        link: usize,
        side: usize,
    },
    Goodbye {
        link: usize,
        side: usize,
    },
    /// A side notices that nothing comes any more.
    Notice {
        link: usize,
        side: usize,
    },
    Disk {
        node: usize,
    },
    Tick {
        node: usize,
    },
    TickNewcomer {
        link: usize,
    },
    /// Mail between two workers arrives.
    Mail {
        way: Way,
    },
}

impl World {
    pub(super) fn choose(&mut self) -> Option<Action> {
        // Phases in which some things are quick and others stall.
        if self.weights_for == 0 {
            self.weights_for = 20 + self.rng.below(400);
            self.control_first = self.rng.chance(30);
            for weight in &mut self.weights {
                *weight = self.rng.pick(&[0, 1, 1, 5, 30]);
            }
        }
        self.weights_for -= 1;
        self.now += Duration::from_nanos(self.rng.next() % 200_000);
        let actions = self.possible();
        if actions.is_empty() {
            return self.jump();
        }
        let total: usize = actions.iter().map(|action| self.weight(*action)).sum();
        if total == 0 {
            return Some(self.rng.pick(&actions));
        }
        let mut at = self.rng.below(total);
        actions.into_iter().find(|action| {
            let weight = self.weight(*action);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    fn weight(&self, action: Action) -> usize {
        let (kind, side) = match action {
            Action::Establish { side, .. } => (0, side),
            Action::Carry { side, .. } => (1, side),
            Action::Read { side, .. } => (2, side),
            Action::Room { side, .. } => (3, side),
            Action::Delivered { side, .. } => (4, side),
            Action::Goodbye { side, .. } | Action::Notice { side, .. } => (5, side),
            Action::Disk { node } => (6, self.nodes[node].side),
            Action::Tick { node } => (7, self.nodes[node].side),
            Action::TickNewcomer { .. } => (7, SERVER),
            Action::Mail { way } => (8, self.nodes[way.home].side),
        };
        self.weights[kind * 2 + side]
    }

    /// Whose lane this end of a link is.
    pub(super) fn owner(&self, link: usize, side: usize) -> Option<usize> {
        match side {
            CLIENT => Some(self.dialled[link]),
            _ => self.owners[link],
        }
    }

    pub(super) fn takes_data(&self, link: usize, side: usize) -> bool {
        let is_added = self.kinds[link] == DialKind::Add;
        if is_added && self.links[link].ends[side].control_most == 0 {
            return false;
        }
        self.owner(link, side)
            .is_some_and(|node| self.nodes[node].takes_data)
    }

    fn possible(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (at, link) in self.links.iter().enumerate() {
            if !link.is_over() {
                for side in [CLIENT, SERVER] {
                    self.possible_on(at, side, &mut actions);
                }
            }
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let ready = |pending: &Pending| pending.is_ready(self.now);
            if node.handles.pending.iter().any(ready) {
                actions.push(Action::Disk { node: at });
            }
            if node.deadline().is_some_and(|due| due <= self.now) {
                actions.push(Action::Tick { node: at });
            }
        }
        for (link, newcomer) in self.newcomers.iter().enumerate() {
            let due = newcomer.as_ref().and_then(Newcomer::deadline);
            if due.is_some_and(|due| due <= self.now) {
                actions.push(Action::TickNewcomer { link });
            }
        }
        let ways = self.mail.ways();
        actions.extend(ways.map(|way| Action::Mail { way }));
        actions
    }

    fn possible_on(&self, at: usize, side: usize, actions: &mut Vec<Action>) {
        let link = &self.links[at];
        let data = self.takes_data(at, side);
        match link.ends[side].state {
            EndState::Handshaking if side == SERVER => {
                // A server sees a connection once its client is through with the handshake.
                if link.ends[CLIENT].state != EndState::Handshaking && !link.cut {
                    actions.push(Action::Establish { link: at, side });
                }
            }
            EndState::Handshaking if !link.cut => {
                actions.push(Action::Establish { link: at, side });
            }
            EndState::Handshaking | EndState::Closed => {}
            EndState::Open => {
                if link.can_move(side) {
                    actions.push(Action::Carry { link: at, side });
                }
                if link.can_read(side, data) {
                    actions.push(Action::Read { link: at, side });
                }
                if link.ends[side].room == Room::Due {
                    actions.push(Action::Room { link: at, side });
                }
                if link.delivered(side).is_some() {
                    actions.push(Action::Delivered { link: at, side });
                }
                // The kernel notices the end of an added lane whenever it does.
                let is_noticed = self.kinds[at].is_added() || link.is_reset;
                if is_noticed && link.is_silent(side) {
                    actions.push(Action::Notice { link: at, side });
                }
                if link.goodbye(side, data).is_some() {
                    actions.push(Action::Goodbye { link: at, side });
                }
            }
        }
    }

    /// Nothing can happen now: to what time alone brings first.
    fn jump(&mut self) -> Option<Action> {
        let nodes = self.nodes.iter().enumerate();
        let ticks = nodes.filter_map(|(node, it)| Some((it.deadline()?, Action::Tick { node })));
        let newcomers = self.newcomers.iter().enumerate();
        let newcomers = newcomers.filter_map(|(link, newcomer)| {
            Some((
                newcomer.as_ref()?.deadline()?,
                Action::TickNewcomer { link },
            ))
        });
        let next = ticks.chain(newcomers).min_by_key(|(due, _)| *due);
        // A connection that says nothing any more is noticed after a while, on either side.
        let silent = self.silent();
        match (next, silent) {
            (Some((due, action)), None) => {
                self.now = self.now.max(due);
                Some(action)
            }
            (Some((due, action)), Some((link, _))) if !self.is_idle(link, due) => {
                self.now = self.now.max(due);
                Some(action)
            }
            (_, Some((link, side))) => {
                let idle_at = self.links[link].idle_at;
                self.now = self.now.max(idle_at.unwrap_or(self.now + IDLE));
                Some(Action::Notice { link, side })
            }
            (None, None) => None,
        }
    }

    fn is_idle(&mut self, link: usize, due: Instant) -> bool {
        let idle_at = *self.links[link].idle_at.get_or_insert(self.now + IDLE);
        idle_at <= due
    }

    /// A side of a connection on which nothing will come any more.
    fn silent(&mut self) -> Option<(usize, usize)> {
        let mut found = Vec::new();
        for (at, link) in self.links.iter().enumerate() {
            for side in [CLIENT, SERVER] {
                let gone = link.cut || link.ends[1 - side].state == EndState::Closed;
                let here = match link.ends[side].state {
                    EndState::Open => true,
                    EndState::Handshaking => side == CLIENT,
                    EndState::Closed => false,
                };
                if gone && here {
                    found.push((at, side));
                }
            }
        }
        (!found.is_empty()).then(|| self.rng.pick(&found))
    }
}
