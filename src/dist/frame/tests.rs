use super::*;
use crate::{
    dist::{
        message::{
            Body,
            tests::{any_message, large, pid, raw},
        },
        outbox::Outbox,
    },
    term,
};
use bytes::{Buf, BufMut, BytesMut};
use proptest::{collection::vec, prelude::*};

const BOTH: Agreed = Agreed {
    cache: true,
    fragments: true,
    altact: true,
    records: true,
};

fn decoder(agreed: Agreed) -> Decoder {
    Decoder::new(agreed, Limits::default(), 1024 * 1024)
}

/// The frames, without their lengths, as a peer of ours writes them.
fn frames(messages: &[Message<Body>], agreed: Agreed) -> Vec<Bytes> {
    let mut out = Outbox::new(agreed);
    for message in messages {
        out.push(message.clone()).unwrap();
    }
    let mut frames = Vec::new();
    while !out.is_empty() {
        let _ = out.refill();
        let mut bytes = out.copy_to_bytes(out.remaining());
        while bytes.has_remaining() {
            let length = bytes.get_u32() as usize;
            frames.push(bytes.split_to(length));
        }
    }
    frames
}

fn send(size: usize) -> Message<Body> {
    Message::Send {
        to: raw(pid(1)),
        message: large(size).into(),
    }
}

/// A header with these half-bytes and references.
fn header(flags: &[u8], references: &[u8]) -> Vec<u8> {
    let mut bytes = vec![131, 68, flags.len() as u8];
    if !flags.is_empty() {
        bytes.extend(vec![0; flags.len() / 2 + 1]);
        for (entry, flag) in flags.iter().enumerate() {
            bytes[3 + entry / 2] |= flag << (4 * (entry % 2));
        }
    }
    bytes.extend_from_slice(references);
    bytes
}

/// What OTP sends for `sink ! sink`, from and to a node `x@h`.
fn from_otp(header: Vec<u8>) -> Bytes {
    let mut bytes = header;
    bytes.extend_from_slice(&[104, 4, 97, 6, 88, 82, 0]);
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
    bytes.extend_from_slice(&[82, 1, 82, 2, 82, 2]);
    bytes.into()
}

