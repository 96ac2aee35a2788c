#![no_main]
//! A storyboard, on a line or as a file: TOML, SubRip, WebVTT.

use libfuzzer_sys::fuzz_target;
use soragen::Storyboard;

fuzz_target!(|text: &str| {
    soragen_fuzz::said(Storyboard::inline(text));
    if let Some(board) = soragen_fuzz::said(Storyboard::parse(text)) {
        // Pictures are files of their own.
        if board.shots.iter().all(|shot| shot.image.is_none()) {
            soragen_fuzz::said(board.shots());
        }
    }
});
