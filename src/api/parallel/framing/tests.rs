//! What is written is read as it was, however it is cut; and what no right writer writes.

use super::*;

fn events(parser: &mut DataStreamParser, bytes: &[u8], cut: usize) -> Vec<DataEvent> {
    let mut events = Vec::new();
    for part in bytes.chunks(cut) {
        let mut part = Bytes::copy_from_slice(part);
        while let Some(event) = parser.next(&mut part).unwrap() {
            match (events.last_mut(), event) {
                (Some(DataEvent::Data(before)), DataEvent::Data(data)) => {
                    *before = Bytes::from([&before[..], &data[..]].concat());
                }
                (_, event) => events.push(event),
            }
        }
        assert!(part.is_empty());
    }
    events
}

fn stream(records: &[&[u8]]) -> Vec<u8> {
    [&stream_head(8)[..], &records.concat()].concat()
}

#[test]
fn records_are_read_however_they_are_cut() {
    let written = stream(&[
        &record_head(3, 7),
        &segment_head(5),
        b"hello",
        &segment_head(2),
        b"!!",
        &[9; 32],
        &record_head(4, 0),
        &segment_head(0),
        &[8; 32],
        &record_head(5, 6),
        &segment_head(1),
        b"x",
        &given_up("gone"),
        &record_head(6, 0),
        &segment_head(0),
        &[7; 32],
        &record_head(7, 0),
        &given_up("no"),
    ]);
    let chunk = |index, size_bytes| DataEvent::Chunk { index, size_bytes };
    let data = |bytes: &'static [u8]| DataEvent::Data(Bytes::from_static(bytes));
    for cut in 1..=written.len() {
        let mut parser = DataStreamParser::default();
        let found = events(&mut parser, &written, cut);
        let expected = [
            DataEvent::Begins { control: 8 },
            chunk(3, 7),
            data(b"hello!!"),
            DataEvent::Digest([9; 32]),
            chunk(4, 0),
            DataEvent::Digest([8; 32]),
            chunk(5, 6),
            data(b"x"),
            DataEvent::GivenUp("gone".to_owned()),
            chunk(6, 0),
            DataEvent::Digest([7; 32]),
            chunk(7, 0),
            DataEvent::GivenUp("no".to_owned()),
        ];
        assert_eq!(found, expected, "cut at {cut}");
        assert!(parser.may_end());
    }
    for end in 1..written.len() {
        let mut parser = DataStreamParser::default();
        let events = events(&mut parser, &written[..end], end);
        let ends = [9, 64, 108, 131, 175];
        assert_eq!(parser.may_end(), ends.contains(&end), "{end}: {events:?}");
    }
}

#[test]
fn what_no_right_writer_writes_is_a_breach() {
    let longer = stream(&[&record_head(0, 4), &segment_head(5)]);
    let empty = stream(&[&record_head(0, 4), &segment_head(0)]);
    let more = stream(&[&record_head(0, 0), &segment_head(1)]);
    let text = [&[0xff; 4][..], &[0xff; 2]].concat();
    let text = stream(&[&record_head(0, 4), &text]);
    let version = [2_u8; 9].to_vec();
    for (bytes, words) in [
        (longer, "longer than was said"),
        (empty, "no bytes"),
        (more, "longer than was said"),
        (text, "a text has"),
        (version, "version 2"),
    ] {
        let (mut parser, mut input) = (DataStreamParser::default(), Bytes::from(bytes));
        let wrong = loop {
            match parser.next(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{words}: nothing was wrong"),
                Err(Breach(wrong)) => break wrong,
            }
        };
        assert!(wrong.contains(words), "{wrong}");
    }
}

#[test]
fn messages_are_read_however_they_are_cut() {
    let outcome = |index, outcome| ControlMessage::Outcome { index, outcome };
    let long = "ä".repeat(400);
    let messages = [
        outcome(0, ChunkOutcome::Delivered),
        outcome(7, ChunkOutcome::Refused("full".to_owned())),
        outcome(u32::MAX, ChunkOutcome::Corrupt),
        outcome(1, ChunkOutcome::Missing(long)),
        ControlMessage::Streams(258),
        ControlMessage::Refused("no".to_owned()),
        ControlMessage::End,
    ];
    let mut written = BytesMut::new();
    messages
        .iter()
        .for_each(|message| message.write(&mut written));
    for cut in [1, 2, 3, 7, 100, 10_000] {
        let (mut reader, mut found) = (ControlMessages::default(), Vec::new());
        for part in written.chunks(cut) {
            reader.push(part);
            while let Some(message) = reader.next().unwrap() {
                found.push(message);
            }
        }
        assert!(reader.0.is_empty());
        // A long text is cut off, at a character.
        let ControlMessage::Outcome {
            outcome: ChunkOutcome::Missing(why),
            ..
        } = &found[3]
        else {
            panic!("{found:?}");
        };
        assert_eq!(*why, "ä".repeat(256));
        assert_eq!((&found[..3], &found[4..]), (&messages[..3], &messages[4..]));
    }
    for wrong in [&[4][..], &[1, 0, 0, 0, 0, 9, 0, 0], &[2, 2, 1]] {
        let mut reader = ControlMessages::default();
        reader.push(wrong);
        assert!(reader.next().is_err(), "{wrong:?}");
    }
}

#[test]
fn an_announcement_is_read_as_it_was() {
    let chunk = |id, size_bytes| NeededChunk { id, size_bytes };
    let chunks = [chunk(5, 0), chunk(u64::MAX, 16 << 20)];
    let mut written = announcement(16, &chunks);
    let head = written.split_to(ANNOUNCEMENT_HEAD_BYTES);
    let head = head[..].try_into().unwrap();
    let found = announcement_head(&head);
    let expected = AnnouncementHead {
        streams: 16,
        chunks: 2,
    };
    assert_eq!(found, Ok(expected));
    assert_eq!(written.len(), 2 * ANNOUNCED_CHUNK_BYTES);
    let found = [announced_chunk(&mut written), announced_chunk(&mut written)];
    assert_eq!(found, chunks);
    for at in 0..5 {
        let mut other = head;
        other[at] ^= 1;
        assert!(announcement_head(&other).is_err(), "byte {at}");
    }
}
