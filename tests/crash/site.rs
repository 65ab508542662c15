//! Where a copy goes on: the side that writes, the side that has the source, and a daemon if the
//! way needs one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::common::{Daemon, Running, Side, command};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Push,
    Pull,
    Local,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::Push, Way::Pull, Way::Local];
}

pub struct Site {
    pub way: Way,
    pub backends: [&'static str; 2],
    /// What `landro` keeps about itself where it writes; it lies beside the destination, and is
    /// lost with it.
    writer: Side,
    reader: Side,
    /// The directory with the trees `new/tree` and, if there are older files, `old/tree`.
    source: PathBuf,
    /// Which of them is sent.
    pub version: &'static str,
    /// The directory that `tree` is to arrive in.
    target: PathBuf,
    daemon: Option<Daemon>,
}

impl Site {
    pub fn new(
        way: Way,
        backends: [&'static str; 2],
        writer: Side,
        source: PathBuf,
        target: PathBuf,
    ) -> Site {
        Site {
            way,
            backends,
            writer,
            reader: Side::new(),
            source,
            version: "new",
            target,
            daemon: None,
        }
    }

    pub fn sent(&self) -> PathBuf {
        self.source.join(self.version).join("tree")
    }

    pub fn arrived(&self) -> PathBuf {
        self.target.join("tree")
    }

    fn client(&self) -> &Side {
        match self.way {
            Way::Push => &self.reader,
            Way::Pull | Way::Local => &self.writer,
        }
    }

    /// Starts the daemon, if the way needs one; on the port that the one before had. `prefix` runs
    /// before what writes.
    pub fn start(&mut self, prefix: &[&str]) {
        let (side, prefix, root): (&Side, &[&str], &Path) = match self.way {
            Way::Push => (&self.writer, prefix, &self.target),
            Way::Pull => (&self.reader, &[], &self.source),
            Way::Local => return,
        };
        let before = self.daemon.take().map(|daemon| daemon.address().to_owned());
        let listen = before.unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let allowed = self.client().id();
        let args = [
            "--listen",
            &listen,
            "--backend",
            self.backends[0],
            "--allow",
            &allowed,
        ];
        self.daemon = Some(Daemon::start_with(side, prefix, root, &args));
    }

    /// kill -9.
    pub fn kill_daemon(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill();
        }
    }

    pub fn daemon_log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    pub fn cp(&self, prefix: &[&str], flags: &[&str]) -> Running {
        let prefix = if self.way == Way::Push { &[] } else { prefix };
        // Modes of directories that are there, too: the tree is to be the same.
        let fixed = ["cp", "--json", "--retry", "0", "-p", "--backend"];
        let mut args: Vec<OsString> = fixed.map(Into::into).into();
        args.push(self.backends[1].into());
        args.extend(flags.iter().map(OsString::from));
        let url = |path: &str| OsString::from(self.daemon.as_ref().unwrap().url(path));
        if let Some(daemon) = &self.daemon {
            args.extend(["--peer".into(), OsString::from(&daemon.fingerprint)]);
        }
        args.extend(match self.way {
            Way::Push => [self.sent().into(), url("")],
            Way::Pull => [
                url(&format!("{}/tree", self.version)),
                self.target.clone().into(),
            ],
            Way::Local => [self.sent().into(), self.target.clone().into()],
        });
        Running::spawn(command(self.client(), prefix, args))
    }
}
