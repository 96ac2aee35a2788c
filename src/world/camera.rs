//! What a prompt says of the camera: it is no subject.

use super::grammar::is_one_of;
use super::words::{Word, Words, direction};

/// Before `camera`: what it is like, and what joins it to the sentence.
const LIKE: &str = "static fixed moving panning slow smooth handheld shaky shot view scene";
const JOINED: &str = "seen filmed from by with through while as and";
/// Stems of what cameras do and are.
const MOVES: &str = "pan mov zoom tilt follow track turn rotat pull push sweep dolly glid travel go stay stand orbit circl shak slid drift \
    shift static fix still movement angl";
/// Other words of the clause.
const FILLED: &str = "that is which to from towards left right side around back again on very shot view";

/// Stems of a camera that goes with its subject.
const FOLLOWS: &str = "follow track";

/// What a prompt says of the camera.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Camera {
    /// The direction in which it pans: −1 to the left, 1 to the right.
    pub pan: Option<i32>,
    /// Whether it follows the subject.
    pub follows: bool,
}

/// The words without the clause about the camera, and what it says.
pub fn without_camera(words: &Words) -> (Words, Camera) {
    let words = without_close_up(words.as_slice());
    let Some((begin, end)) = (0..words.len()).find_map(|i| clause(&words, i)) else {
        return (Words::of(words), Camera::default());
    };
    let clause = &words[begin..end];
    let with_it = |pair: &[Word]| is_one_of("mov go travel", &pair[0].stem) && pair[1].text == "with";
    let camera = Camera {
        pan: direction(&Words::of(clause.to_vec())),
        follows: clause.iter().any(|word| is_one_of(FOLLOWS, &word.stem))
            || words[begin..].windows(2).take(end - begin).any(with_it),
    };
    (Words::of([&words[..begin], &words[end..]].concat()), camera)
}

/// `Close-up of a fox`: `up` is no place.
fn without_close_up(words: &[Word]) -> Vec<Word> {
    let mut words = words.to_vec();
    while let Some(i) = words.windows(2).position(|pair| pair[0].text == "close" && pair[1].text == "up") {
        words.drain(i..i + 2);
    }
    words
}

/// Begin and end of the clause whose camera or `pan` is the word `i`.
fn clause(words: &[Word], i: usize) -> Option<(usize, usize)> {
    let text = |i: usize| words.get(i).map_or("", |word| word.text.as_str());
    let before = |i: usize| i.checked_sub(1).map_or("", text);
    let mut begin = i;
    let mut skip = |list: &str| {
        while is_one_of(list, before(begin)) {
            begin -= 1;
        }
        begin
    };
    let like = skip(LIKE);
    skip("the a an");
    let begin = skip(JOINED);
    let sides = ["left", "right"];
    let mut end = i + 1;
    loop {
        let (word, next) = (text(end), text(end + 1));
        let is_part = is_one_of(FILLED, word)
            || is_one_of("in out up down", word) && !is_one_of("the a an", next)
            || word == "the" && sides.contains(&next)
            || word.ends_with("ly")
            || words.get(end).is_some_and(|word| is_one_of(MOVES, &word.stem));
        if !is_part {
            break;
        }
        end += 1;
    }
    // `followed by the camera`
    let is_followed = begin > 0 && text(begin) == "by" && is_one_of(FOLLOWS, &words[begin - 1].stem);
    let begin = if is_followed { begin - 1 } else { begin };
    let moves = is_followed || words[i..end].iter().any(|word| is_one_of(MOVES, &word.stem));
    let found = match text(i) {
        // A drawing of the bank.
        "camera" => !["movie", "video"].contains(&before(i)) && (moves || like < i),
        // `slow pan to the left`, but not a pan that slides.
        "pan" | "pans" | "panning" | "zoom" | "zooming" => {
            !is_one_of("a an the", before(i)) && (begin == 0 || before(begin) == ",")
        }
        _ => false,
    };
    found.then_some((begin, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_camera_is_cut() {
        for (prompt, rest, pan) in [
            ("a fox stands still, the camera pans to the right", "a fox stands still ,", Some(1)),
            ("a fox rests; the camera moves to the left", "a fox rests ,", Some(-1)),
            ("a fox rests, seen from a camera that moves to the right", "a fox rests ,", Some(1)),
            ("The camera moves to the left, a cat sits", ", a cat sits", Some(-1)),
            (
                "a fox rests while the camera slowly pans left and a cat sits",
                "a fox rests and a cat sits",
                Some(-1),
            ),
            ("the camera pans from left to right over the city", "over the city", Some(1)),
            ("camera follows a fox running to the right", "a fox running to the right", None),
            ("a fox runs, followed by the camera", "a fox runs ,", None),
            ("the camera zooms in on a fox", "a fox", None),
            ("zoom in on a fox", "a fox", None),
            ("a fox, static camera", "a fox ,", None),
            ("a fox rests, slow pan to the left", "a fox rests ,", Some(-1)),
            ("a fox rests, panning right", "a fox rests ,", Some(1)),
            ("a close-up of a fox", "a of a fox", None),
            ("a movie camera jumps", "a movie camera jumps", None),
            ("a camera on the grass", "a camera on the grass", None),
            ("a pan slides to the right", "a pan slides to the right", None),
            ("", "", None),
        ] {
            let (words, Camera { pan: found, .. }) = without_camera(&Words::new(prompt));
            let words: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!((words.join(" ").as_str(), found), (rest, pan), "{prompt}");
        }
    }
}
