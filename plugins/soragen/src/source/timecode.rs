// SPDX-License-Identifier: MPL-2.0

//! SMPTE ST 12-1 time codes of frames.

use gst_video::{ValidVideoTimeCode, VideoTimeCode, VideoTimeCodeFlags};

use super::frame_time::Rate;

/// Whether `text` is a time code at some frame rate.
pub fn is_valid(text: &str) -> bool {
    text.parse::<VideoTimeCode>().is_ok()
}

/// Parses the first frame's time code, with drop-frame counting at 30000/1001 and 60000/1001. `None` if `rate` has no such
/// time code: the frame number is too high, or a dropped one.
pub fn first(text: &str, rate: Rate) -> Option<ValidVideoTimeCode> {
    let mut code: VideoTimeCode = text.parse().ok()?;
    code.set_fps(gst::Fraction::new(i32::try_from(rate.0).ok()?, i32::try_from(rate.1).ok()?));
    code.set_flags(match rate {
        (30_000 | 60_000, 1_001) => VideoTimeCodeFlags::DROP_FRAME,
        _ => VideoTimeCodeFlags::empty(),
    });
    code.try_into().ok()
}

/// The time code of frame `n` of a video whose first one is `first`.
pub fn at(first: &ValidVideoTimeCode, n: u64) -> ValidVideoTimeCode {
    let mut code = first.clone();
    code.add_frames(i64::try_from(n).unwrap_or(i64::MAX));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(start: &str, rate: Rate, n: u64) -> String {
        at(&first(start, rate).unwrap(), n).to_string()
    }

    #[test]
    fn frames_are_counted_with_and_without_drop_frame() {
        assert_eq!(text("10:00:00:00", (25, 1), 25 * 60 + 3), "10:01:00:03");
        assert_eq!(text("00:00:00:00", (24_000, 1_001), 24 * 60), "00:01:00:00");
        assert_eq!(text("23:59:59:15", (16, 1), 1), "00:00:00:00");
        // Drop-frame: two numbers are dropped every minute, except every tenth.
        assert_eq!(text("00:00:00:00", (30_000, 1_001), 1799), "00:00:59;29");
        assert_eq!(text("00:00:00;00", (30_000, 1_001), 1800), "00:01:00;02");
        assert_eq!(text("00:00:00:00", (30_000, 1_001), 17_982), "00:10:00;00");
        assert_eq!(text("00:00:00:00", (60_000, 1_001), 3600), "00:01:00;04");
    }

    #[test]
    fn invalid_time_codes_are_rejected() {
        gst::init().unwrap();
        assert!(is_valid("10:00:00:00") && is_valid("10:00:00;00"));
        assert!(!is_valid("") && !is_valid("10:00") && !is_valid("soon"));
        assert!(first("00:00:00:25", (25, 1)).is_none());
        assert!(first("00:01:00:00", (30_000, 1_001)).is_none(), "a dropped frame number");
        assert!(first("25:00:00:00", (25, 1)).is_none());
    }
}
