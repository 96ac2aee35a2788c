//! Storyboards: shots on a timeline, in TOML, SubRip, WebVTT, or one line of text.
//!
//! The format is detected from the text. All formats list prompts with their times, and whether the video cuts or
//! continues.
//!
//! ```
//! use soragen::{Storyboard, Transition};
//!
//! let board = Storyboard::parse("0:00 a cat wakes | 0:04 the cat runs | 0:08 (cut) snow falls | 0:12")?;
//! assert_eq!(board.shots[2].prompt, "snow falls");
//! assert_eq!(board.shots[2].transition, Transition::Cut);
//! assert_eq!(board.end.unwrap().as_secs(), 12);
//! # Ok::<(), soragen::Error>(())
//! ```

mod cues;
mod inline;
mod sheet;
pub(crate) mod time;

use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::cues::plain;
use crate::request::{Shot, Transition};
use crate::{Error, Reference, Result, picture};

/// The longest storyboard. The subtitles of a film have a tenth of it.
const MAX_BYTES: u64 = 1 << 20;
const MAX_SHOTS: usize = 10_000;
/// Longer texts are no path and no name of a file (Linux: `PATH_MAX`, `NAME_MAX`).
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
/// All images are in memory at once.
const MAX_IMAGES: usize = 100;

/// A list of shots; the first starts at 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Storyboard {
    /// At least one. Images and references are not read yet.
    pub shots: Vec<Shot<PathBuf, String>>,
    /// End of the last shot. `None` if it is the only one and has no duration.
    pub end: Option<Duration>,
}

/// A mistake in a storyboard, and its line, from 1.
#[derive(Debug, PartialEq)]
struct ParseError {
    line: usize,
    reason: String,
}

impl ParseError {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl Storyboard {
    /// The image files: those that shots start from, and references.
    pub fn images(&self) -> impl Iterator<Item = &Path> {
        self.shots.iter().flat_map(|shot| {
            let references =
                shot.references.iter().filter(|text| !Reference::is_of_bank(text)).map(Path::new);
            shot.image.as_deref().into_iter().chain(references)
        })
    }

    /// Opens a storyboard: the text itself, if it begins with a time, has several lines or is TOML, otherwise a file.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`parse`](Self::parse).
    pub fn open(text_or_path: &str) -> Result<Self> {
        let text = text_or_path.trim();
        let is_text = text.contains(['\n', '\r'])
            || inline::is_inline(text)
            || sheet::is_toml(text)
            || text.len() > MAX_PATH
            || text.split(['/', '\\']).any(|name| name.len() > MAX_NAME);
        if is_text { Self::parse(text_or_path) } else { Self::read(Path::new(text)) }
    }

    /// Reads the file `path`. Relative paths of images start at its folder.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`]; [`Error::Invalid`] with the line of a mistake.
    pub fn read(path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        let mut bytes = Vec::new();
        std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(
            |source| match source.kind() {
                ErrorKind::NotFound => Error::NotFound {
                    path: path.into(),
                    hint: "name a storyboard file, or write `0:00 a prompt | 0:04 another`".into(),
                },
                _ => Error::Io { path: path.into(), source },
            },
        )?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(invalid(too_long()));
        }
        let text =
            String::from_utf8(bytes).map_err(|_| invalid("not UTF-8 text; save it as UTF-8".into()))?;
        let mut board = parse(&text).map_err(|fault| invalid(fault.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for image in board.shots.iter_mut().filter_map(|shot| shot.image.as_mut()) {
            *image = folder.join(&*image);
        }
        for reference in board.shots.iter_mut().flat_map(|shot| &mut shot.references) {
            if !Reference::is_of_bank(reference) {
                *reference = folder.join(&*reference).to_string_lossy().into_owned();
            }
        }
        Ok(board)
    }

    /// Parses a storyboard.
    ///
    /// # Errors
    /// [`Error::Request`] with the line of a mistake.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Request(crate::Setting::Shots, format!("storyboard: {reason}"));
        if text.len() as u64 > MAX_BYTES {
            return Err(refuse(too_long()));
        }
        parse(text).map_err(|fault| refuse(fault.to_string()))
    }

