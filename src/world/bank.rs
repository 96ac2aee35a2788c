//! The drawings that a model has, and how prompts name them.

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::Tensor;
use image::RgbaImage;
use serde::Deserialize;

use super::phrase::Subject;
use super::words::Words;
use crate::checkpoint::Source;
use crate::{Error, Result, Setting, reference};

const INDEX: &str = "bank/index.json";
/// Pictures in lossless WebP, one after the other.
const DRAWINGS: &str = "bank/drawings.bin";
/// The mean of the text encoder's features of each name, of length 127, i8 `[drawings, dim]`.
const FEATURES: &str = "bank/features.bin";
/// Cosine of two names that mean the same: of 60 other nouns for drawings of the bank 50 are above, and of 60 nouns that the bank has no
/// drawing of, 50 are below.
const SIMILAR: f32 = 0.6;

/// The drawings of a model.
#[derive(Debug)]
pub struct Bank {
    source: Source,
    drawings: Vec<Drawing>,
    /// By names, which are stems of words.
    by_name: HashMap<String, usize>,
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
    /// Related words.
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
        let mut by_name = HashMap::new();
        // Names before other names, and both before keywords that only one drawing has.
        for (i, drawing) in drawings.iter().enumerate() {
            by_name.entry(key(&drawing.name)).or_insert(i);
        }
        for (i, drawing) in drawings.iter().enumerate() {
            for name in &drawing.names {
                by_name.entry(key(name)).or_insert(i);
            }
        }
        let mut owners: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, drawing) in drawings.iter().enumerate() {
            for word in &drawing.keywords {
                owners.entry(key(word)).or_default().push(i);
            }
        }
        for (word, owners) in owners {
            if let [only] = owners.as_slice() {
                by_name.entry(word).or_insert(*only);
            }
        }
        let most_words = by_name.keys().map(|name| name.split(' ').count()).max().unwrap_or(0);
        Ok(Self { source: source.clone(), drawings, by_name, most_words, features })
    }

    /// All drawings, sorted by name.
    pub fn drawings(&self) -> &[Drawing] {
        &self.drawings
    }

    /// The drawing with this name.
    pub fn get(&self, name: &str) -> Option<&Drawing> {
        self.by_name.get(&key(name)).map(|&i| &self.drawings[i])
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

    /// The drawing that a subject of a prompt names: the longest name in its words, the later of two.
    pub(super) fn named(&self, subject: &Subject) -> Option<&Drawing> {
        let stems: Vec<_> = subject.words.iter().map(|word| word.stem.as_str()).collect();
        (1..=self.most_words.min(stems.len())).rev().find_map(|length| {
            let names = stems.windows(length).rev();
            names.filter_map(|name| self.by_name.get(&name.join(" "))).next().map(|&i| &self.drawings[i])
        })
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
    Words::new(name).iter().map(|word| word.stem.as_str()).collect::<Vec<_>>().join(" ")
}
