//! Which file an object is: a part of its path is a file's name, byte for byte.
//!
//! A [`Path`] keeps what it was given percent-encoded, and its encoded form is the name:
//! `Path::from_iter(["a", "b/c"])` is the file `b%2Fc` in the directory `a`. So no two paths are
//! one file. A file whose name no `Path` can say (not UTF-8, or with control characters) is no
//! object.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path as FilePath};

use object_store::path::{Path, PathPart};

/// Why a path is no file below the root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectNameError {
    #[error("the root of a store is no object: name one below it")]
    Root,
    #[error("\"{part}\" in it is no file's name, or leads out of the store")]
    Part { part: String },
    #[error(
        "\"{0}\" is not below what the daemon serves: a store's root is a relative path without .."
    )]
    OutsideRoot(String),
}

/// The directory of a daemon that a store's paths begin at, below what the daemon serves. Empty:
/// all of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreRoot(Vec<u8>);

impl StoreRoot {
    pub(crate) fn new(root: &FilePath) -> Result<StoreRoot, ObjectNameError> {
        let mut path = StoreRoot::default();
        for component in root.components() {
            match component {
                Component::Normal(name) if !name.as_bytes().contains(&0) => path.push(name),
                Component::CurDir => {}
                _ => return Err(ObjectNameError::OutsideRoot(root.display().to_string())),
            }
        }
        Ok(path)
    }

    fn push(&mut self, name: &OsStr) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name.as_bytes());
    }

    /// The directory of this prefix; the root's own is `.`, as the daemon's.
    pub(crate) fn directory(&self, prefix: &Path) -> Result<Vec<u8>, ObjectNameError> {
        let mut path = self.clone();
        for part in prefix.parts() {
            path.push(OsStr::from_bytes(checked(part.as_ref())?.as_bytes()));
        }
        match path.0.is_empty() {
            true => Ok(b".".to_vec()),
            false => Ok(path.0),
        }
    }

    /// The file of this object.
    pub(crate) fn file(&self, location: &Path) -> Result<Vec<u8>, ObjectNameError> {
        match location.parts().next() {
            Some(_) => self.directory(location),
            None => Err(ObjectNameError::Root),
        }
    }
}

impl fmt::Display for StoreRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// What `Path` promises, and what keeps paths below the root: held against it here, too.
fn checked(part: &str) -> Result<&str, ObjectNameError> {
    match part.is_empty() || PathPart::parse(part).is_err() {
        true => Err(ObjectNameError::Part {
            part: part.to_owned(),
        }),
        false => Ok(part),
    }
}

/// The path of what a directory has under this name, if a path can say it.
pub(crate) fn below(prefix: &Path, name: &[u8]) -> Option<Path> {
    let name = std::str::from_utf8(name).ok()?;
    let part = PathPart::parse(checked(name).ok()?).ok()?;
    Some(prefix.clone().join(part))
}

/// A file's path without its last name, and that name.
pub(crate) fn split(file: &[u8]) -> (&[u8], &[u8]) {
    match file.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&file[..slash], &file[slash + 1..]),
        None => (b"", file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &str) -> Result<StoreRoot, ObjectNameError> {
        StoreRoot::new(FilePath::new(path))
    }

    #[test]
    fn a_part_is_a_name_as_it_is_written() {
        let root = root("a/./b~c").unwrap();
        let cases = [
            (Path::from("x"), "a/b~c/x"),
            (Path::from_iter(["x", "y/z"]), "a/b~c/x/y%2Fz"),
            (Path::from_iter(["..", "."]), "a/b~c/%2E%2E/%2E"),
            (Path::parse("%48%Q~").unwrap(), "a/b~c/%48%Q~"),
            (Path::from("ö/a b\n"), "a/b~c/%C3%B6/a b%0A"),
            (Path::parse("ö/😀").unwrap(), "a/b~c/ö/😀"),
        ];
        for (path, file) in cases {
            let found = root.file(&path).unwrap();
            assert_eq!(found, file.as_bytes(), "{path}");
            let (above, name) = split(&found);
            let (above, name) = (above.to_vec(), name.to_vec());
            let parent = path.parent().unwrap();
            assert_eq!(root.directory(&parent).unwrap(), above);
            assert_eq!(below(&parent, &name), Some(path));
        }
    }

    #[test]
    fn a_root_leads_nowhere_else() {
        for outside in ["..", "a/../b", "/a", "/", "a/..", "a\0b"] {
            assert!(root(outside).is_err(), "{outside:?}");
        }
        for all in ["", ".", "./"] {
            let root = root(all).unwrap();
            assert_eq!(root, StoreRoot::default());
            assert_eq!(root.directory(&Path::ROOT).unwrap(), b".");
            assert!(matches!(root.file(&Path::ROOT), Err(ObjectNameError::Root)));
        }
    }

    #[test]
    fn names_that_no_path_can_say_are_none() {
        let prefix = Path::from("d");
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"/",
            b"a\0",
            b"a\nb",
            b"\x7f",
            b"\xff",
        ] {
            assert_eq!(below(&prefix, name), None, "{name:?}");
        }
        assert_eq!(below(&prefix, b"x%2Fy").unwrap().as_ref(), "d/x%2Fy");
        assert!(checked("..").is_err() && checked("").is_err());
    }
}
