//! Writes what each target begins with into `fuzz/seeds`, by the encoders of landro itself: `cargo
//! run --manifest-path fuzz/Cargo.toml --example seeds`. What a long run found worth keeping lies
//! beside it, under names that are digests, and stays. Keys are new each time.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use landro::ids::{ChunkIndex, EntryId, SessionId};
use landro::proto::journal::{Header, Storage};
use landro::proto::wire::{
    BenchMode, Entry, Hello, Item, LaneAccount, LanePart, ListItem, Message, Preface, PrefaceKind,
    RecordHead, RecordStatus, VERSION, Verdict, VerdictKind, Welcome, WireQuery, WireRequest,
    encode, encode_record_tail, encode_run,
};
use landro::proto::{
    CancelReason, EntryError, EntryErrorCode, EntryPlace, Kind, Lasting, Meta, Mtime, SessionError,
    SessionErrorCode,
};
use landro::quic::Identity;
use landro_sys::fuzzing::control_part;

const MTIME: Mtime = Mtime {
    seconds: 1,
    nanoseconds: 2,
};

fn main() {
    texts();
    lanes();
    tcp_frames();
    clear_lane();
    messages();
    verdicts();
    records();
    datagrams();
    keys();
    kernel();
    scripts();
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    fs::create_dir_all(&dir).expect("seeds can be written");
    fs::write(dir.join(name), bytes).expect("seeds can be written");
}

