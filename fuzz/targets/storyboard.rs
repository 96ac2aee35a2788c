#![no_main]
//! A storyboard: one line, TOML, SubRip or WebVTT.

use libfuzzer_sys::fuzz_target;
use soragen::Storyboard;

fuzz_target!(|text: &str| {
    soragen_fuzz::value_or_message(Storyboard::inline(text));
    if let Some(board) = soragen_fuzz::value_or_message(Storyboard::parse(text)) {
        // Images would be other files.
        if board.shots.iter().all(|shot| shot.image.is_none()) {
            soragen_fuzz::value_or_message(board.shots());
        }
    }
});
