//! AES-128-GCM against published vectors, and against changes of every byte.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

struct Vector {
    key: [u8; 16],
    nonce: [u8; 12],
    aad: Vec<u8>,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    tag: [u8; 16],
}

/// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 1 to 4 (as NIST has them),
/// and a record of RFC 8448, section 3: the client's first application data.
fn vectors() -> Vec<Vector> {
    let plain = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
    );
    let sealed = bytes(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
    );
    let key = array("feffe9928665731c6d6a8f9467308308");
    let nonce = array("cafebabefacedbaddecaf888");
    let record: Vec<u8> = (0..50).chain([0x17]).collect();
    vec![
        Vector {
            key: [0; 16],
            nonce: [0; 12],
            aad: Vec::new(),
            plain: Vec::new(),
            sealed: Vec::new(),
            tag: array("58e2fccefa7e3061367f1d57a4e7455a"),
        },
        Vector {
            key: [0; 16],
            nonce: [0; 12],
            aad: Vec::new(),
            plain: vec![0; 16],
            sealed: bytes("0388dace60b6a392f328c2b971b2fe78"),
            tag: array("ab6e47d42cec13bdf53a67b21257bddf"),
        },
        Vector {
            key,
            nonce,
            aad: Vec::new(),
            plain: plain.clone(),
            sealed: sealed.clone(),
            tag: array("4d5c2af327cd64a62cf35abd2ba6fab4"),
        },
        Vector {
            key,
            nonce,
            aad: bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
            plain: plain[..60].to_vec(),
            sealed: sealed[..60].to_vec(),
            tag: array("5bc94fbc3221a5db94fae95ae7121a47"),
        },
        Vector {
            key: array("17422dda596ed5d9acd890e3c63f5051"),
            nonce: array("5b78923dee08579033e523d9"),
            aad: bytes("1703030043"),
            plain: record,
            sealed: bytes(
                "a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5
                 b46b395bd54a9a20441e2b62974e1f5a6292a2",
            ),
            tag: array("977014bd1e3deae63aeebb21694915e4"),
        },
    ]
}

#[test]
fn published_vectors_are_sealed_and_opened() {
    for (number, vector) in vectors().into_iter().enumerate() {
        let aead = Aead::new(&vector.key);
        let mut buffer = vector.plain.clone();
        let tag = aead.seal_in_place(&vector.nonce, &vector.aad, &mut buffer);
        assert_eq!(buffer, vector.sealed, "{number}");
        assert_eq!(tag, vector.tag, "{number}");
        buffer.extend(tag);
        let opened = aead.open_in_place(&vector.nonce, &vector.aad, &mut buffer);
        assert_eq!(opened, Ok(vector.plain.len()), "{number}");
        assert_eq!(buffer[..vector.plain.len()], vector.plain, "{number}");
    }
}

#[test]
fn whatever_was_changed_is_not_authentic() {
    for vector in vectors() {
        let aead = Aead::new(&vector.key);
        let sealed = [&vector.sealed[..], &vector.tag].concat();
        let refuses = |aead: &Aead, nonce: &[u8; 12], aad: &[u8], mut message: Vec<u8>| {
            let opened = aead.open_in_place(nonce, aad, &mut message);
            assert_eq!(opened, Err(NotAuthentic));
            // Nothing of the plaintext is left to be used by mistake.
            let plain_bytes = message.len().saturating_sub(TAG_BYTES);
            let shown = plain_bytes >= 8 && message[..8] == vector.plain[..8];
            assert!(!shown || vector.plain.iter().all(|&byte| byte == 0));
        };
        for at in 0..sealed.len() {
            for bit in [0x01, 0x80] {
                let mut changed = sealed.clone();
                changed[at] ^= bit;
                refuses(&aead, &vector.nonce, &vector.aad, changed);
            }
            // Cut off, in front and behind, and with something added.
            refuses(&aead, &vector.nonce, &vector.aad, sealed[..at].to_vec());
            refuses(&aead, &vector.nonce, &vector.aad, sealed[at + 1..].to_vec());
        }
        refuses(
            &aead,
            &vector.nonce,
            &vector.aad,
            [&sealed[..], &[0]].concat(),
        );
        for at in 0..vector.nonce.len() {
            let mut nonce = vector.nonce;
            nonce[at] ^= 1;
            refuses(&aead, &nonce, &vector.aad, sealed.clone());
        }
        for at in 0..vector.aad.len() {
            let mut aad = vector.aad.clone();
            aad[at] ^= 1;
            refuses(&aead, &vector.nonce, &aad, sealed.clone());
        }
        refuses(
            &aead,
            &vector.nonce,
            &[&vector.aad[..], &[0]].concat(),
            sealed.clone(),
        );
        let mut key = vector.key;
        key[15] ^= 1;
        refuses(&Aead::new(&key), &vector.nonce, &vector.aad, sealed.clone());
        // And a failure spoils nothing.
        let opened = aead.open_in_place(&vector.nonce, &vector.aad, &mut sealed.clone());
        assert_eq!(opened, Ok(vector.plain.len()));
    }
}

#[test]
fn every_length_comes_back() {
    let aead = Aead::new(b"sixteen bytes ok");
    let plain: Vec<u8> = (0..70_000u32).map(|at| (at * 7 / 3) as u8).collect();
    for len in (0..300).chain([16_384, 16_385, 65_535, 65_536, 70_000]) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(len as u64).to_be_bytes());
        let mut buffer = plain[..len].to_vec();
        let tag = aead.seal_in_place(&nonce, b"head", &mut buffer);
        assert!(len < 8 || buffer != plain[..len]);
        buffer.extend(tag);
        assert_eq!(aead.open_in_place(&nonce, b"head", &mut buffer), Ok(len));
        assert_eq!(buffer[..len], plain[..len]);
    }
}

#[test]
fn a_key_goes_to_another_thread() {
    let aead = Aead::new(&[1; 16]);
    let mut sealed = b"a message".to_vec();
    let tag = aead.seal_in_place(&[2; 12], b"", &mut sealed);
    sealed.extend(tag);
    let opened = std::thread::spawn(move || {
        let opened = aead.open_in_place(&[2; 12], b"", &mut sealed);
        (opened, sealed)
    });
    let (opened, buffer) = opened.join().unwrap();
    assert_eq!((opened, &buffer[..9]), (Ok(9), &b"a message"[..]));
}