    /// Parses a storyboard on one line, as `0:00 a cat wakes | 0:04 the cat runs`. It cannot name a file.
    ///
    /// # Errors
    /// [`Error::Request`] for other text.
    pub fn inline(text: &str) -> Result<Self> {
        if !inline::is_inline(text) {
            return Err(Error::Request(
                crate::Setting::Shots,
                "storyboard: it must begin with 0:00 and a prompt".into(),
            ));
        }
        Self::parse(text)
    }

    /// The shots, with images and references loaded.
    ///
    /// # Errors
    /// Those of [`read_image`](crate::read_image) and [`Reference::open`].
    pub fn shots(&self) -> Result<Vec<Shot>> {
        let load = |shot: &Shot<PathBuf, String>| {
            let image = shot.image.as_deref().map(picture::read_image).transpose()?;
            let references =
                shot.references.iter().map(|text| Reference::open(text)).collect::<Result<_>>()?;
            let Shot { start, prompt, seed, motion_path, transition, .. } = shot.clone();
            Ok(Shot { start, prompt, seed, image, references, motion_path, transition })
        };
        self.shots.iter().map(load).collect()
    }
}

/// A text of the pad of `soraprompt`.
#[derive(Debug, PartialEq)]
pub struct PadText {
    /// Start and end in the time of the stream; `None` for those of its buffer.
    pub times: Option<(Duration, Duration)>,
    /// The prompt. May be empty.
    pub prompt: String,
    /// How it begins.
    pub transition: Transition,
}

/// Parses a text of a text pad, which is `markup` or plain: one cue, or several if the parser before it took the times and
/// numbers of the next cues for text (SubRip without empty lines).
///
/// # Errors
/// The reason why such times are not valid.
pub fn pad_texts(text: &str, markup: bool) -> Result<Vec<PadText>, String> {
    let text = if markup { Cow::Owned(text.replace("--&gt;", "-->")) } else { Cow::Borrowed(text) };
    let (first, more) = cues::split(&unix_lines(&text)).map_err(|fault| fault.to_string())?;
    let of = |times, text: &str| {
        let text = if markup { Cow::Owned(plain(text)) } else { Cow::Borrowed(text) };
        let (transition, prompt) = split_transition(&plain(&text));
        PadText { times, prompt, transition }
    };
    let more = more.iter().map(|cue| of(Some((cue.start, cue.until)), &cue.text));
    Ok(std::iter::once(of(None, &first)).chain(more).collect())
}

/// `text` with line feeds only. All formats may have carriage returns too.
fn unix_lines(text: &str) -> Cow<'_, str> {
    match text.contains('\r') {
        true => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => Cow::Borrowed(text),
    }
}

/// The beginning of `text`, for a message.
fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(60) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

fn too_long() -> String {
    format!("longer than {MAX_BYTES} bytes")
}

fn parse(text: &str) -> Result<Storyboard, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &unix_lines(text);
    let mut board = if inline::is_inline(text) {
        inline::parse(text)?
    } else if sheet::is_toml(text) {
        sheet::parse(text)?
    } else if cues::is_subtitles(text) {
        cues::parse(text)?
    } else if sheet::resembles_toml(text) {
        // Its error names the mistake.
        sheet::parse(text)?
    } else {
        return Err(ParseError::new(
            1,
            "neither TOML with [[shot]], nor SubRip or WebVTT, nor `0:00 a prompt | 0:04 another`",
        ));
    };
    // A last shot without a duration is as long as the shot before it.
    if board.end.is_none()
        && let [.., before, last] = board.shots.as_slice()
    {
        board.end = Some(last.start + (last.start - before.start));
    }
    Ok(board)
}

/// Collects shots, with the checks that all formats share.
#[derive(Default)]
struct Builder(Vec<Shot<PathBuf, String>>);

