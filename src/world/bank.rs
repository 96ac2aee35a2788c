//! The drawings that a model has, and how prompts name them.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;

use candle_core::Tensor;
use image::RgbaImage;
use serde::Deserialize;

use super::phrase::Subject;
use super::words::{Word, Words};
use crate::checkpoint::Source;
use crate::{Error, Result, Setting, reference};

const INDEX: &str = "bank/index.json";
/// Pictures in lossless WebP, one after the other.
const DRAWINGS: &str = "bank/drawings.bin";
/// The mean of the text encoder's features of each name, of length 127, i8 `[drawings, dim]`.
const FEATURES: &str = "bank/features.bin";
/// Cosine of two names that mean the same: of 50 other nouns for drawings of the bank 41 are above, and of 61 nouns that the bank has no
/// drawing of, 52 are below.
const SIMILAR: f32 = 0.6;

/// The drawings of a model.
#[derive(Debug)]
pub struct Bank {
    source: Source,
    drawings: Vec<Drawing>,
    /// By names, in the singular and the plural.
    by_name: HashMap<String, usize>,
    /// By keywords that only one drawing has.
    by_keyword: HashMap<String, usize>,
    most_words: usize,
    features: Vec<i8>,
}

/// A drawing. It faces to the left.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Drawing {
    /// Name in the bank, as `steam-train`.
    pub name: String,
    /// What prompts call it.
    pub names: Vec<String>,
    /// Nouns that name it as well, but that the model was not trained with.
    pub keywords: Vec<String>,
    /// `land`, `road`, `air`, `water` or `space`.
    pub element: String,
    /// Offset and length in bytes.
    at: [usize; 2],
}

impl Bank {
    /// Reads the list of drawings; the drawings are decoded when they are used.
    pub(super) fn read(source: &Source) -> Result<Self> {
        let drawings: Vec<Drawing> = source.json(INDEX)?;
        let features = source.read(FEATURES)?.iter().map(|byte| byte.cast_signed()).collect::<Vec<_>>();
        if drawings.is_empty() || !features.len().is_multiple_of(drawings.len()) {
            return Err(source.invalid(FEATURES, "it does not belong to the list of drawings"));
        }
        let (mut by_name, mut by_keyword) = (HashMap::new(), HashMap::new());
        // Names of drawings before other names, and both before their other numbers.
        let names = || {
            let all = drawings.iter().enumerate();
            let others = all.clone().flat_map(|(i, drawing)| drawing.names.iter().map(move |name| (name, i)));
            all.map(|(i, drawing)| (&drawing.name, i)).chain(others).map(|(name, i)| (key(name), i))
        };
        for (name, i) in names() {
            by_name.entry(name).or_insert(i);
        }
        for (name, i) in names() {
            other_numbers(&name).into_iter().for_each(|name| _ = by_name.entry(name).or_insert(i));
        }
        // A word that several drawings have names none of them.
        let mut owners: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, drawing) in drawings.iter().enumerate() {
            for word in &drawing.keywords {
                owners.entry(key(word)).or_default().push(i);
            }
        }
        owners.retain(|_, owners| owners.len() == 1);
        for (word, owners) in &owners {
            by_keyword.insert(word.clone(), owners[0]);
        }
        for (word, owners) in &owners {
            other_numbers(word).into_iter().for_each(|word| _ = by_keyword.entry(word).or_insert(owners[0]));
        }
        let most_words =
            by_name.keys().chain(by_keyword.keys()).map(|name| name.split(' ').count()).max().unwrap_or(0);
        Ok(Self { source: source.clone(), drawings, by_name, by_keyword, most_words, features })
    }

    /// All drawings, sorted by name.
    pub fn drawings(&self) -> &[Drawing] {
        &self.drawings
    }

    /// The drawing with this name.
    pub fn get(&self, name: &str) -> Option<&Drawing> {
        let name = key(name);
        self.by_name.get(&name).or_else(|| self.by_keyword.get(&name)).map(|&i| &self.drawings[i])
    }

    /// As [`get`](Self::get).
    ///
    /// # Errors
    /// [`Error::Request`] if there is none.
    pub fn find(&self, name: &str) -> Result<&Drawing> {
        let missing =
            || format!("the model has no drawing `{name}`; `soragen models info builtin` lists its drawings");
        self.get(name).ok_or_else(|| Error::Request(Setting::Reference, missing()))
    }

    /// Its picture with alpha, premultiplied.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a damaged file.
    pub fn picture(&self, drawing: &Drawing) -> Result<RgbaImage> {
        let damaged = |reason: &dyn std::fmt::Display| self.source.invalid(DRAWINGS, reason);
        let bytes = self.source.read(DRAWINGS)?;
        let [offset, length] = drawing.at;
        let packed =
            bytes.get(offset..offset.saturating_add(length)).ok_or_else(|| damaged(&"it is too short"))?;
        let decoded = image::ImageReader::with_format(Cursor::new(packed), image::ImageFormat::WebP).decode();
        Ok(reference::premultiplied(decoded.map_err(|e| damaged(&e))?.into_rgba8()))
    }

    /// How many of these words are the longest name that they begin with; 0 if they begin with none.
    pub(super) fn name_length(&self, words: &[Word]) -> usize {
        let is_name = |length: &usize| {
            let name = Words::text(&words[..*length]);
            self.by_name.contains_key(&name) || self.by_keyword.contains_key(&name)
        };
        (1..=self.most_words.min(words.len())).rev().find(is_name).unwrap_or(0)
    }

    /// The drawing that a subject of a prompt names: the longest name in its words, the later of two. Words after `of` come last:
    /// `a bouquet of roses`, but `a slice of pizza`. Without a name, all of its words or the last may be a keyword.
    pub(super) fn named(&self, subject: &Subject) -> Option<&Drawing> {
        let words = subject.words.as_slice();
        let of = words.iter().position(|word| word.text == "of").unwrap_or(words.len());
        let (head, object) = words.split_at(of);
        let name = |words: &[Word]| self.by_name.get(&Words::text(words));
        let keyword = |words: &[Word]| self.by_keyword.get(&Words::text(words));
        let longest = |words: &[Word], least: usize| {
            let mut lengths = (least..=self.most_words.min(words.len())).rev();
            lengths.find_map(|length| words.windows(length).rev().find_map(name))
        };
        // First those of several words, which may have an `of`: `glass of milk`.
        let found = longest(words, 2)
            .or_else(|| longest(head, 1))
            .or_else(|| longest(object, 1))
            .or_else(|| keyword(words))
            .or_else(|| keyword(&head[head.len().saturating_sub(1)..]));
        found.map(|&i| &self.drawings[i])
    }

    /// The drawing whose name is nearest to a text with these features, f32 `[1, tokens, dim]`, zero after the last token; `None` if
    /// nothing is near.
    pub(crate) fn similar(&self, features: &Tensor) -> Result<Option<&Drawing>> {
        let sum: Vec<f32> = features.sum(1)?.flatten_all()?.to_vec1()?;
        let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length == 0.0 || sum.len() * self.drawings.len() != self.features.len() {
            return Ok(None);
        }
        let cosine = |name: &[i8]| {
            let product: f32 = name.iter().zip(&sum).map(|(a, b)| f32::from(*a) * b).sum();
            product / (127.0 * length)
        };
        let all = self.features.chunks_exact(sum.len()).map(cosine).zip(&self.drawings);
        let nearest = all.max_by(|(a, _), (b, _)| a.total_cmp(b));
        Ok(nearest.filter(|(cosine, _)| *cosine >= SIMILAR).map(|(_, drawing)| drawing))
    }
}