fn texts() {
    seed("url", "name", "Host.Example:99/a/b");
    seed("url", "v4", "10.0.0.1");
    seed("url", "v6", "[::1]:5/x");
    seed("url", "zone", "[fe80::1%25eth0]/%2e%2e/%ff");
    seed("url", "local", "./a/b");
    seed("percent", "encoded", "a%20b%fF%2");
    seed("sizes", "letter", "500K");
    seed("sizes", "fraction", "1.5MB");
    seed("sizes", "largest", "18446744073709551615");
    seed("sizes", "binary", "2GiB");
    seed(
        "escape",
        "controls",
        b"a\n\x1b[2J\\\xff\xc2\x9b\xe2\x80\xae",
    );
    seed("path", "plain", "a/b/");
    seed("path", "absolute", "/x");
    seed("path", "up", "a/../..");
    seed("path", "root", "//");
    let peers = b"# peers\n\xf8 ro\n  \xf9 wo,path=in/box # alice\r\n\xfa path=%2fa%20b/./c rw\n\xfb\n\xf8 rw\n\xfc ../x\n";
    seed(
        "scrape",
        "get",
        b"GET /metrics?a=b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    );
    seed("scrape", "post", b"POST / HTTP/1.0\r\nA: b\r\n\r\nbody");
    seed("authorized_peers", "peers", peers);
    seed(
        "authorized_peers",
        "misspelt",
        b"\xf8 path:alice\n\xf9 (ro)\n\xfa no-write\n\xfb restrict\n\xfc bob ro\n",
    );
    seed(
        "known_hosts",
        "hosts",
        b"# mine\n\nH:1 \xff old key\nh.example:1\t\xff\n[::1]:1 \xff",
    );
    seed("known_hosts", "zone", b"[fe80::1%Eth0]:1 \xff\n");
    seed(
        "known_hosts",
        "spelling",
        b"#\t\xff\n[0::1]:1 \xff\n[::2]:1 \xff",
    );
    seed("known_hosts", "port", b"h:0000000000000001 \xff\n");
    seed("known_hosts", "zone-spelling", b"[fe80::01%Eth0]:1 \xff\n");
    seed("known_hosts", "path", b"h:1/J5 \xff");
    seed("known_hosts", "bad", b"h:1 \xff\nh:1 SHA256:short\n");
}

fn lanes() {
    seed("preface", "note", b"\x01answered");
    let prefaces = [
        ("new", PrefaceKind::New, 0),
        ("join", PrefaceKind::Join, 7),
        ("add", PrefaceKind::Add, 1),
    ];
    for (name, kind, lane) in prefaces {
        seed(
            "preface",
            name,
            Preface {
                kind,
                session: SessionId([9; 16]),
                lane,
            }
            .encode(),
        );
    }
    // Steps of the target: what, on which lane, and what it takes.
    let hello = Message::Hello(Hello {
        version: VERSION,
        request: WireRequest::Bench {
            mode: BenchMode::Send,
            milliseconds: 10,
        },
        entry_window: 0,
        bwlimit_bps: None,
        streams: None,
        counts: false,
        patience_s: None,
        adds_lanes: false,
        asks_addresses: false,
        takes_kept: false,
        clear: false,
    });
    let mut said = BytesMut::new();
    encode(&hello, &mut said);
    let hello = [&[0, 0, said.len() as u8][..], &said].concat();
    let joins = [5, 0, 1];
    // Its first lane's control stream ends; what was sent on it and how much that was.
    let replaced = [
        &joins[..],
        &[0x80, 0, 1, 0],
        &[2, 0, 0, 3, 1, 7, 7],
        &[0x82, 0, 0, 1, 0],
        &[0x82, 0, 1, 6, 2, 0, 0, 0, 1, 0],
        &[4, 0, 255, 3, 3, 8, 0, 8, 0],
    ];
    seed("lanes", "one", &hello);
    seed("lanes", "lost", [&hello[..], &joins, &[6, 0, 2]].concat());
    seed(
        "lanes",
        "replaced",
        [&hello[..], &replaced.concat()].concat(),
    );
    seed(
        "lanes",
        "silent",
        [&hello[..], &[0x89, 0, 1, 7, 0, 9]].concat(),
    );
}

/// What the first bytes are: before or behind the handshake, and how the rest is cut.
fn clear_lane() {
    let hello = [&b"landro:1"[..], &[0; 20], &[5; 32]].concat();
    seed("clear_lane", "hello", [&[0, 255][..], &hello].concat());
    let proof = [&[0, 255][..], &hello, &[6; 32]].concat();
    seed("clear_lane", "proof", proof);
    let record = [&[1, 255, 0, 11, 0, 3][..], &[0; 11], &[8; 32], b"end"].concat();
    seed("clear_lane", "record", record);
}

/// What the first byte is: how the rest is cut.
fn tcp_frames() {
    let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    let data = [&[1][..], &number(2), &[0, 3], b"end"].concat();
    seed("tcp_frames", "data", [&[0][..], &data].concat());
    let control = [&[0][..], &number(0), &[4, 0], &[7; 1024]].concat();
    seed("tcp_frames", "control", [&[255][..], &control].concat());
    let grant = [&[2][..], &number(9), &number(9)].concat();
    let credit = [&[3, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 7]].concat();
    let asked = [&[1][..], &grant, &credit, &[5]].concat();
    seed("tcp_frames", "asked", asked);
    let close = [&[7][..], &number(7), &[0, 2], b"so"].concat();
    seed("tcp_frames", "close", [&[2][..], &data, &close].concat());
}

fn error() -> EntryError {
    EntryError {
        code: EntryErrorCode::Full,
        errno: 28,
        text: "no room".into(),
        place: EntryPlace::Source,
        call: "read".into(),
        advice: "wait".into(),
    }
}

fn framed(message: &Message) -> Bytes {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    bytes.freeze()
}

fn hello(request: WireRequest) -> Message {
    let (bwlimit_bps, streams) = (Some(8_000_000), Some(16));
    Message::Hello(Hello {
        version: VERSION,
        request,
        entry_window: 1024,
        bwlimit_bps,
        streams,
        counts: false,
        patience_s: Some(60),
        adds_lanes: false,
        asks_addresses: false,
        takes_kept: false,
        clear: false,
    })
}

fn requests() -> [Message; 5] {
    let target = Bytes::from_static(b"in/box");
    let push = WireRequest::Push {
        target: target.clone(),
        must_be_dir: true,
        force: false,
        fsync: false,
        single: false,
        keep_dirlinks: false,
        no_perms: false,
        no_times: false,
        dir_modes: false,
        no_target_dir: false,
        copy: None,
    };
    [
        hello(push),
        hello(WireRequest::Pull {
            sources: vec![target.clone(), Bytes::from_static(b"/")],
            follow_named: false,
            no_growing: false,
            place: None,
        }),
        hello(WireRequest::List {
            path: target,
            partial: false,
        }),
        hello(WireRequest::Queries {}),
        hello(WireRequest::Bench {
            mode: BenchMode::Echo,
            milliseconds: 500,
        }),
    ]
}

fn welcome() -> Message {
    Message::Welcome(Welcome {
        version: VERSION,
        entry_window: 1024,
        inside: false,
        place: None,
        adds_lanes: false,
        addresses: Vec::new(),
        clear: None,
    })
}

fn entry(id: u32, kind: Kind, name: &'static str) -> Item {
    Item::Entry(Entry {
        id: EntryId(id),
        parent: EntryId(u32::from(id != 1)),
        name: Bytes::from_static(name.as_bytes()),
        kind,
        mode: 0o755,
        mtime: MTIME,
        size_bytes: if kind == Kind::File { 70_000 } else { 0 },
        source_tag: 3,
        object: None,
        allocated_bytes: None,
        is_unsized: false,
        link: (kind == Kind::Symlink).then(|| Bytes::from_static(b"../to")),
    })
}

fn messages() {
    let greetings = requests().into_iter().chain([welcome()]);
    let messages = greetings.chain(of_senders()).chain(of_receivers());
    let messages = messages.chain(of_benchmarks());
    for (number, message) in messages.enumerate() {
        let name = format!("message-{number:02}");
        seed("wire_decoder", &name, framed(&message));
    }
}

fn of_senders() -> [Message; 8] {
    let (path, entry_id) = (Bytes::from_static(b"a/b"), EntryId(1));
    let items = vec![
        entry(1, Kind::Directory, "dir"),
        entry(2, Kind::File, "file"),
        entry(3, Kind::Symlink, "link"),
        Item::EndDirectory { id: entry_id },
    ];
    [
        Message::Entries(items),
        Message::ManifestEnd { entries: 3 },
        Message::Root {
            entry: entry_id,
            digest: [5; 32],
            has_grown: false,
            agains: 0,
        },
        Message::Holes {
            entry: entry_id,
            first: 1,
            count: 2,
        },
        Message::LaneOver {
            lane: 1,
            altered: false,
        },
        Message::Abort {
            entry: entry_id,
            error: error(),
        },
        Message::SourceError {
            path: path.clone(),
            error: error(),
        },
        Message::SourceWarning {
            path,
            text: "gone".into(),
        },
    ]
}

fn of_receivers() -> [Message; 15] {
    let meta = Meta {
        allocated_bytes: 70_000,
        kind: Kind::File,
        mode: 0o644,
        mtime: MTIME,
        size_bytes: 5,
        inode: 3,
        device: 0,
        lasting: Lasting::Inode,
        links: 1,
        is_sized: true,
    };
    let row = ListItem {
        name: Bytes::from_static(b"a/b"),
        meta,
        link: None,
    };
    [
        Message::DestinationWarning {
            path: Bytes::from_static(b"a/b"),
            text: "mode not set".into(),
        },
        Message::LaneAccount(LaneAccount {
            lane: 1,
            below: 2,
            parts: vec![LanePart {
                stream: 3,
                records: Some(4),
            }],
            more: false,
            altered: false,
        }),
        Message::Finished {},
        Message::Listing(vec![row]),
        Message::ListEnd {},
        Message::Error(SessionError::told(SessionErrorCode::Busy, "gone")),
        Message::Cancel {
            reason: CancelReason::Ending,
        },
        Message::ListAck {},
        Message::FileSize {
            size_bytes: 1 << 20,
            mtime: Mtime::default(),
        },
        Message::Query {
            slot: 1,
            query: WireQuery::Read {
                path: Bytes::from_static(b"f"),
                from: 1,
                to: 1 << 40,
                follow_named: true,
            },
        },
        Message::About { slot: 1 },
        Message::Forget { slot: 1 },
        Message::Unanswered(SessionError::told(SessionErrorCode::NotFound, "gone")),
        Message::FilePart {
            data: Bytes::from_static(&[7; 9]),
        },
        Message::ChunkValue { value: [6; 32] },
    ]
}

fn of_benchmarks() -> [Message; 3] {
    let payload = Bytes::from_static(&[0; 3]);
    [
        Message::BenchEnd { bytes: 3 },
        Message::Echo {
            payload: payload.clone(),
        },
        Message::EchoReply { payload },
    ]
}

fn verdicts() {
    let kinds = [
        VerdictKind::Send {},
        VerdictKind::Have {
            first: 1,
            values: vec![1; 64].into(),
        },
        VerdictKind::Skipped {},
        VerdictKind::Done { resumed_bytes: 0 },
        VerdictKind::Failed { error: error() },
    ];
    let all = kinds.iter().zip(1..).map(|(kind, id)| Verdict {
        entry: EntryId(id),
        kind: kind.clone(),
    });
    let all: Vec<Verdict> = all.collect();
    for (name, verdicts) in [("all", &all[..]), ("send", &all[..1]), ("have", &all[1..2])] {
        let bytes = framed(&Message::Verdicts(verdicts.to_vec()));
        // The target writes the length and what says that these are verdicts.
        seed("verdicts", name, &bytes[4 + 3..]);
    }
}

fn records() {
    let mut bytes = BytesMut::from(&[3][..]);
    RecordHead::Whole {
        entry: EntryId(1),
        len_bytes: 4,
    }
    .encode(&mut bytes);
    bytes.put_slice(b"data");
    encode_record_tail(RecordStatus::Valid, &[1; 32], &mut bytes);
    RecordHead::Chunk {
        entry: EntryId(2),
        chunk: ChunkIndex(1),
        len_bytes: 2,
        has_holes: false,
    }
    .encode(&mut bytes);
    bytes.put_slice(b"da");
    encode_record_tail(RecordStatus::SourceFailed, &[2; 32], &mut bytes);
    seed("records", "two", &bytes);
    let mut bytes = BytesMut::from(&[3][..]);
    RecordHead::Chunk {
        entry: EntryId(2),
        chunk: ChunkIndex(1),
        len_bytes: 4096 + 2 + 5000,
        has_holes: true,
    }
    .encode(&mut bytes);
    encode_run(4096, 0, &mut bytes);
    encode_run(0, 4096, &mut bytes);
    bytes.put_bytes(7, 4096);
    encode_run(906, 0, &mut bytes);
    encode_record_tail(RecordStatus::Valid, &[2; 32], &mut bytes);
    seed("records", "holes", &bytes);
    let mut bytes = BytesMut::from(&[3][..]);
    RecordHead::Stretch {
        entry: EntryId(3),
        offset: 1 << 20,
        len_bytes: 2,
    }
    .encode(&mut bytes);
    bytes.put_slice(b"da");
    encode_record_tail(RecordStatus::Valid, &[3; 32], &mut bytes);
    seed("records", "stretch", &bytes);
    let header = Header {
        storage: Storage {
            boot: [1; 16],
            mount: 1,
        },
        size_bytes: 3 << 20,
        mtime: MTIME,
        source_tag: 3,
    };
    let mut journal = BytesMut::from(&header.encode()[..]);
    for chunk in 0..3 {
        header
            .key()
            .encode_record(ChunkIndex(chunk), &[4; 32], &mut journal);
    }
    seed("journal", "three", &journal);
    seed(
        "journal",
        "chunks",
        [&[0, 0, 0, 0, 1, 0, 0, 0][..], &[0, 0, 0, 1, 0, 0, 1, 2]].concat(),
    );
}

/// A long header of an Initial packet, and the byte that says how the router is set up before it.
fn long(how: u8, version: u32, dcid: &[u8], token: &[u8]) -> Vec<u8> {
    let cids = [&[dcid.len() as u8][..], dcid, &[4, 1, 2, 3, 4]].concat();
    let rest = [&[token.len() as u8][..], token, &[0x44, 0x9e, 0, 0, 0, 1]].concat();
    [&[how, 0xc3][..], &version.to_be_bytes(), &cids, &rest].concat()
}

fn datagrams() {
    // Worker 1 of 3 is the one that looks: ids that begin with 1 are its own.
    let (own, other) = ([1, 2, 3, 4, 5, 6, 7, 8], [2; 8]);
    seed("router", "initial", long(2, 1, &own, &[]));
    seed("router", "retry", long(0, 1, &own, &[]));
    seed("router", "token", long(0, 1, &own, &[7; 32]));
    seed("router", "stray", long(0, 1, &other, &[]));
    seed("router", "version", long(0, 0x0a0a_0a0a, &own, &[]));
    seed("router", "client", long(1, 1, &own[..4], &[]));
    seed(
        "router",
        "reset",
        [&[4, 0x40, 1, 2, 3, 4, 5][..], &[9; 40]].concat(),
    );
    seed("retry_token", "whole", [&[0, 0, 8][..], &own].concat());
    seed(
        "retry_token",
        "changed",
        [&[9, 1, 20][..], &[5; 20]].concat(),
    );
}

/// Undoes base64, line breaks left out.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for value in text
        .bytes()
        .filter_map(|byte| DIGITS.iter().position(|&digit| digit == byte))
    {
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

fn keys() {
    let pem = Identity::generate()
        .and_then(|identity| identity.to_pem())
        .expect("BoringSSL makes keys");
    seed("identity", "pem", &pem);
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let inside = pem
        .split_once(begin)
        .and_then(|(_, rest)| rest.split_once(end))
        .expect("a certificate");
    seed("certificate", "der", base64(inside.0));
}

fn kernel() {
    seed(
        "cmsg",
        "v6",
        control_part(1472, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    );
    seed(
        "cmsg",
        "v4",
        control_part(1472, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    );
    seed(
        "cmsg",
        "sockaddr-in",
        [&[2, 0, 0x11, 0x51, 10, 0, 0, 1][..], &[0; 8]].concat(),
    );
    seed(
        "cmsg",
        "sockaddr-in6",
        [
            &[10, 0, 0x11, 0x51][..],
            &[0; 4],
            &[0xfe; 16],
            &[1, 0, 0, 0],
        ]
        .concat(),
    );
    seed("dirents", "names", b".\0..\0a\0b.txt\0\xff\xfe");
    let record = |name: &[u8], len: u8| [&[7; 16][..], &[len, 0, 8], name].concat();
    seed(
        "dirents",
        "records",
        [record(b"a\0\0\0\0", 24), record(b"..\0\0\0", 24)].concat(),
    );
    seed("dirents", "cut", record(b"a\0", 24));
}

/// Scripts of the targets that lead a whole session: see their `step`.
fn scripts() {
    receiver_scripts();
    sender_scripts();
    session_scripts();
}

/// The first operation under way is completed, well.
const COMPLETE: [u8; 3] = [0, 0, 0];

fn receiver_scripts() {
    let small_file = [3, 4, 5, 0, 0, b'a'];
    let push_small = [
        &[0][..],
        &COMPLETE,
        &small_file,
        &COMPLETE,
        &[6, 1, 5, 0],
        &COMPLETE,
        &[9, 1],
    ]
    .concat();
    seed("receiver", "small", push_small);
    let (large_file, part) = ([3, 4, 3, 20, 0, b'b'], [0, 0, 0, 0, 0]);
    let chunks: Vec<u8> = (0..3)
        .flat_map(|at| [7, 1, at, 3, 20, 0, 0, 0, 0])
        .collect();
    let push_large = [
        &[0][..],
        &COMPLETE,
        &large_file,
        &COMPLETE,
        &part,
        &COMPLETE,
        &chunks,
        &[8, 1, 9, 1],
    ]
    .concat();
    seed("receiver", "large", push_large);
    let directory = [&[3, 5, 0, b'd', 3, 6, 1, b'l', 5, 1, 9, 2][..], &[0; 30]].concat();
    let push_directory = [&[0][..], &COMPLETE, &directory].concat();
    seed("receiver", "directory", push_directory);
}

fn sender_scripts() {
    // The second operation under way; the first closes the directory above.
    let listed = [
        0, 1, 0x30, 0x11, b'a', 9, 0, 0x11, b'b', 9, 15, 0x11, b'c', 9, 23,
    ];
    let wanted = [4, 2, 4, 3, 4, 4];
    let reads: Vec<u8> = (0..20).flat_map(|_| [0, 0, 1, 9, 0]).collect();
    for (name, how) in [
        ("pull", &[2, 16][..]),
        ("push", &[3, 16]),
        ("limited", &[10, 20, 16]),
    ] {
        let script = [how, &COMPLETE, &COMPLETE, &listed, &wanted, &reads];
        seed("sender", name, script.concat());
    }
    let many: Vec<u8> = (0..15).flat_map(|at| [0x11, b'a' + at, 9, 0]).collect();
    let all_wanted: Vec<u8> = (2..17).flat_map(|id| [4, id]).collect();
    let ticked = [11, 5, 0].repeat(3);
    let limited_many = [
        &[10, 20, 16][..],
        &COMPLETE,
        &COMPLETE,
        &[0, 1, 0xf0],
        &many,
        &all_wanted,
        &ticked,
        &reads,
    ];
    seed("sender", "limited-many", limited_many.concat());
}

fn session_scripts() {
    // Control bytes (what 4), then disk operations (what 0).
    let control = |role: u8, message: &Message| {
        let bytes = framed(message);
        [&[role, 4, bytes.len() as u8][..], &bytes, &[0; 30]].concat()
    };
    for (name, request) in ["push", "pull", "list", "bench"].iter().zip(requests()) {
        seed("session", &format!("server-{name}"), control(6, &request));
    }
    for role in 0..6 {
        let client = control(role, &welcome());
        seed("session", &format!("client-{role}"), client);
    }
}
