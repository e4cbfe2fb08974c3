//! Frames torn at every byte, floods, lies and rubbish.

use super::*;

fn all(decoder: &mut Decoder) -> Result<Vec<Event>, Fault> {
    let mut events = Vec::new();
    while let Some(event) = decoder.next()? {
        events.push(event);
    }
    Ok(events)
}

/// A conversation, and what it must decode to once adjacent data is joined.
fn conversation() -> (Vec<u8>, Vec<String>) {
    let mut encoder = Encoder::new();
    let mut wire = Vec::new();
    wire.extend_from_slice(&encoder.syn(1, 0, &[("streamtype", "error")]));
    wire.extend_from_slice(&encoder.syn(3, UNIDIRECTIONAL, &[("streamtype", "stdin"), ("port", "80")]));
    wire.extend_from_slice(&data_head(3, 5, false));
    wire.extend_from_slice(b"hello");
    wire.extend_from_slice(&ping(7));
    wire.extend_from_slice(&data_head(3, 0, true));
    wire.extend_from_slice(&reset(1, Reset::Cancel));
    wire.extend_from_slice(&go_away(3, false));
    let expected = [
        "syn 1 error false",
        "syn 3 stdin true",
        "data 3 hello",
        "ping 7",
        "end 3",
        "reset 1",
        "goaway",
    ]
    .map(str::to_owned)
    .to_vec();
    (wire, expected)
}

fn say(events: Vec<Event>) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for event in events {
        match event {
            Event::Syn {
                id, one_way, headers, ..
            } => said.push(format!("syn {id} {} {one_way}", headers.get("streamtype"))),
            Event::Data { id, data, end } => {
                let text = std::str::from_utf8(&data).unwrap();
                match said.last_mut() {
                    Some(last) if last.starts_with(&format!("data {id} ")) => last.push_str(text),
                    _ if data.is_empty() => {}
                    _ => said.push(format!("data {id} {text}")),
                }
                if end {
                    said.push(format!("end {id}"));
                }
            }
            Event::Ping { id } => said.push(format!("ping {id}")),
            Event::Reset { id } => said.push(format!("reset {id}")),
            Event::GoAway => said.push("goaway".to_owned()),
            other => said.push(format!("{other:?}")),
        }
    }
    said
}

#[test]
fn every_tear_gives_the_same_events() {
    let (wire, expected) = conversation();
    for cut in 0..=wire.len() {
        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(&wire[..cut]);
        let mut events = all(&mut decoder).unwrap();
        decoder.buffer().extend_from_slice(&wire[cut..]);
        events.extend(all(&mut decoder).unwrap());
        assert_eq!(say(events), expected, "cut at {cut}");
    }
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for byte in &wire {
        decoder.buffer().extend_from_slice(&[*byte]);
        events.extend(all(&mut decoder).unwrap());
    }
    assert_eq!(say(events), expected);
}

#[test]
fn a_data_frame_of_16_mib_is_never_collected() {
    let mut decoder = Decoder::new();
    decoder.buffer().extend_from_slice(&data_head(1, 0x00ff_ffff, true));
    let mut got = 0;
    while got < 0x00ff_ffff {
        decoder
            .buffer()
            .extend_from_slice(&[0; 8192][..8192.min(0x00ff_ffff - got)]);
        for event in all(&mut decoder).unwrap() {
            let Event::Data { data, end, .. } = event else {
                panic!("{event:?}")
            };
            got += data.len();
            assert_eq!(end, got == 0x00ff_ffff);
        }
        assert!(decoder.buffer.is_empty());
    }
}

#[test]
fn lies_end_the_connection_without_allocation() {
    let settings = |count: u32| {
        let mut frame = control(4, 0, 12);
        frame.put_u32(count);
        frame.put_u64(0);
        frame
    };
    let mut ok = Decoder::new();
    ok.buffer().extend_from_slice(&settings(1));
    assert_eq!(all(&mut ok).unwrap(), [Event::Other]);
    for (wire, fault) in [
        (settings(2), Fault::Length { kind: 4, len: 12 }),
        (settings(u32::MAX), Fault::Length { kind: 4, len: 12 }),
        (
            control(1, 0, 0x00ff_ffff),
            Fault::Length {
                kind: 1,
                len: 0x00ff_ffff,
            },
        ),
        (control(1, 0, 0), Fault::Length { kind: 1, len: 0 }),
        (control(6, 0, 0), Fault::Length { kind: 6, len: 0 }),
        (control(2, 0, 0), Fault::Length { kind: 2, len: 0 }),
        (BytesMut::from(&[0x80, 2, 0, 6, 0, 0, 0, 4][..]), Fault::Version(2)),
        (BytesMut::from(&data_head(0, 4, false)[..]), Fault::StreamZero),
        (reset(0, Reset::Cancel), Fault::StreamZero),
    ] {
        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(&wire);
        assert_eq!(all(&mut decoder).unwrap_err(), fault);
        assert!(decoder.buffer.capacity() <= MAX_CONTROL);
    }
}

#[test]
fn unknown_control_frames_are_skipped() {
    let mut decoder = Decoder::new();
    for kind in [5, 10, 11, 0x7fff] {
        let mut frame = control(kind, 0xff, 3);
        frame.put_slice(b"abc");
        decoder.buffer().extend_from_slice(&frame);
    }
    decoder.buffer().extend_from_slice(&ping(9));
    assert_eq!(all(&mut decoder).unwrap().last(), Some(&Event::Ping { id: 9 }));
}

#[test]
fn rubbish_never_panics() {
    // A cheap generator is enough: the point is the number of different inputs.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        let mut decoder = Decoder::new();
        for _ in 0..64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mut word = (state >> 16).to_be_bytes();
            // Make control frames of version 3 with small lengths likely.
            if state & 3 == 0 {
                word = [0x80, 3, 0, word[3] & 15, 0, 0, 0, word[7] & 31];
            }
            decoder.buffer().extend_from_slice(&word);
            if all(&mut decoder).is_err() {
                break;
            }
        }
    }
}
