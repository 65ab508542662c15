//! A handle that lists and reads over one session: how many questions that answers, and what
//! becomes of them where the daemon, or who asks, goes away.

mod common;

use std::fs;
use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{World, within};
use futures_lite::future::{block_on, poll_once};
use landro::engine::now;
use landro::{
    BackendChoice, Engine, Fingerprint, Grant, Identity, PeerTrust, QuicConfig, RemoteFiles,
    TransferError,
};

/// How the daemon's log ends a session of questions.
const SESSION: &str = "session complete verb=queries";

fn data(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at * at + seed) >> 5) as u8).collect()
}

/// A daemon, and an engine of somebody whom it lets in.
struct Asked {
    world: World,
    engine: Engine,
}

impl Asked {
    fn new(name: &'static str) -> Asked {
        Asked::with(World::new(name), QuicConfig::auto())
    }

    fn with(world: World, quic: QuicConfig) -> Asked {
        let backend = match world.backend {
            "poll" => BackendChoice::Poll,
            _ => BackendChoice::IoUring,
        };
        let pem = fs::read_to_string(world.client.path().join("identity.pem")).unwrap();
        let engine = Engine::builder()
            .backend(backend)
            .quic(quic)
            .identity(Identity::from_pem(&pem).unwrap())
            .start()
            .unwrap();
        Asked { world, engine }
    }

    fn files(&self) -> RemoteFiles {
        let known: Fingerprint = self.world.server.id().parse().unwrap();
        let at = self.world.daemon.address();
        self.engine.remote_files(at, PeerTrust::Pinned(known))
    }

    fn write(&self, name: &str, bytes: usize) -> Vec<u8> {
        let data = data(bytes, name.len());
        fs::write(self.world.root(name), &data).unwrap();
        data
    }

    /// Sessions of questions that are over.
    fn sessions(&self) -> usize {
        self.world.daemon.log().matches(SESSION).count()
    }

    /// The one session that there was, once it is over, answered so many questions.
    #[track_caller]
    fn had_one_session_of(&self, questions: usize) {
        self.world.daemon.wait_for_log(SESSION);
        let log = self.world.daemon.log();
        assert_eq!(log.matches(SESSION).count(), 1, "{log}");
        assert!(log.contains(&format!(" files={questions} ")), "{log}");
    }
}

/// What all of them give, polled side by side.
fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    block_on(poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(done) = future.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }));
    outputs.into_iter().flatten().collect()
}

fn many_questions_are_one_session(name: &'static str) {
    let asked = Asked::new(name);
    let small = asked.write("small", 3000);
    let files = asked.files();
    let clone = files.clone();
    block_on(async {
        for round in 0..200 {
            let from = round * 10;
            let read = files.read_range("small", from..from + 10).await.unwrap();
            assert_eq!(read.bytes, &small[from as usize..from as usize + 10]);
            assert_eq!(read.file_bytes, 3000);
        }
        for _ in 0..50 {
            assert_eq!(clone.list("").await.unwrap().len(), 1);
        }
        // What fails ends itself alone.
        let none = files.read_range("none", 0..1).await;
        assert!(matches!(none, Err(TransferError::NotFound(_))), "{none:?}");
    });
    drop(files);
    assert_eq!(block_on(clone.list("")).unwrap().len(), 1);
    assert_eq!(asked.sessions(), 0, "a clone has it yet");
    drop(clone);
    asked.had_one_session_of(252);
}

fn questions_go_side_by_side(name: &'static str) {
    let asked = Asked::new(name);
    let large = asked.write("large", 60 << 20);
    let small = asked.write("s", 100_000);
    for number in 0..2000 {
        fs::write(asked.world.root(&format!("f{number}")), b"").unwrap();
    }
    let files = asked.files();
    let reads = (0..40).map(|number| {
        let (files, large, small) = (files.clone(), &large, &small);
        async move {
            match number % 4 {
                0 => {
                    let from = number << 20;
                    let range = from..from + (3 << 20);
                    let read = files.read_range("large", range).await.unwrap();
                    assert!(read.bytes == large[from as usize..from as usize + (3 << 20)]);
                }
                1 => assert_eq!(files.list("").await.unwrap().len(), 2002),
                _ => {
                    let read = files.read_range("s", 0..u64::MAX).await.unwrap();
                    assert!(read.bytes == small[..]);
                }
            }
        }
    });
    all(reads.collect());

    // One that takes long holds up nobody.
    let mut whole = Box::pin(files.read_range("large", 0..u64::MAX));
    assert!(block_on(poll_once(&mut whole)).is_none());
    for _ in 0..5 {
        assert!(block_on(files.read_range("s", 0..10)).unwrap().bytes == small[..10]);
    }
    assert!(block_on(whole).unwrap().bytes == large);
    drop(files);
    asked.had_one_session_of(46);
}

