// SPDX-License-Identifier: MPL-2.0

//! Which frame when: the output's frame rate against the model's own.

/// A frame rate as a fraction.
pub type Rate = (u32, u32);

const SECOND: u128 = 1_000_000_000;

/// When frame `n` begins, in nanoseconds. Frame by frame from here there is no drift, at 30000/1001 neither.
pub fn start(n: u64, (numerator, denominator): Rate) -> u64 {
    let time = u128::from(n) * SECOND * u128::from(denominator) / u128::from(numerator);
    u64::try_from(time).unwrap_or(u64::MAX)
}

/// The frame that is shown at `time`: the last that has begun.
pub fn at(time: u64, (numerator, denominator): Rate) -> u64 {
    // `start` rounds down by less than a nanosecond.
    let frame = (u128::from(time) + 1) * u128::from(numerator) / (SECOND * u128::from(denominator));
    u64::try_from(frame).unwrap_or(u64::MAX)
}

/// How many frames begin before `time`.
pub fn before(time: u64, rate: Rate) -> u64 {
    match time.checked_sub(1) {
        Some(last) => at(last, rate) + u64::from(start(at(last, rate), rate) < time),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_at_their_own_start() {
        for rate in [(16, 1), (24, 1), (24000, 1001), (25, 1), (30000, 1001), (60000, 1001), (7, 3)] {
            for n in [0, 1, 2, 3, 29, 30, 299, 1_000_000] {
                assert_eq!(at(start(n, rate), rate), n, "{n} at {rate:?}");
                assert_eq!(before(start(n, rate), rate), n, "{n} at {rate:?}");
                assert_eq!(before(start(n, rate) + 1, rate), n + 1, "{n} at {rate:?}");
            }
        }
    }

    #[test]
    fn an_hour_of_ntsc_has_no_drift() {
        // 107892 frames of 1001/30000 s are an hour less 3.6 ms: 3599.9964 s.
        assert_eq!(start(107_892, (30_000, 1_001)), 3_599_996_400_000);
    }

    #[test]
    fn a_rate_in_between_repeats_and_drops() {
        let shown = |rate: Rate| (0..8).map(|n| at(start(n, rate), (16, 1))).collect::<Vec<_>>();
        assert_eq!(shown((32, 1)), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(shown((8, 1)), [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(shown((24, 1)), [0, 0, 1, 2, 2, 3, 4, 4]);
    }
}
