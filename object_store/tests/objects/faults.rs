//! Daemons that refuse, are gone, or offer less than a store may; callers who go away.

use std::error::Error as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use futures_lite::future::{block_on, poll_once};
use futures_util::stream::{self, StreamExt};
use futures_util::{TryStreamExt, pin_mut};
use landro::{BackendChoice, Engine, Grant, PeerTrust, TransferError};
use landro_object_store::{LandroStore, RequestError};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, Result, UpdateVersion,
};

use crate::common::{Served, address, data};

fn grants(read: bool, write: bool) -> Served {
    Served::with(BackendChoice::Auto, Grant { read, write })
}

fn first_of_list(store: &LandroStore) -> Result<()> {
    block_on(store.list(None).try_next()).map(drop)
}

fn is_denied<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::PermissionDenied { .. }))
}

#[test]
fn who_may_only_read_puts_nothing() {
    let served = grants(true, false);
    served.write("d/object", b"text");
    let location = Path::from("d/object");
    assert_eq!(served.get(&location).unwrap(), "text");
    let put = block_on(served.store.put(&location, "new".into()));
    assert!(is_denied(&put), "{put:?}");
    let put = block_on(served.store.put(&Path::from("no/such/place"), "new".into()));
    assert!(is_denied(&put), "{put:?}");
    let completed = block_on(async {
        let mut upload = served.store.put_multipart(&location).await?;
        upload.put_part("new".into()).await?;
        upload.complete().await
    });
    assert!(is_denied(&completed), "{completed:?}");
    assert_eq!(served.get(&location).unwrap(), "text");
    assert!(served.has_nothing_staged());
}

#[test]
fn who_may_only_write_reads_nothing() {
    let served = grants(false, true);
    let location = Path::from("a/b/object");
    let put = block_on(served.store.put(&location, "text".into())).unwrap();
    assert!(put.e_tag.is_some());
    assert_eq!(fs::read_to_string(served.file(&location)).unwrap(), "text");
    assert!(is_denied(&block_on(served.store.get(&location))));
    assert!(is_denied(&block_on(served.store.head(&location))));
    assert!(is_denied(&block_on(
        served.store.get_ranges(&location, &[0..1, 0..2])
    )));
    assert!(is_denied(&first_of_list(&served.store)));
    assert!(is_denied(&block_on(served.store.list_with_delimiter(None))));
}

#[test]
fn keys_that_are_not_known_are_not_let_in() {
    let served = Served::new();
    let at = address(&served.serves);
    let stranger = Engine::builder().start().unwrap();
    let known = PeerTrust::Pinned(served.serves.fingerprint());
    let other = PeerTrust::Pinned(stranger.fingerprint());
    for (store, why) in [
        (LandroStore::new(stranger, &at, known), "does not let"),
        (
            LandroStore::new(served.asks.clone(), &at, other),
            "not trusted here",
        ),
    ] {
        let location = Path::from("object");
        let got = block_on(store.get(&location)).unwrap_err();
        assert!(matches!(got, Error::Unauthenticated { .. }), "{got:?}");
        assert!(got.to_string().contains(why), "{got}");
        let put = block_on(store.put(&location, "text".into()));
        assert!(matches!(put, Err(Error::Unauthenticated { .. })), "{put:?}");
        let listed = first_of_list(&store);
        assert!(
            matches!(listed, Err(Error::Unauthenticated { .. })),
            "{listed:?}"
        );
    }
}

fn request_error(error: &Error) -> &RequestError {
    let source = error.source().and_then(|source| source.downcast_ref());
    source.unwrap_or_else(|| panic!("{error:?} is not about a request"))
}

#[test]
fn where_no_daemon_is_an_error_says_so() {
    let served = Served::new();
    // Nobody answers there, and the port is nobody else's meanwhile.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = silent.local_addr().unwrap().to_string();
    let store = LandroStore::new(served.asks.clone(), &at, PeerTrust::OneOf(Vec::new()));
    let error = block_on(store.head(&Path::from("object"))).unwrap_err();
    let request = request_error(&error);
    assert!(
        matches!(request.transfer_error(), TransferError::Unreachable(_)),
        "{error:?}"
    );
    assert!(request.is_retryable());
    let text = error.to_string();
    assert!(
        text.contains(&at) && text.contains("may succeed later"),
        "{text}"
    );
    let missing = block_on(served.store.head(&Path::from("object"))).unwrap_err();
    let request = request_error(&missing);
    assert!(!request.is_retryable(), "{missing}");
    assert!(
        !missing.to_string().contains("may succeed later"),
        "{missing}"
    );
}

#[test]
fn a_daemon_that_goes_away_midway_ends_a_stream() {
    let served = Served::new();
    served.write("object", &data(64 << 20, 1));
    let location = Path::from("object");
    let mut stream = block_on(served.store.get(&location)).unwrap().into_stream();
    assert!(block_on(stream.next()).unwrap().is_ok());
    served.serves.shut_down();
    let ended = loop {
        match block_on(stream.next()) {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it is whole"),
        }
    };
    assert!(request_error(&ended).is_retryable(), "{ended}");
    assert!(block_on(stream.next()).is_none());
    let put = block_on(served.store.put(&location, "new".into())).unwrap_err();
    assert!(request_error(&put).is_retryable(), "{put}");
    served.asks.shut_down();
    assert!(block_on(served.store.head(&location)).is_err());
}