fn a_read_tells_which_file_it_was(name: &'static str) {
    let asked = Asked::new(name);
    let data = asked.write("f", 5000);
    symlink("f", asked.world.root("link")).unwrap();
    fs::create_dir(asked.world.root("d")).unwrap();
    let files = asked.files();
    let careful = files.clone().refuse_symlinks(true);
    let read = |files: &RemoteFiles, path: &str, range| block_on(files.read_range(path, range));
    let meta = |path: &Path| fs::metadata(path).unwrap();
    for range in [0..0, 0..10, 4000..9000, 5000..5001] {
        let found = read(&files, "f", range.clone()).unwrap();
        let there = meta(&asked.world.root("f"));
        assert_eq!(found.file_bytes, there.len());
        assert_eq!(found.modified, there.modified().unwrap());
        let end = range.end.min(5000) as usize;
        assert!(found.bytes == data[range.start as usize..end]);
    }
    assert_eq!(read(&files, "link", 0..5).unwrap().bytes, &data[..5]);
    for refused in [
        read(&careful, "link", 0..5),
        read(&careful, "d", 0..0),
        read(&files, "f", 5001..6000),
    ] {
        assert!(
            matches!(refused, Err(TransferError::NotFound(_))),
            "{refused:?}"
        );
    }
    assert_eq!(read(&careful, "f", 0..5).unwrap().bytes, &data[..5]);
    let too_long = block_on(files.list("x/".repeat(3000)));
    assert!(
        matches!(too_long, Err(TransferError::Failed(_))),
        "{too_long:?}"
    );
}

