//! Paths as they are typed, shown, and put together.

use bytes::Bytes;

/// `dir/name` for people; either may be empty.
pub fn join(dir: &[u8], name: &[u8]) -> Bytes {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !name.is_empty() && dir != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path.into()
}

/// What to put before a source's own name for people: the path typed, less its last component.
pub fn dir_of(path: &Bytes) -> Bytes {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    match path[..end].iter().rposition(|byte| *byte == b'/') {
        Some(0) => Bytes::from_static(b"/"),
        Some(slash) => path.slice(..slash),
        None => Bytes::new(),
    }
}

/// The name under which the server announces a source; empty for one that has no name of its own
/// (`/`, `x/..`), whose content goes straight into the target.
pub fn own_name(source: &Bytes) -> Bytes {
    let end = source
        .iter()
        .rposition(|&byte| byte != b'/')
        .map_or(0, |last| last + 1);
    let start = source[..end]
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    match &source[start..end] {
        b"." | b".." => Bytes::new(),
        _ => source.slice(start..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shown_directory_of_a_source() {
        let cases = [
            ("a", ""),
            ("a/b", "a"),
            ("a/b/", "a"),
            ("/", ""),
            ("/x", "/"),
            ("", ""),
            ("./y//", "."),
        ];
        for (path, dir) in cases {
            assert_eq!(dir_of(&Bytes::from(path)), dir.as_bytes(), "{path}");
        }
        assert_eq!(&join(b"/", b"x")[..], b"/x");
        assert_eq!(&join(b"", b"x")[..], b"x");
        assert_eq!(&join(b"a", b"")[..], b"a");
    }

    #[test]
    fn the_names_a_server_may_announce() {
        let cases = [
            ("a", "a"),
            ("/x/b/", "b"),
            ("b//", "b"),
            ("", ""),
            ("/", ""),
            (".", ""),
            ("a/..", ""),
            ("a/./", ""),
        ];
        for (source, name) in cases {
            assert_eq!(own_name(&Bytes::from(source)), name.as_bytes(), "{source}");
        }
    }
}
