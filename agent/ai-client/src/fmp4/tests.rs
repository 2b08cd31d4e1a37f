use proptest::prelude::*;

use super::*;

const FILE: &[u8] = include_bytes!("../../tests/data/two-seconds.mp4");

/// The samples of a file that comes in pieces of this size, and how it ended.
fn parsed(file: &[u8], piece: usize) -> (Vec<Sample>, Result<(), Fmp4Error>) {
    let (mut parser, mut samples) = (Parser::default(), Vec::new());
    for piece in file.chunks(piece.max(1)) {
        let pushed = parser.push(piece);
        while let Some(sample) = parser.next() {
            samples.push(sample);
        }
        if pushed.is_err() {
            return (samples, pushed);
        }
    }
    (samples, Ok(()))
}

#[test]
fn every_picture_is_read_with_its_times_however_the_bytes_are_cut() {
    let (whole, end) = parsed(FILE, FILE.len());
    end.expect("a good file");
    assert_eq!(whole.len(), 50);
    assert!(whole.iter().enumerate().all(|(at, sample)| sample.keyframe == (at % 25 == 0)));
    let steps: Vec<i64> = whole.windows(2).map(|pair| pair[1].dts - pair[0].dts).collect();
    // ffmpeg lengthens the last picture of a fragment by what B-frames shift.
    assert!(
        steps.iter().filter(|step| **step == 3600).count() >= 48 && steps.iter().all(|step| *step > 0),
        "{steps:?}"
    );
    assert!(whole.windows(2).any(|pair| pair[1].pts < pair[0].pts), "there are B-frames");
    assert!(whole.iter().all(|sample| !sample.nals.is_empty()));
    for piece in [1, 7, 100, 1000] {
        assert_eq!(parsed(FILE, piece).0, whole, "in pieces of {piece}");
    }
}

#[test]
fn a_file_that_is_cut_off_has_the_fragments_that_came_whole() {
    let whole = parsed(FILE, FILE.len()).0;
    for end in (0..FILE.len()).step_by(97) {
        let (samples, ended) = parsed(&FILE[..end], 512);
        ended.expect("nothing of it is wrong");
        assert_eq!(samples, whole[..samples.len()]);
    }
    assert_eq!(parsed(&FILE[..FILE.len() * 3 / 4], 512).0.len(), 25);
}

#[test]
fn sizes_that_lie_are_errors_and_take_no_memory() {
    let huge = [&[0x7f, 0xff, 0xff, 0xff][..], b"moov", &[0; 64]].concat();
    assert!(matches!(parsed(&huge, 64).1, Err(Fmp4Error::TooLarge(_))));
    let endless = [&[0, 0, 0, 0][..], b"mdat", &[0; 64]].concat();
    assert!(parsed(&endless, 64).1.is_err());
    assert!(parsed(b"<html><body>no such thing</body></html>", 64).1.is_err());
    let data_first = [&[0, 0, 0, 12][..], b"mdat", &[0; 4]].concat();
    assert!(matches!(parsed(&data_first, 64).1, Err(Fmp4Error::NoTracks)));
}

proptest! {
    #[test]
    fn damaged_bytes_are_an_error_or_other_samples_and_never_more(
        at in 0..FILE.len(), with in prop::collection::vec(any::<u8>(), 1..8)
    ) {
        let mut file = FILE.to_vec();
        for (offset, byte) in with.into_iter().enumerate() {
            if let Some(place) = file.get_mut(at + offset) {
                *place = byte;
            }
        }
        let (samples, _) = parsed(&file, 4096);
        let bytes: usize = samples.iter().flat_map(|sample| &sample.nals).map(Bytes::len).sum();
        prop_assert!(samples.len() <= MOST_SAMPLES * 4 && bytes <= FILE.len() * 4);
    }
}
