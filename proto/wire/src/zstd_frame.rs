//! The maximum decompressed size of a zstd frame, without decompressing it (RFC 8878, 3.1.1).

/// Why bytes are not a zstd frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The magic number is missing.
    #[error("not a zstd frame")]
    Magic,
    /// It ends within a header or a block.
    #[error("truncated")]
    Short,
    /// A block has an undefined type.
    #[error("a block of an unknown type")]
    Block,
}

const MAGIC: u32 = 0xFD2F_B528;
/// The maximum decompressed size of a block, in bytes.
const MAX_BLOCK: u64 = 128 * 1024;

/// The maximum decompressed size of a frame, in bytes. Raw and RLE blocks count with their exact size, compressed blocks with
/// the maximum.
pub(crate) fn most_unpacked(frame: &[u8]) -> Result<usize, FrameError> {
    let mut rest = frame;
    if number(&mut rest, 4)? != u64::from(MAGIC) {
        return Err(FrameError::Magic);
    }
    let descriptor = number(&mut rest, 1)?;
    let (content_size, dictionary) = (descriptor >> 6, descriptor & 3);
    let single_segment = descriptor & 0x20 != 0;
    let mut window = u64::MAX;
    if !single_segment {
        let byte = number(&mut rest, 1)?;
        let base = 1 << (10 + (byte >> 3));
        window = base + base / 8 * (byte & 7);
    }
    number(&mut rest, [0, 1, 2, 4].get(size(dictionary)).copied().unwrap_or_default())?;
    let content_bytes = match (content_size, single_segment) {
        (0, false) => 0,
        (0, true) => 1,
        (flag, _) => 1 << flag,
    };
    let content = number(&mut rest, content_bytes)?;
    if single_segment {
        window = content + if content_size == 1 { 256 } else { 0 };
    }
    let full = window.min(MAX_BLOCK);
    let mut most = 0_u64;
    loop {
        let header = number(&mut rest, 3)?;
        let (last, kind, length) = (header & 1 != 0, header >> 1 & 3, header >> 3);
        let (stored, unpacked) = match kind {
            0 => (length, length),
            1 => (1, length),
            2 => (length, full),
            _ => return Err(FrameError::Block),
        };
        rest = rest.get(size(stored)..).ok_or(FrameError::Short)?;
        most = most.saturating_add(unpacked);
        if last {
            return Ok(size(most));
        }
    }
}

/// Takes a little-endian number of at most eight bytes.
fn number(rest: &mut &[u8], bytes: usize) -> Result<u64, FrameError> {
    let (taken, others) = rest.split_at_checked(bytes).ok_or(FrameError::Short)?;
    *rest = others;
    Ok(taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    /// A frame with a window of 128 KiB and these blocks: type, length in the header, and number of stored bytes.
    fn frame(blocks: &[(u32, u32, usize)]) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
        for (n, (kind, length, stored)) in blocks.iter().enumerate() {
            let last = u32::from(n + 1 == blocks.len());
            frame.extend(&(last | kind << 1 | length << 3).to_le_bytes()[..3]);
            frame.extend(vec![0; *stored]);
        }
        frame
    }

    #[test]
    fn the_maximum_size_is_the_sum_of_blocks() {
        for (blocks, most) in [
            (&[(0, 7, 7)][..], Ok(7)),
            (&[(1, 100_000, 1), (1, 5, 1)], Ok(100_005)),
            (&[(2, 9, 9), (0, 3, 3)], Ok(131_075)),
            (&[(0, 7, 6)], Err(FrameError::Short)),
            (&[(3, 0, 0)], Err(FrameError::Block)),
            (&[], Err(FrameError::Short)),
        ] {
            assert_eq!(most_unpacked(&frame(blocks)), most, "{blocks:?}");
        }
        assert_eq!(most_unpacked(b"x"), Err(FrameError::Short));
        assert_eq!(most_unpacked(b"xxxx"), Err(FrameError::Magic));
        // A single segment of nine bytes, which encoders write if they know the size.
        let single = [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 9, 0x15, 0, 0][..], &[0; 2]].concat();
        assert_eq!(most_unpacked(&single), Ok(9));
    }

    #[test]
    fn the_bound_of_a_recorded_frame_is_close() {
        let recorded = "KLUv/QQAJQQABAcKBWFscGhhEAcaBHNob3AiCmhlYWRsZXNzLTEqJgoaa3ViZXJuZXRlcy5pby9zZXJ2aWNlLW5hbWUSCCoiCh4uEgA6BElQdjRCFgoKMTAuNjcuMS40MBICCAEaBGRiLTAxMUoMCgJkYhIDVENQGLgqBgCgENh5vigCppK3pyPbXgUFyYGu8w==";
        assert_eq!(most_unpacked(&STANDARD.decode(recorded).unwrap()), Ok(1_024));
    }

    proptest! {
        /// No frame decompresses to more, and no input causes a panic.
        #[test]
        fn no_frame_decompresses_to_more(content: Vec<u8>, copies in 1..200usize, noise: Vec<u8>) {
            let content = content.repeat(copies);
            let packed = compress_to_vec(content.as_slice(), CompressionLevel::Fastest);
            prop_assert!(most_unpacked(&packed).unwrap() >= content.len());
            let _ = most_unpacked(&noise);
            let _ = most_unpacked(&[&MAGIC.to_le_bytes()[..], &noise].concat());
        }
    }
}