impl Builder {
    fn add(&mut self, line: usize, shot: Shot<PathBuf, String>) -> Result<(), ParseError> {
        let fail = |reason: String| Err(ParseError::new(line, reason));
        if self.0.len() == MAX_SHOTS {
            return fail(format!("more than {MAX_SHOTS} shots"));
        }
        if shot.prompt.is_empty() {
            return fail("the prompt is empty".into());
        }
        if let Some(before) = self.0.last()
            && shot.start <= before.start
        {
            return fail("the shot starts no later than the one before it".into());
        }
        if shot.image.is_some() && shot.transition == Transition::Continue && !self.0.is_empty() {
            return fail("an image needs transition = \"cut\"".into());
        }
        let images = |shot: &Shot<PathBuf, String>| usize::from(shot.image.is_some()) + shot.references.len();
        let more = images(&shot);
        if more > 0 && self.0.iter().map(images).sum::<usize>() + more > MAX_IMAGES {
            return fail(format!("more than {MAX_IMAGES} images and references"));
        }
        self.0.push(shot);
        Ok(())
    }

    fn finish(self, line: usize, end: Option<Duration>) -> Result<Storyboard, ParseError> {
        match (self.0.last(), end) {
            (None, _) => Err(ParseError::new(line, "there is no shot")),
            (Some(last), Some(end)) if end <= last.start => {
                Err(ParseError::new(line, "the last shot ends before it starts"))
            }
            _ => Ok(Storyboard { shots: self.0, end }),
        }
    }
}

