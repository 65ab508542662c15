//! Names: which file an object is, whatever it is called, and what is no object.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use futures_lite::future::block_on;
use futures_util::TryStreamExt;
use nix::sys::stat::Mode;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, Result};

use crate::common::Served;

fn listed(store: &dyn ObjectStore, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(|prefix| Path::parse(prefix).unwrap());
    let objects = store.list(prefix.as_ref()).map_ok(|meta| meta.location);
    let objects: Result<Vec<Path>> = block_on(objects.try_collect());
    let mut objects: Vec<String> = objects.unwrap().into_iter().map(String::from).collect();
    objects.sort_unstable();
    objects
}

fn is_not_found<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::NotFound { .. }))
}

/// Names that mean something to somebody.
const NAMES: [&str; 24] = [
    "..",
    ".",
    "...",
    "a/b",
    "/",
    "\\",
    "%",
    "%2F",
    "%2f",
    "~",
    "-rf",
    "*",
    "?",
    " ",
    "a\nb",
    "a\0b",
    "\u{7f}",
    "ö",
    "o\u{308}",
    "😀",
    "*.part",
    "Readme",
    "README",
    ".landro-0123456789abcdef.part",
];

/// Each of them as a file, and as a directory, and names that `Path` would write otherwise.
fn odd_paths() -> Vec<Path> {
    let longest = "l".repeat(255);
    let names = NAMES.into_iter().chain([longest.as_str()]);
    let mut paths: Vec<Path> = names
        .flat_map(|name| {
            let file = Path::from_iter([name]);
            [file, Path::from_iter(["below", name, "in", name])]
        })
        .collect();
    paths.extend(["%48%45", "%Q", "a~b", "%2E%2E%2Fx", "$(id)@@~.txt"].map(parsed));
    paths.extend(["ö", "o\u{308}", "😀", "日本/語"].map(parsed));
    assert_eq!(paths.len(), 59);
    paths
}

fn parsed(path: &str) -> Path {
    Path::parse(path).unwrap()
}

#[test]
fn what_is_put_is_that_file_and_no_other() {
    let served = Served::new();
    let store = served.store.clone().with_root("a root/of it").unwrap();
    let paths = odd_paths();
    for (number, path) in paths.iter().enumerate() {
        let data = format!("{number} {path}");
        block_on(store.put(path, data.into())).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let below_root = served.root().join("a root/of it");
    for (number, path) in paths.iter().enumerate() {
        let data = format!("{number} {path}");
        let file = below_root.join(path.as_ref());
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            data,
            "{}",
            file.display()
        );
        let got = block_on(async { store.get(path).await?.bytes().await });
        assert_eq!(got.unwrap(), data);
        let head = block_on(store.head(path)).unwrap();
        assert_eq!((head.size, &head.location), (data.len() as u64, path));
    }
    let mut expected: Vec<String> = paths.iter().map(|path| path.to_string()).collect();
    expected.sort_unstable();
    assert_eq!(listed(&store, None), expected);
    // Nothing is beside the root.
    assert_eq!(fs::read_dir(served.root()).unwrap().count(), 1);
    assert!(served.has_nothing_staged());
}

#[test]
fn names_that_cannot_be_are_errors() {
    let served = Served::new();
    let store = &served.store;
    let too_long = Path::from("x".repeat(256));
    let put = block_on(store.put(&too_long, "x".into()));
    assert!(matches!(put, Err(Error::Generic { .. })), "{put:?}");
    assert!(block_on(store.get(&too_long)).is_err());
    let put = block_on(store.put(&Path::ROOT, "x".into()));
    assert!(matches!(put, Err(Error::Generic { .. })), "{put:?}");
    assert!(is_not_found(&block_on(store.get(&Path::ROOT))));
    for outside in ["/srv", "..", "a/../b", "a/.."] {
        let root = store.clone().with_root(outside);
        assert!(matches!(root, Err(Error::Generic { .. })), "{outside}");
    }
    assert_eq!(fs::read_dir(served.root()).unwrap().count(), 0);
}

