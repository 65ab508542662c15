//! Lanes of a session on several workers: mail between its own worker and the others, and the
//! descriptors that go along.

use std::net::SocketAddr;

use crate::config::LaneKind;
use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId, WorkerId};
use crate::proto::lanes::{DialKind, Lanes, LanesInput};
use crate::proto::lanes::{ToHome, ToOutpost};
use crate::proto::session::Session;
use crate::worker::Worker;
use crate::worker::client_transfer::ClientTransfer;
use crate::worker::handed_over::Joins;
use crate::worker::limits;
use crate::worker::mailbox::Mail;
use crate::worker::outpost_mail::{OutpostMail, OutpostWord, PeerAt};
use crate::worker::sessions::Beginning;
use crate::worker::shared::{Home, PeerAccess};

impl Worker {
    pub(super) fn mail_outpost(&mut self, session: usize, to: WorkerId, mail: ToOutpost) {
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        let share = |file| Some((file, running.space.share(file).ok()?));
        let file = mail.file().and_then(share);
        let share = |dir| Some((dir, running.space.share_dir(dir).ok()?));
        let dirs = mail.dirs().into_iter().filter_map(share).collect();
        let dials = matches!(mail, ToOutpost::Dial { .. }).then(|| self.peer_at(session));
        let dials = dials.flatten();
        if let (ToOutpost::Over, Some(client)) = (&mail, &mut self.client) {
            client.await_carried(self.io.now);
        }
        let word = OutpostWord::ToOutpost {
            mail,
            file,
            dirs,
            dials,
        };
        self.send_word(running.id, to, word);
    }

    pub(super) fn mail_home(&mut self, session: usize, mail: ToHome) {
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        let (Some(home), id) = (running.home, running.id) else {
            return;
        };
        if let Some(file) = mail.lets_go() {
            running.space.forget_file(file);
        }
        let dirs = mail.lets_go_dirs().iter();
        dirs.for_each(|dir| running.space.forget_dir(*dir));
        self.send_word(id, home, OutpostWord::ToHome(mail));
    }

    /// Where a session's lanes are dialled.
    fn peer_at(&self, session: usize) -> Option<PeerAt> {
        let path = self.connections.newest_of(session)?.path();
        Some(PeerAt {
            fingerprint: self.sessions.get(session)?.peer,
            address: path.peer,
            bind: self.client.as_ref()?.paths.numbered(path),
        })
    }

    fn send_word(&mut self, session: SessionId, to: WorkerId, word: OutpostWord) {
        let from = self.io.id;
        let mail = OutpostMail {
            session,
            from,
            word,
        };
        let mail = Mail::Outpost(Box::new(mail));
        self.outbox.send(&self.io.shared, to, mail);
    }

    /// Mail of a session that has lanes on another worker.
    pub(crate) fn take_outpost_mail(&mut self, mail: OutpostMail) {
        let OutpostMail {
            session: id,
            from,
            word,
        } = mail;
        if let OutpostWord::Counted = &word {
            let client = self.client.as_mut();
            return client.map_or((), ClientTransfer::counted);
        }
        let mut found = self.sessions.find(id);
        if let OutpostWord::ToOutpost {
            dials: Some(to), ..
        } = &word
        {
            found = found.or_else(|| self.begin_dialling_outpost(id, to.clone()));
        }
        let home = found.and_then(|key| self.sessions.get(key)?.home);
        let is_end =
            matches!(&word, OutpostWord::ToOutpost { mail, .. } if matches!(mail, ToOutpost::Over));
        if is_end && self.io.shared.service.is_none() {
            // What the lanes here carried is in this worker's numbers, before home looks there.
            self.look_up();
            self.send_word(id, from, OutpostWord::Counted);
        }
        match (word, found) {
            (
                OutpostWord::ToOutpost {
                    mail,
                    file,
                    dirs,
                    dials,
                },
                Some(session),
            ) if home == Some(from) => {
                if let Some(running) = self.sessions.get_mut(session) {
                    let space = &running.space;
                    let (files, dirs) = (file.into_iter(), dirs.into_iter());
                    files.for_each(|(file, shared)| space.adopt(file, shared));
                    dirs.for_each(|(dir, shared)| space.adopt_dir(dir, shared));
                    running.dials = dials.or(running.dials.take());
                }
                self.tell(session, LanesInput::FromHome(mail));
            }
            (
                OutpostWord::ToOutpost {
                    mail: ToOutpost::Dial { .. },
                    ..
                },
                None,
            ) => {
                self.send_word(id, from, OutpostWord::ToHome(ToHome::DialFailed));
            }
            // The session went on without this worker.
            (OutpostWord::ToOutpost { .. }, _) => {}
            (OutpostWord::ToHome(mail), Some(session)) if home.is_none() => {
                self.tell(session, LanesInput::FromOutpost(from, mail));
            }
            // Nobody else says so, once the session is over.
            (OutpostWord::ToHome(_), _) => self.send_word(id, from, OutpostWord::NoSuchSession),
            (OutpostWord::NoSuchSession, Some(session)) if home == Some(from) => {
                self.tell(session, LanesInput::FromHome(ToOutpost::Over));
            }
            (OutpostWord::NoSuchSession | OutpostWord::Counted, _) => {}
        }
    }

    /// A command's session is to have lanes of this worker, too.
    fn begin_dialling_outpost(&mut self, id: SessionId, peer: PeerAt) -> Option<usize> {
        let home = self.io.shared.homes.find(&id)?;
        let space = Space::new(Base::Local);
        let address = peer.address;
        self.begin_outpost_of(id, home, (peer.fingerprint, address), (space, None))
    }

    /// A lane arrived here of a session that is at home on another worker, and none of its lanes is
    /// here yet. Gives what is to be told of it from now on. None: it is no lane that may be here.
    pub(super) fn begin_outpost(&mut self, key: usize, joins: Joins) -> Option<usize> {
        let id = joins.session;
        let home = self.io.shared.homes.find(&id)?;
        if joins.kind != DialKind::Add || home.worker == self.io.id {
            return None;
        }
        let connection = self.connections.get(key)?;
        let (address, peer) = (connection.peer, connection.conn.peer_fingerprint()?);
        let allowed = self.io.shared.authorised(&peer)?;
        let service = self.io.shared.service.as_ref()?;
        let part = service.root.part(allowed.path.clone());
        let space = Space::new(Base::Served(part)).of_peer(&peer);
        self.begin_outpost_of(id, home, (peer, address), (space, Some(allowed)))
    }

    fn begin_outpost_of(
        &mut self,
        id: SessionId,
        home: Home,
        (peer, address): (Fingerprint, SocketAddr),
        (space, allowed): (Space, Option<PeerAccess>),
    ) -> Option<usize> {
        let (now, sends) = (self.io.now, home.sends?);
        let limits = limits::of_session(&self.io.shared, self.sessions.len());
        // Home chooses.
        let config = self.lanes_config((id, peer), LaneKind::Tls);
        let session = Session::away(now, self.io.id, sends, limits);
        let begin = Beginning {
            id,
            address,
            peer,
            lanes: Lanes::outpost(now, session, sends, config),
            space,
            allowed,
            home: Some(home.worker),
            dials: None,
        };
        let session = self.sessions.begin(&mut self.io, begin);
        self.disk.share_among(self.sessions.len());
        Some(session)
    }
}
