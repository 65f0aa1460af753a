//! Cuts a stream of bytes into frames. Knows lengths, nothing else.

use lockstep_proto::limits::FRAME_BYTES_MAX;

/// Bytes of the length prefix.
pub(crate) const PREFIX_BYTES: usize = 4;

/// What the front of some bytes is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Front {
    /// A whole frame; its body is `bytes[PREFIX_BYTES..end]`.
    Whole {
        /// Where the next frame begins.
        end: usize,
    },
    /// The beginning of a frame.
    Partial {
        /// Bytes the whole frame has, prefix included; the least possible if not known yet.
        needed: usize,
    },
    /// No frame has this length.
    Malformed,
}

/// Looks at the front of `bytes`.
pub(crate) fn front(bytes: &[u8]) -> Front {
    let Some((prefix, body)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Front::Partial { needed: PREFIX_BYTES + 1 };
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length == 0 || length > FRAME_BYTES_MAX {
        return Front::Malformed;
    }
    let end = PREFIX_BYTES + length;
    if body.len() < length { Front::Partial { needed: end } } else { Front::Whole { end } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_are_told_apart() {
        assert_eq!(front(&[]), Front::Partial { needed: 5 });
        assert_eq!(front(&[2, 0, 0]), Front::Partial { needed: 5 });
        assert_eq!(front(&[2, 0, 0, 0, 9]), Front::Partial { needed: 6 });
        assert_eq!(front(&[2, 0, 0, 0, 9, 9, 1]), Front::Whole { end: 6 });
        assert_eq!(front(&[0, 0, 0, 0]), Front::Malformed);
        let most = u32::try_from(FRAME_BYTES_MAX).expect("fits").to_le_bytes();
        assert_eq!(front(&most), Front::Partial { needed: FRAME_BYTES_MAX + 4 });
        let over = u32::try_from(FRAME_BYTES_MAX + 1).expect("fits").to_le_bytes();
        assert_eq!(front(&over), Front::Malformed);
    }
}