#[test]
fn what_is_no_file_is_no_object() {
    let served = Served::new();
    served.write("d/file", b"text");
    served.write("other/x", b"text");
    let d = served.root().join("d");
    for (link, to) in [
        ("link", "file"),
        ("up", "../other"),
        ("nowhere", "none"),
        ("out", "/"),
    ] {
        symlink(to, d.join(link)).unwrap();
    }
    nix::unistd::mkfifo(&d.join("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    assert!(fs::metadata(d.join("fifo")).unwrap().file_type().is_fifo());
    fs::create_dir(d.join("empty")).unwrap();
    for name in [&b"not utf-8 \xff"[..], b"new\nline"] {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(d.join(name), b"unsayable").unwrap();
        fs::create_dir(d.join(name).with_extension("d")).unwrap();
    }
    let store = &served.store;
    assert_eq!(listed(store, Some("d")), ["d/file"]);
    assert_eq!(listed(store, None), ["d/file", "other/x"]);
    let level = block_on(store.list_with_delimiter(Some(&Path::from("d")))).unwrap();
    let objects: Vec<&str> = level
        .objects
        .iter()
        .map(|meta| meta.location.as_ref())
        .collect();
    assert_eq!(objects, ["d/file"]);
    assert_eq!(level.common_prefixes, [Path::from("d/empty")]);
    for none in [
        "d",
        "d/link",
        "d/up",
        "d/nowhere",
        "d/out",
        "d/fifo",
        "d/empty",
        "d/file/x",
    ] {
        let location = Path::from(none);
        assert!(is_not_found(&block_on(store.get(&location))), "{none}");
        assert!(is_not_found(&block_on(store.head(&location))), "{none}");
        assert!(
            is_not_found(&block_on(store.get_ranges(&location, &[0..1, 0..2]))),
            "{none}"
        );
        assert!(
            listed(store, Some(none)).len() <= usize::from(none == "d"),
            "{none}"
        );
    }
}

/// A listing of such a directory is that of a file.
#[test]
fn a_directory_with_a_file_of_its_own_name_is_one() {
    let served = Served::new();
    served.write("same/same", b"text");
    served.write("void/void", b"");
    served.write("deep/same/same/same", b"text");
    let store = &served.store;
    for (directory, within) in [
        ("same", "same/same"),
        ("void", "void/void"),
        ("deep/same", "deep/same/same/same"),
    ] {
        let location = Path::from(directory);
        assert!(is_not_found(&block_on(store.get(&location))), "{directory}");
        assert!(
            is_not_found(&block_on(store.head(&location))),
            "{directory}"
        );
        assert_eq!(listed(store, Some(directory)), [within]);
        assert!(listed(store, Some(within)).is_empty());
        assert!(block_on(store.head(&Path::from(within))).is_ok());
    }
    assert_eq!(
        listed(store, None),
        ["deep/same/same/same", "same/same", "void/void"]
    );
}

#[test]
fn what_stands_in_the_way_of_a_put_stays() {
    let served = Served::new();
    served.write("d/inner", b"text");
    served.write("file", b"text");
    symlink("file", served.root().join("link")).unwrap();
    symlink("d", served.root().join("dirlink")).unwrap();
    symlink("none", served.root().join("nowhere")).unwrap();
    nix::unistd::mkfifo(&served.root().join("fifo"), Mode::S_IRUSR).unwrap();
    let store = &served.store;
    for (place, why) in [
        ("d", "director"),
        ("link", "is a symlink"),
        ("dirlink", "is a symlink"),
        ("nowhere", "is a symlink"),
        ("fifo", "nobody reads from this FIFO"),
        ("file/below", "not a directory"),
        ("file/far/below", "not a directory"),
        ("d/inner/below", "not a directory"),
    ] {
        let put = block_on(store.put(&Path::from(place), "new".into()));
        let error = put.expect_err(place);
        assert!(matches!(error, Error::Generic { .. }), "{place}: {error:?}");
        let text = error.to_string();
        assert!(
            text.contains(why) && text.contains(place),
            "{place}: {text}"
        );
    }
    assert_eq!(served.get(&Path::from("file")).unwrap(), "text");
    assert_eq!(listed(store, None), ["d/inner", "file"]);
    assert!(served.has_nothing_staged());
}

#[test]
fn directories_that_are_there_stay_as_they_are() {
    let served = Served::new();
    let there = served.root().join("a/b");
    fs::create_dir_all(&there).unwrap();
    let above = served.root().join("a");
    fs::set_permissions(&above, fs::Permissions::from_mode(0o750)).unwrap();
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(&above).unwrap().set_modified(long_ago).unwrap();
    block_on(served.store.put(&Path::from("a/b/c/d/e"), "x".into())).unwrap();
    let meta = fs::metadata(&above).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.modified().unwrap()),
        (0o750, long_ago)
    );
    // New ones and the file have what the daemon's umask leaves them, and no staged file's mode.
    let plain = served.root().join("plain");
    fs::create_dir(&plain).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&there.join("c")), mode(&plain));
    let file = served.root().join("plain file");
    fs::write(&file, "x").unwrap();
    assert_eq!(mode(&there.join("c/d/e")), mode(&file));
}