fn broken(result: Result<Option<Message<Raw>>, FrameError>, says: &str) {
    match result {
        Err(error) if error.ends_the_connection() => {
            let text = error.to_string();
            assert!(text.contains(says), "{text:?} does not say {says:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_the_protocol_is_read() {
    let mut decoder = decoder(BOTH);
    let new = header(
        &[8, 8, 9],
        &[5, 3, b'x', b'@', b'h', 6, 0, 7, 4, b's', b'i', b'n', b'k'],
    );
    let old = header(&[0, 0, 1], &[5, 6, 7]);
    for bytes in [from_otp(new), from_otp(old.clone()), from_otp(old)] {
        let Ok(Some(Message::RegSend { from, to, message })) = decoder.decode(&bytes) else {
            panic!("not read");
        };
        assert_eq!(from, raw(eetf::Pid::new("x@h", 1, 0, 9)));
        assert_eq!(to.view().as_atom(), Some("sink"));
        assert!(message.view().is_atom("sink"));
    }
}

/// A header that only repeats what was said is remembered as a whole; it must not outlive what it says.
#[test]
fn a_slot_that_gets_another_atom_means_that_from_then_on() {
    let mut decoder = decoder(BOTH);
    let payload = |decoder: &mut Decoder, header: Vec<u8>| {
        let mut bytes = header;
        bytes.extend_from_slice(&[104, 3, 97, 2, 119, 0, 88, 119, 1, b'n']);
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&[82, 0]);
        match decoder.decode(&bytes.into()) {
            Ok(Some(Message::Send { message, .. })) => message.view().as_atom().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(payload(&mut decoder, header(&[8], &[3, 1, b'a'])), "a");
    assert_eq!(payload(&mut decoder, header(&[0], &[3])), "a");
    assert_eq!(payload(&mut decoder, header(&[0], &[3])), "a");
    assert_eq!(payload(&mut decoder, header(&[8], &[3, 1, b'b'])), "b");
    assert_eq!(payload(&mut decoder, header(&[0], &[3])), "b");
    // The same index in another segment is another slot.
    assert_eq!(payload(&mut decoder, header(&[15], &[3, 1, b'c'])), "c");
    assert_eq!(payload(&mut decoder, header(&[0], &[3])), "b");
    assert_eq!(payload(&mut decoder, header(&[7], &[3])), "c");
}

#[test]
fn a_header_that_cannot_be_followed_ends_the_connection() {
    let long = [&[3, 0, 3][..], b"abc"].concat();
    for (bytes, says) in [
        (header(&[0], &[3]), "never filled"),
        (header(&[8], &[3, 2, 0xff, 0xfe]), "an atom"),
        (header(&[8, 0], &[3, 1, b'a']), "cut off"),
        (header(&[8], &[3, 9, b'a']), "cut off"),
        (vec![131, 68], "cut off"),
        (vec![131, 68, 200, 0], "cut off"),
        // The half-byte behind the last entry says that names have two bytes of length.
        (header(&[8, 1], &long)[..7].to_vec(), "cut off"),
    ] {
        broken(decoder(BOTH).decode(&bytes.into()), says);
    }
    let only_fragments = Agreed {
        cache: false,
        ..BOTH
    };
    let bytes = from_otp(header(&[8, 8, 8], &[5, 1, b'x', 6, 0, 7, 1, b's']));
    broken(decoder(only_fragments).decode(&bytes), "not agreed upon");
}

#[test]
fn an_entry_that_the_header_does_not_have_costs_its_message_alone() {
    let mut decoder = decoder(BOTH);
    let bytes = from_otp(header(&[8, 8], &[5, 1, b'x', 6, 1, b'y']));
    let error = decoder.decode(&bytes).unwrap_err();
    assert!(!error.ends_the_connection(), "{error}");
    let bytes = from_otp(header(&[0, 0, 8], &[5, 6, 7, 1, b's']));
    assert!(decoder.decode(&bytes).unwrap().is_some());
}

/// Two bytes may stand for an atom of 1,020: what a term would have with its atoms written out is bounded.
#[test]
fn a_term_that_its_atoms_would_blow_up_is_refused() {
    let name = "\u{1F600}".repeat(255);
    let mut bytes = vec![131, 68, 1, 0x18, 0];
    bytes.put_u16(name.len() as u16);
    bytes.put_slice(name.as_bytes());
    bytes.extend_from_slice(&[104, 3, 97, 2, 119, 0, 88, 119, 1, b'n']);
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&[108, 0, 0, 39, 16]);
    bytes.extend_from_slice(&[82, 0].repeat(10_000));
    bytes.push(106);
    let limits = |max_written_out| Limits {
        max_written_out,
        ..Limits::default()
    };
    let mut decoder = Decoder::new(BOTH, limits(11_000_000), 1 << 30);
    assert!(decoder.decode(&bytes.clone().into()).unwrap().is_some());
    let mut decoder = Decoder::new(BOTH, limits(10_000_000), 1 << 30);
    let error = decoder.decode(&bytes.into()).unwrap_err();
    assert!(!error.ends_the_connection());
    assert!(error.to_string().contains("10000000 bytes"), "{error}");
}

#[test]
fn fragments_of_several_messages_may_come_interleaved() {
    let (one, two) = (
        frames(&[send(200_000)], BOTH),
        frames(&[send(150_000)], BOTH),
    );
    let renamed = |frame: &Bytes| {
        let mut bytes = BytesMut::from(&frame[..]);
        bytes[9] = 77;
        bytes.freeze()
    };
    let mut decoder = decoder(BOTH);
    let mut sizes = Vec::new();
    for n in 0..one.len().max(two.len()) {
        let turn = [one.get(n).cloned(), two.get(n).map(renamed)];
        for frame in turn.into_iter().flatten() {
            if let Some(Message::Send { message, .. }) = decoder.decode(&frame).unwrap() {
                sizes.push(message.view().as_binary().unwrap().len());
            }
        }
    }
    assert_eq!(sizes, [150_000, 200_000]);
    assert_eq!(decoder.held, 0);
    assert!(!decoder.incomplete());
}

#[test]
fn fragments_out_of_their_order_end_the_connection() {
    let frames = frames(&[send(300_000)], BOTH);
    let fed = |order: &[usize]| {
        let mut decoder = decoder(BOTH);
        let mut last = Ok(None);
        for n in order {
            last = decoder.decode(&frames[*n]);
        }
        last
    };
    broken(fed(&[1]), "never began");
    broken(fed(&[0, 2]), "not the next one");
    broken(fed(&[0, 1, 1]), "not the next one");
    broken(fed(&[0, 0]), "has ended");
    let mut zero = BytesMut::from(&frames[1][..]);
    zero[10..18].fill(0);
    broken(decoder(BOTH).decode(&zero.freeze()), "number 0");
    broken(decoder(BOTH).decode(&frames[1].slice(..12)), "cut off");
}

#[test]
fn what_comes_in_fragments_is_bounded() {
    // One message that is longer than allowed.
    let mut decoder = decoder(BOTH);
    let frames = frames(&[send(1_200_000)], BOTH);
    let last = frames
        .iter()
        .map(|frame| decoder.decode(frame))
        .find(Result::is_err);
    broken(last.unwrap(), "more than 1048576 bytes");
    // Many that are not.
    let mut decoder = super::tests::decoder(BOTH);
    let mut last = Ok(None);
    let begun = &self::frames(&[send(200_000)], BOTH)[0];
    for n in 0..5000_u16 {
        let mut begun = BytesMut::from(&begun[..]);
        begun[8..10].copy_from_slice(&(n + 1).to_be_bytes());
        last = decoder.decode(&begun.freeze());
        if last.is_err() {
            break;
        }
    }
    assert!(last.as_ref().is_err_and(FrameError::is_overload));
    broken(last, "more than 268435456 bytes");
    // Many that have nothing yet.
    let mut decoder = super::tests::decoder(BOTH);
    let mut last = Ok(None);
    for n in 0..=MAX_SEQUENCES as u64 {
        let mut begun = vec![131, 69];
        begun.put_u64(n + 1);
        begun.put_u64(u64::MAX);
        begun.extend_from_slice(&[0, 104, 1, 97, 99]);
        last = decoder.decode(&begun.into());
        if last.is_err() {
            break;
        }
    }
    broken(last, "too many");
}

#[test]
fn a_fragmented_message_that_cannot_be_read_costs_itself_alone() {
    let whole = frames(&[send(300_000)], BOTH);
    // Its payload.
    let mut decoder = decoder(BOTH);
    let mut last = Ok(None);
    for (n, frame) in whole.iter().enumerate() {
        let mut bytes = BytesMut::from(&frame[..]);
        if n == 0 {
            let at = bytes
                .windows(5)
                .position(|b| b == [109, 0, 4, 147, 224])
                .unwrap();
            bytes[at] = 255;
        }
        last = decoder.decode(&bytes.freeze());
    }
    let error = last.unwrap_err();
    assert!(!error.ends_the_connection(), "{error}");
    // Its control message: what follows is taken for what it is, and not kept.
    let mut last = Ok(None);
    for (n, frame) in whole.iter().enumerate() {
        let mut bytes = BytesMut::from(&frame[..]);
        if n == 0 {
            // Behind 131, 69, two numbers and a header of one new entry.
            let at = bytes.windows(4).position(|b| b == [104, 3, 97, 2]).unwrap();
            bytes[at] = 255;
        }
        last = decoder.decode(&bytes.freeze());
        assert_eq!(decoder.held, 0);
    }
    let error = last.unwrap_err();
    assert!(!error.ends_the_connection(), "{error}");
    assert!(!decoder.incomplete());
}

#[test]
fn a_message_may_be_one_fragment() {
    let message = Message::Send {
        to: raw(pid(1)),
        message: raw(term::atom("x")).into(),
    };
    let whole = &frames(&[message], BOTH)[0];
    let mut one = vec![131, 69];
    one.put_u64(5);
    one.put_u64(1);
    one.extend_from_slice(&whole[2..]);
    let mut decoder = decoder(BOTH);
    let read = decoder.decode(&one.into()).unwrap();
    assert!(matches!(read, Some(Message::Send { .. })), "{read:?}");
    assert!(!decoder.incomplete());
}

#[test]
fn a_frame_of_a_kind_that_was_not_agreed_upon_is_named() {
    let nothing = Agreed::default();
    for (agreed, bytes, says) in [
        (nothing, &[131, 68, 0][..], "begins with 68"),
        (nothing, &[131, 70, 0], "begins with 70"),
        (BOTH, &[112, 131, 104, 1, 97, 1], "begins with 112"),
        (
            Agreed {
                fragments: false,
                ..BOTH
            },
            &[131, 69, 0],
            "begins with 69",
        ),
        (BOTH, &[131], "begins with 131"),
    ] {
        let error = decoder(agreed)
            .decode(&Bytes::from_static(bytes))
            .unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!error.ends_the_connection());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changed_bytes_are_an_error_or_another_message_and_never_a_panic(
        messages in vec(any_message(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cache: bool, fragments: bool,
    ) {
        let agreed = Agreed { cache, fragments, altact: false, records: false };
        let mut frames = frames(&messages, agreed);
        for (which, at, byte) in changes {
            let which = which.index(frames.len());
            let mut bytes = BytesMut::from(&frames[which][..]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            frames[which] = bytes.freeze();
        }
        let mut decoder = decoder(agreed);
        for frame in &frames {
            if let Ok(Some(message)) = decoder.decode(frame) {
                // What was let through can be read to its end.
                let _ = message.receiver().decode();
                let _ = message.receiver().to_bytes();
            }
        }
    }

    #[test]
    fn garbage_is_never_a_panic(
        frames in vec((prop::sample::select(vec![68_u8, 69, 70]), vec(any::<u8>(), 0..80)), 1..6),
    ) {
        let mut decoder = decoder(BOTH);
        for (kind, rest) in frames {
            let bytes = [&[131, kind][..], &rest].concat();
            let _ = decoder.decode(&bytes.into());
        }
    }
}