/// What is dropped gives its place back, and what is kept and not polled holds nobody up.
fn questions_that_are_dropped_or_left(name: &'static str) {
    let asked = Asked::new(name);
    let large = asked.write("large", 30 << 20);
    let files = asked.files();
    let begun = now();
    for round in 0..40 {
        let mut questions: Vec<_> = (0..12)
            .map(|_| Box::pin(files.read_range("large", 0..u64::MAX)))
            .collect();
        for question in &mut questions {
            assert!(block_on(poll_once(question)).is_none());
        }
        std::thread::sleep(Duration::from_millis(round % 7));
        drop(questions);
        let read = block_on(files.read_range("large", 5..10)).unwrap();
        assert_eq!(read.bytes, &large[5..10]);
    }
    // Read to their ends, 480 times 30 MiB would take far longer.
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    let mut left: Vec<_> = (0..12)
        .map(|_| Box::pin(files.read_range("large", 0..u64::MAX)))
        .collect();
    for question in &mut left {
        assert!(block_on(poll_once(question)).is_none());
    }
    assert_eq!(block_on(files.list("")).unwrap().len(), 1);
    for question in left {
        assert!(block_on(question).unwrap().bytes == large);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", asked.world.daemon.pid()));
    assert!(open.unwrap().count() < 100, "files are left open");
    drop(files);
    asked.world.daemon.wait_for_log(SESSION);
    assert_eq!(asked.sessions(), 1);
}

/// Whoever is woken asks something, and drops that again, before it returns.
struct AsksWhenWoken {
    files: RemoteFiles,
    times: AtomicUsize,
}

impl Wake for AsksWhenWoken {
    fn wake(self: Arc<Self>) {
        let another = Box::pin(self.files.list(""));
        assert!(block_on(poll_once(another)).is_none());
        self.times.fetch_add(1, Ordering::AcqRel);
    }
}

fn who_is_woken_may_ask_at_once(name: &'static str) {
    let asked = Asked::new(name);
    let small = asked.write("small", 3000);
    let files = asked.files();
    let asks = Arc::new(AsksWhenWoken {
        files: files.clone(),
        times: AtomicUsize::new(0),
    });
    let waker = Waker::from(asks.clone());
    let mut question = Box::pin(files.read_range("small", 0..10));
    let first = question.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(first.is_pending());
    assert!(
        within(Duration::from_secs(30), || {
            asks.times.load(Ordering::Acquire) > 0
        }),
        "nobody is woken"
    );
    assert_eq!(block_on(question).unwrap().bytes, &small[..10]);
    assert_eq!(block_on(files.list("")).unwrap().len(), 1);
}

fn a_daemon_that_is_killed_and_started_again(name: &'static str) {
    let mut asked = Asked::new(name);
    let small = asked.write("small", 3000);
    let large = asked.write("large", 200 << 20);
    let files = asked.files();
    for _ in 0..3 {
        let read = block_on(files.read_range("small", 0..u64::MAX)).unwrap();
        assert_eq!(read.bytes, small);
        asked.world.restart();
    }
    // It is asked again where the daemon ends midway, once.
    assert_eq!(block_on(files.list("")).unwrap().len(), 2);
    let mut reads = Box::pin(files.read_range("large", 0..u64::MAX));
    assert!(block_on(poll_once(&mut reads)).is_none());
    asked.world.restart();
    assert!(block_on(reads).unwrap().bytes == large);
    // Where nobody answers any more, it is an error.
    asked.world.daemon.kill();
    let begun = now();
    let gone = block_on(files.list("")).unwrap_err();
    assert!(gone.is_retryable(), "{gone:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    asked.world.restart();
    assert_eq!(block_on(files.list("")).unwrap().len(), 2);
}

fn a_daemon_that_freezes_ends_questions_in_time(name: &'static str) {
    let quic = QuicConfig::auto()
        .keep_alive(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(4))
        .handshake_timeout(Duration::from_secs(2));
    let asked = Asked::with(World::new(name), quic);
    asked.write("large", 400 << 20);
    let files = asked.files();
    assert_eq!(block_on(files.list("")).unwrap().len(), 1);
    let mut reads: Vec<_> = (0..3)
        .map(|_| Box::pin(files.read_range("large", 0..u64::MAX)))
        .collect();
    for reads in &mut reads {
        assert!(block_on(poll_once(reads)).is_none());
    }
    std::thread::sleep(Duration::from_millis(20));
    common::signal(asked.world.daemon.pid(), "STOP");
    let begun = now();
    let mut ended = all(reads);
    ended.push(block_on(files.read_range("large", 0..10)));
    for ended in ended {
        assert!(ended.is_err_and(|error| error.is_retryable()));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    common::signal(asked.world.daemon.pid(), "CONT");
    assert!(within(Duration::from_secs(20), || {
        block_on(files.read_range("large", 0..10)).is_ok()
    }));
}

fn a_session_that_nobody_asks_is_closed(name: &'static str) {
    let asked = Asked::new(name);
    asked.write("f", 10);
    let files = asked.files();
    for sessions in 0..2 {
        assert_eq!(asked.sessions(), sessions);
        assert_eq!(block_on(files.list("")).unwrap().len(), 1);
        asked.world.daemon.wait_for_log_again(SESSION, sessions);
    }
}

/// A daemon that waits less long than the client closes it first.
fn a_daemon_that_waits_no_longer_closes_it_first(name: &'static str) {
    let asked = Asked::with(World::with(name, &["--timeout", "1"]), QuicConfig::auto());
    asked.write("f", 10);
    let files = asked.files();
    for sessions in 0..2 {
        assert_eq!(block_on(files.list("")).unwrap().len(), 1);
        let begun = now();
        asked.world.daemon.wait_for_log_again(SESSION, sessions);
        assert!(begun.elapsed() < Duration::from_secs(8));
    }
    assert!(
        !asked.world.daemon.log().contains("WARN"),
        "{}",
        asked.world.daemon.log()
    );
}

fn an_engine_that_ends_ends_questions(name: &'static str) {
    let asked = Asked::new(name);
    asked.write("large", 400 << 20);
    let files = asked.files();
    let mut reads = Box::pin(files.read_range("large", 0..u64::MAX));
    assert!(block_on(poll_once(&mut reads)).is_none());
    let begun = now();
    asked.engine.shut_down();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    for ended in [
        block_on(reads).map(drop),
        block_on(files.list("")).map(drop),
    ] {
        assert!(
            matches!(ended, Err(TransferError::Cancelled(_))),
            "{ended:?}"
        );
    }
}

/// A session that is kept is no way around a right that is lost meanwhile.
fn a_right_that_is_taken_away_ends_it(name: &'static str) {
    let asked = Asked::new(name);
    let may = Arc::new(AtomicBool::new(true));
    let (may_read, ours) = (may.clone(), asked.engine.fingerprint());
    let serves = Engine::builder()
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .serve(asked.world.root(""), move |peer| {
            (*peer == ours).then_some(Grant {
                read: may_read.load(Ordering::Acquire),
                write: true,
            })
        })
        .start()
        .unwrap();
    asked.write("f", 10);
    let at = serves.listener().addresses()[0].to_string();
    let trust = PeerTrust::Pinned(serves.fingerprint());
    let files = asked.engine.remote_files(&at, trust);
    assert_eq!(block_on(files.list("")).unwrap().len(), 1);
    may.store(false, Ordering::Release);
    serves.reauthorise();
    for refused in [
        block_on(files.list("")).map(drop),
        block_on(files.read_range("f", 0..1)).map(drop),
    ] {
        assert!(
            matches!(refused, Err(TransferError::Forbidden(_))),
            "{refused:?}"
        );
    }
    may.store(true, Ordering::Release);
    assert_eq!(block_on(files.list("")).unwrap().len(), 1);
}

on_both_backends!(
    many_questions_are_one_session,
    questions_go_side_by_side,
    a_read_tells_which_file_it_was,
    questions_that_are_dropped_or_left,
    who_is_woken_may_ask_at_once,
    a_daemon_that_is_killed_and_started_again,
    a_daemon_that_freezes_ends_questions_in_time,
    a_session_that_nobody_asks_is_closed,
    a_daemon_that_waits_no_longer_closes_it_first,
    an_engine_that_ends_ends_questions,
    a_right_that_is_taken_away_ends_it,
);
