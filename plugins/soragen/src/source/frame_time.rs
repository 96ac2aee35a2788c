// SPDX-License-Identifier: MPL-2.0

//! Conversion between times and frame numbers.

/// A frame rate as a fraction, in frames per second.
pub type Rate = (u32, u32);

const SECOND: u128 = 1_000_000_000;

/// The start of frame `n` in nanoseconds. It is computed from 0, so rounding errors do not add up.
pub fn frame_start(n: u64, (numerator, denominator): Rate) -> u64 {
    let time = u128::from(n) * SECOND * u128::from(denominator) / u128::from(numerator);
    u64::try_from(time).unwrap_or(u64::MAX)
}

/// The frame shown at `time`, in nanoseconds: the last one that starts no later.
pub fn frame_at(time: u64, (numerator, denominator): Rate) -> u64 {
    // `frame_start` rounds down by less than a nanosecond.
    let frame = (u128::from(time) + 1) * u128::from(numerator) / (SECOND * u128::from(denominator));
    u64::try_from(frame).unwrap_or(u64::MAX)
}

/// The number of frames that start before `time`, in nanoseconds.
pub fn frames_before(time: u64, rate: Rate) -> u64 {
    match time.checked_sub(1) {
        Some(last) => frame_at(last, rate) + u64::from(frame_start(frame_at(last, rate), rate) < time),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_at_its_own_start_is_found() {
        for rate in [(16, 1), (24, 1), (24000, 1001), (25, 1), (30000, 1001), (60000, 1001), (7, 3)] {
            for n in [0, 1, 2, 3, 29, 30, 299, 1_000_000] {
                assert_eq!(frame_at(frame_start(n, rate), rate), n, "{n} at {rate:?}");
                assert_eq!(frames_before(frame_start(n, rate), rate), n, "{n} at {rate:?}");
                assert_eq!(frames_before(frame_start(n, rate) + 1, rate), n + 1, "{n} at {rate:?}");
            }
        }
    }

    #[test]
    fn an_hour_at_30000_1001_has_no_drift() {
        // 107892 frames of 1001/30000 s are an hour less 3.6 ms: 3599.9964 s.
        assert_eq!(frame_start(107_892, (30_000, 1_001)), 3_599_996_400_000);
    }

    #[test]
    fn another_rate_repeats_or_drops_frames() {
        let shown = |rate: Rate| (0..8).map(|n| frame_at(frame_start(n, rate), (16, 1))).collect::<Vec<_>>();
        assert_eq!(shown((32, 1)), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(shown((8, 1)), [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(shown((24, 1)), [0, 0, 1, 2, 2, 3, 4, 4]);
    }
}