/// Splits a prompt that may begin with `(cut)` or `(continue)`.
fn split_transition(text: &str) -> (Transition, String) {
    for (prefix, transition) in [("(cut)", Transition::Cut), ("(continue)", Transition::Continue)] {
        if let Some(start) = text.get(..prefix.len())
            && start.eq_ignore_ascii_case(prefix)
        {
            return (transition, text[prefix.len()..].trim().into());
        }
    }
    (Transition::Continue, text.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(seconds: f64, transition: Transition, prompt: &str) -> Shot<PathBuf, String> {
        let start = Duration::from_secs_f64(seconds);
        Shot { transition, ..Shot::new(start, prompt) }
    }

    fn reason(text: &str) -> String {
        Storyboard::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn all_formats_parse_to_the_same_storyboard() {
        use Transition::{Continue, Cut};
        let expected = Storyboard {
            shots: vec![
                shot(0.0, Continue, "a cat wakes"),
                shot(4.0, Continue, "the cat runs"),
                shot(8.5, Cut, "snow falls & lies"),
            ],
            end: Some(Duration::from_secs(12)),
        };
        for text in [
            "0:00 a cat wakes | 0:04 the cat runs | 0:08.5 (cut) snow falls & lies | 0:12",
            "\u{feff}00:00 (cUt) a cat wakes\n0:04 (continue)the cat runs\n\n00:00:08,500(cut) snow falls & lies\n0:12\n",
            "1\r\n00:00:00,000 --> 00:00:04,000\r\n<i>a cat</i>\r\nwakes\r\n\r\n2\r\n00:00:04,000 --> 00:00:07,000\r\n\
             the cat runs\r\n\r\n3\r\n00:00:08,500 --> 00:00:12,000\r\n(cut) snow  falls &amp; lies\r\n",
            "WEBVTT - a film\n\nNOTE not a cue\n\nSTYLE\n::cue { color: red }\n\nfirst\n00:00.000 --> 00:04.000 align:start\n\
             <v Ann>a cat wakes</v>\n\n00:04.000 --> 00:07.000\nthe <c.loud>cat</c> runs\n\n\
             00:08.500 --> 00:00:12.000\n(cut) snow falls &amp; lies",
            "[[shot]]\nprompt = \"a cat wakes\"\nduration = 4\n[[shot]]\nprompt = \"the cat runs\"\nduration = 4.5\n\
             transition = \"continue\"\n[[shot]]\nprompt = \"snow falls & lies\"\nduration = 3.5\ntransition = \"cut\"\n",
        ] {
            let mut board = Storyboard::parse(text).unwrap();
            // The transition of the first shot has no effect.
            board.shots[0].transition = Continue;
            assert_eq!(board, expected, "{text}");
        }
    }

    #[test]
    fn a_shot_in_toml_may_have_a_seed_and_an_image() {
        let board = Storyboard::parse(
            "[[shot]]\nprompt = \"a\"\nduration = 2\nseed = 7\nimage = \"a.png\"\n\
             [[shot]]\nprompt = \"b\"\nimage = \"b.png\"\ntransition = \"cut\"",
        )
        .unwrap();
        assert_eq!((board.shots[0].seed, board.shots[1].seed), (Some(7), None));
        assert_eq!(board.shots[1].image.as_deref(), Some(Path::new("b.png")));
        assert_eq!(board.end, Some(Duration::from_secs(4)), "as long as the shot before");
        let alone = Storyboard::parse("[[shot]]\nprompt = \"a\"").unwrap();
        assert_eq!(alone.end, None);
    }

    #[test]
    fn image_paths_are_relative_to_the_file() {
        let folder = std::env::temp_dir().join(format!("soragen-storyboard-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("film.toml");
        std::fs::write(&file, "[[shot]]\nprompt = \"a\"\nimage = \"a.png\"").unwrap();
        let board = Storyboard::open(&file.to_string_lossy());
        std::fs::write(&file, "[[shot]]\nprompt = 3").unwrap();
        let broken = Storyboard::read(&file);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(board.unwrap().shots[0].image.as_deref(), Some(&*folder.join("a.png")));
        let broken = broken.unwrap_err().to_string();
        assert!(broken.contains("film.toml: line 2: "), "{broken}");
        assert!(matches!(Storyboard::open("/no/such.srt"), Err(Error::NotFound { .. })));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, word) in [
            ("", 1, "neither"),
            ("a cat", 1, "neither"),
            ("0:00 a | 0:04 b | 0:04 c", 1, "no later"),
            ("0:00 a\n0:04\n0:08 c", 2, "empty"),
            ("0:01 a", 1, "0:00"),
            ("0:00 a | b", 1, "time"),
            ("0:00 a | 0:61 b", 1, "time"),
            ("0:00 a | 99999999999999999999:00 b", 1, "time"),
            ("0:00 a | 9999:00:00 b", 1, "time"),
            ("0:00", 1, "no shot"),
            ("1\n00:00:00,000 --> 00:00:04,000\n\n", 2, "empty"),
            ("1\n00:00:00,000 --> soon\na\n", 2, "time"),
            ("1\n00:00:05,000 --> 00:00:04,000\na\n", 2, "ends before"),
            ("1\n00:00:05,000 --> 00:00:05,000\na\n", 2, "no length"),
            ("WEBVTT\n\na", 1, "no shot"),
            ("a --> b", 1, "neither"),
            ("# film\n[[ shot ]\nprompt = \"a\"", 2, ""),
            ("prompt = \"a\"", 1, "shot"),
            (
                "WEBVTT\n\n00:01.000 --> 00:05.000\na\n\n00:04.000 --> 00:06.000\nb\n\n00:03.000 --> 00:06.000\nc",
                9,
                "no later",
            ),
            ("[[shot]]\nprompt = \"a\"\n\n[[shot]]\nprompt = \"b\"", 1, "duration"),
            ("[[shot]]\nprompt = \"a\"\nduration = -1", 3, "duration"),
            ("[[shot]]\nprompt = \"a\"\nduration = nan", 3, "duration"),
            ("[[shot]]\nprompt = \"a\"\nduration = 1e300", 3, "duration"),
            ("[[shot]]\nprompt = \"a\"\nlength = 4", 3, "length"),
            ("[[shot]]\nprompt = \"a\"\ntransition = \"fade\"", 3, "fade"),
            ("[[shot]]\nprompt = \" \"", 1, "empty"),
            ("[[shot]]\nprompt = \"a", 2, "string"),
            ("[[shot]]\nprompt = \"a\"\nduration = 1\n[[shot]]\nprompt = \"b\"\nimage = \"b.png\"", 4, "cut"),
        ] {
            let reason = reason(text);
            assert!(reason.contains(&format!("line {line}: ")), "{text:?}: {reason}");
            assert!(reason.contains(word), "{text:?}: {reason}");
        }
    }

    #[test]
    fn too_many_shots_and_too_long_texts_are_errors() {
        let many: Vec<_> = (0..=MAX_SHOTS).map(|i| format!("{}:{:02} a", i / 60, i % 60)).collect();
        assert!(reason(&many.join("|")).contains("more than"));
        assert_eq!(
            Storyboard::parse(&many[1..].join("|").replacen("0:01", "0:00", 1)).unwrap().shots.len(),
            MAX_SHOTS
        );
        assert!(reason(&"0".repeat(MAX_BYTES as usize + 1)).contains("longer"));
    }
}