#[test]
fn what_a_daemon_does_not_offer_is_refused() {
    let served = Served::new();
    served.write("object", b"text");
    let (here, there) = (Path::from("object"), Path::from("other"));
    let store = &served.store;
    let update = PutMode::Update(UpdateVersion {
        e_tag: block_on(store.head(&here)).unwrap().e_tag,
        version: None,
    });
    let put = |mode: PutMode| block_on(store.put_opts(&there, "x".into(), mode.into())).map(drop);
    for (refused, what) in [
        (put(PutMode::Create), "PutMode::Create"),
        (put(update), "PutMode::Update"),
        (block_on(store.delete(&here)), "removes nothing"),
        (block_on(store.copy(&here, &there)), "copies nothing"),
        (
            block_on(store.copy_if_not_exists(&here, &there)),
            "copies nothing",
        ),
        (block_on(store.rename(&here, &there)), "renames nothing"),
        (
            block_on(store.rename_if_not_exists(&here, &there)),
            "renames nothing",
        ),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::NotImplemented { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let versions = GetOptions::new().with_version(Some("1"));
    let versions = block_on(store.get_opts(&here, versions));
    assert!(
        matches!(versions, Err(Error::NotSupported { .. })),
        "{versions:?}"
    );
    // Each location has an answer of its own, and what is wrong with one is told.
    let wrong = Error::NotSupported {
        source: "wrong".into(),
    };
    let locations = stream::iter([Ok(here.clone()), Err(wrong), Ok(there.clone())]).boxed();
    let answers: Vec<_> = block_on(store.delete_stream(locations).collect());
    assert_eq!(answers.len(), 3);
    assert!(matches!(answers[1], Err(Error::NotSupported { .. })));
    assert!(block_on(store.delete_stream(stream::empty().boxed()).next()).is_none());
    assert_eq!(served.get(&here).unwrap(), "text");
    assert!(!served.file(&there).exists());
}

#[test]
fn where_nothing_can_be_staged_an_error_says_so() {
    let served = Served::new();
    let store = served
        .store
        .clone()
        .with_staging_directory("/no/such/directory");
    let location = Path::from("object");
    // In memory.
    block_on(store.put(&location, "small".into())).unwrap();
    let large = block_on(store.put(&location, data(9 << 20, 1).into())).unwrap_err();
    let text = large.to_string();
    assert!(
        text.contains("/no/such/directory") && text.contains("with_staging"),
        "{text}"
    );
    let mut upload = block_on(store.put_multipart(&location)).unwrap();
    let part = block_on(upload.put_part("part".into())).unwrap_err();
    assert!(part.to_string().contains("/no/such/directory"), "{part}");
    let incomplete = block_on(upload.complete()).unwrap_err();
    assert!(
        incomplete.to_string().contains("1 of 1 parts"),
        "{incomplete}"
    );
    assert_eq!(served.get(&location).unwrap(), "small");
}

/// Streams that nobody polls any more are more than there are places for requests.
#[test]
fn who_is_left_alone_holds_nobody_up() {
    let served = Served::new();
    served.write("object", &data(40 << 20, 1));
    let location = Path::from("object");
    let mut left = Vec::new();
    for _ in 0..12 {
        let mut stream = block_on(served.store.get(&location)).unwrap().into_stream();
        assert!(block_on(stream.next()).is_some());
        // Further pieces are under way now.
        assert!(block_on(poll_once(stream.next())).is_none());
        left.push(stream);
    }
    let mut listed = served.store.list(None);
    assert!(block_on(poll_once(listed.next())).is_none());
    block_on(served.store.put(&Path::from("other"), "text".into())).unwrap();
    assert_eq!(served.get(&Path::from("other")).unwrap(), "text");
    let mut taken = 0;
    for mut stream in left {
        let rest = async {
            let mut bytes = 0;
            while let Some(piece) = stream.try_next().await? {
                bytes += piece.len();
            }
            Ok::<usize, Error>(bytes)
        };
        taken += block_on(rest).unwrap();
    }
    assert_eq!(taken, 12 * (36 << 20));
}

#[test]
fn futures_that_are_dropped_leave_nothing_behind() {
    let served = Served::new();
    served.write("object", &data(30 << 20, 1));
    let location = Path::from("object");
    let new = data(30 << 20, 2);
    for waits in 0..12 {
        let pause = Duration::from_millis(waits * waits);
        let mut upload = block_on(served.store.put_multipart(&location)).unwrap();
        block_on(upload.put_part(new.clone().into())).unwrap();
        let get = async { served.store.get(&location).await?.bytes().await.map(drop) };
        let list = served.store.list(None).try_collect::<Vec<_>>();
        let put = served.store.put(&location, new.clone().into());
        let completes = upload.complete();
        pin_mut!(get, list, put, completes);
        assert!(block_on(poll_once(get)).is_none());
        // A session that is there may answer it at once.
        if let Some(listed) = block_on(poll_once(list)) {
            assert_eq!(listed.unwrap().len(), 1);
        }
        assert!(block_on(poll_once(put)).is_none());
        assert!(block_on(poll_once(completes)).is_none());
        std::thread::sleep(pause);
    }
    // Old or new, and of what was put in part nobody sees anything. The last that was dropped may
    // have been whole over there, and be put in place while this reads.
    let got = (0..10).find_map(|_| match served.get(&location) {
        Err(Error::Precondition { .. }) => None,
        got => Some(got.unwrap()),
    });
    let got = got.expect("one that nobody replaces any more");
    assert!(got == data(30 << 20, 1) || got == new);
    let objects: Vec<_> = block_on(served.store.list(None).try_collect()).unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
    block_on(served.store.put(&location, "text".into())).unwrap();
    assert_eq!(served.get(&location).unwrap(), "text");
    assert!(served.has_nothing_staged());
}