/// A name as it is compared.
fn key(name: &str) -> String {
    Words::text(Words::new(name).as_slice())
}

/// The plural of a name, and its singular if it may be a plural.
fn other_numbers(name: &str) -> Vec<String> {
    const IRREGULAR: &[(&str, &str)] = &[
        ("child", "children"),
        ("man", "men"),
        ("woman", "women"),
        ("snowman", "snowmen"),
        ("person", "people"),
        ("mouse", "mice"),
        ("goose", "geese"),
        ("foot", "feet"),
        ("tooth", "teeth"),
        ("ox", "oxen"),
        ("wolf", "wolves"),
        ("elf", "elves"),
        ("leaf", "leaves"),
        ("scarf", "scarves"),
        ("knife", "knives"),
    ];
    let (others, last) = name.rsplit_once(' ').map_or(("", name), |(others, last)| (others, last));
    let consonant = |base: &str| !base.ends_with(['a', 'e', 'i', 'o', 'u']);
    let ends = |ends: &[&str]| ends.iter().any(|end| last.ends_with(end));
    let mut made = match IRREGULAR.iter().find(|(one, _)| *one == last) {
        Some((_, many)) => vec![(*many).to_string()],
        None => match last.strip_suffix('y').filter(|base| consonant(base)) {
            Some(base) => vec![format!("{base}ies")],
            None if ends(&["s", "x", "z", "ch", "sh"]) => vec![format!("{last}es")],
            None if ends(&["o"]) => vec![format!("{last}es"), format!("{last}s")],
            None => vec![format!("{last}s")],
        },
    };
    if let Some(base) = last.strip_suffix('s').filter(|_| !ends(&["ss", "us", "is"])) {
        made.push(base.strip_suffix("ie").map_or_else(|| base.to_string(), |base| format!("{base}y")));
    }
    made.into_iter().map(|last| format!("{others} {last}").trim_start().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Parts;

    #[test]
    fn plurals_name_the_same_drawings() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/references");
        let bank = Bank::read(&Source::parse(folder, &Parts::default()).unwrap()).unwrap();
        for drawing in bank.drawings() {
            for name in drawing.names.iter().flat_map(|name| other_numbers(&key(name))) {
                assert_eq!(bank.get(&name), Some(drawing), "{name}");
            }
        }
        assert_eq!(bank.get("Steam-Trains").unwrap().name, "steam-train");
    }

    #[test]
    fn plurals_are_those_of_english() {
        for (one, many) in [
            ("fox", "foxes"),
            ("wolf", "wolves"),
            ("grey mouse", "grey mice"),
            ("cookie", "cookies"),
            ("butterfly", "butterflies"),
            ("monkey", "monkeys"),
            ("axe", "axes"),
            ("watch", "watches"),
            ("tomato", "tomatoes"),
        ] {
            assert_eq!(other_numbers(one)[0], many);
        }
        assert_eq!(other_numbers("cherries")[1], "cherry");
        assert_eq!(other_numbers("glass").len(), 1);
    }
}
