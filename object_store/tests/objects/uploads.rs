//! Uploads in parts, and puts beside each other.

use std::fs;

use futures_lite::future::block_on;
use futures_util::future::{join_all, try_join_all};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutPayload};

use crate::common::{Served, data};

#[test]
fn parts_are_put_together_in_the_order_in_which_they_were_given() {
    let served = Served::new();
    let location = Path::from("new/object");
    let whole = data((21 << 20) + 5, 3);
    let mut upload = block_on(served.store.put_multipart(&location)).unwrap();
    let mut parts: Vec<_> = whole
        .chunks(3 << 20)
        .map(|part| upload.put_part(PutPayload::from(part.to_vec())))
        .collect();
    parts.reverse();
    block_on(try_join_all(parts)).unwrap();
    assert!(!served.file(&location).exists());
    let put = block_on(upload.complete()).unwrap();
    assert!(served.get(&location).unwrap() == whole);
    assert_eq!(
        block_on(served.store.head(&location)).unwrap().e_tag,
        put.e_tag
    );
    let again = block_on(upload.complete());
    assert!(matches!(again, Err(Error::Generic { .. })), "{again:?}");
    let late = block_on(upload.put_part("late".into()));
    assert!(matches!(late, Err(Error::Generic { .. })), "{late:?}");
    assert!(block_on(upload.abort()).is_err());
    assert!(served.get(&location).unwrap() == whole);
}

#[test]
fn an_upload_with_a_gap_is_not_put() {
    let served = Served::new();
    let location = Path::from("object");
    let mut upload = block_on(served.store.put_multipart(&location)).unwrap();
    block_on(upload.put_part("one".into())).unwrap();
    drop(upload.put_part("two".into()));
    block_on(upload.put_part("three".into())).unwrap();
    let gap = block_on(upload.complete()).unwrap_err();
    assert!(
        gap.to_string().contains("1 of 3 parts were not written"),
        "{gap}"
    );
    block_on(upload.abort()).unwrap();
    assert!(block_on(upload.complete()).is_err());
    assert!(fs::read_dir(served.root()).unwrap().next().is_none());
}

#[test]
fn an_upload_of_nothing_is_an_empty_object() {
    let served = Served::new();
    let location = Path::from("object");
    let mut upload = block_on(served.store.put_multipart(&location)).unwrap();
    block_on(upload.complete()).unwrap();
    assert_eq!(block_on(served.store.head(&location)).unwrap().size, 0);
    assert!(served.get(&location).unwrap().is_empty());
}

/// A transfer that failed is tried again with what was uploaded.
#[test]
fn an_upload_can_be_completed_once_more() {
    let served = Served::new();
    let location = Path::from("place/object");
    served.write("place", b"in the way");
    let mut upload = block_on(served.store.put_multipart(&location)).unwrap();
    block_on(upload.put_part("text".into())).unwrap();
    assert!(block_on(upload.complete()).is_err());
    fs::remove_file(served.root().join("place")).unwrap();
    block_on(upload.complete()).unwrap();
    assert_eq!(served.get(&location).unwrap(), "text");
}

#[test]
fn many_are_put_at_once_into_directories_that_are_not_there() {
    let served = Served::new();
    let name = |number: usize| Path::from(format!("a/{}/b/{number}", number % 3));
    let puts = (0..60).map(|number| {
        let location = name(number);
        let store = served.store.clone();
        async move { store.put(&location, data(number * 1000, 7).into()).await }
    });
    for put in block_on(join_all(puts)) {
        put.unwrap();
    }
    for number in 0..60 {
        assert!(
            served.get(&name(number)).unwrap() == data(number * 1000, 7),
            "{number}"
        );
    }
}

#[test]
fn of_puts_to_one_name_one_is_there_whole() {
    let served = Served::new();
    let location = Path::from("object");
    let version = |number: u8| vec![number; (9 << 20) + usize::from(number)];
    for _ in 0..3 {
        let puts = (1..=6).map(|number| {
            let (store, location) = (served.store.clone(), location.clone());
            async move { store.put(&location, version(number).into()).await }
        });
        for put in block_on(join_all(puts)) {
            put.unwrap();
        }
        let there = served.get(&location).unwrap();
        assert!(there == version(there[0]));
    }
    let left = fs::read_dir(served.root()).unwrap().count();
    assert_eq!(left, 1, "something unfinished is left");
}
