//! The world that a model with references was trained on (`world.json`): where subjects stand in its places, and how they move.
//!
//! The engine decides where a subject is, from the verb of the prompt or from a path; the model draws what is there.

mod bank;
mod path;
mod phrase;
mod plan;
mod words;

use std::collections::{BTreeMap, HashSet};

use once_cell::sync::OnceCell;
use serde::Deserialize;

use crate::Result;
use crate::checkpoint::Source;
pub use bank::{Bank, Drawing};
pub use path::MotionPath;
pub(crate) use plan::{Plan, Pose, Spot, Stage};
use words::{Word, Words};

/// The file in the folder of a model.
pub const WORLD: &str = "world.json";

/// What a model knows of subjects, places and motions. Lengths are pixels; a subject is the square of its picture.
#[derive(Debug, Deserialize)]
pub struct World {
    /// Side of the picture of a subject.
    pub side: u32,
    /// References that the model takes.
    pub max_references: usize,
    /// Distance between the positions that the model was trained with.
    pub step: u32,
    pub motions: BTreeMap<String, Motion>,
    pub places: BTreeMap<String, Place>,
    /// Phrases of times of day and weathers.
    settings: Vec<String>,
    #[serde(skip)]
    bank: OnceCell<Bank>,
}

/// A motion, as movements in each latent frame; the lists repeat.
#[derive(Clone, Debug, Deserialize)]
pub struct Motion {
    /// By element, `*` for all others; `{dir}` stands for the direction.
    verbs: BTreeMap<String, Vec<String>>,
    /// In the direction that the subject faces.
    dx: Vec<i32>,
    /// Downwards.
    dy: Vec<i32>,
    /// Latent frames after which the subject turns round; 0: never.
    turn: usize,
}

/// A place.
#[derive(Debug, Deserialize)]
pub struct Place {
    phrases: Vec<String>,
    /// Upper edge of a subject that stands on the ground.
    ground: i32,
    /// Whether every subject floats.
    floats: bool,
}

/// Upper edge of a subject that floats.
const AFLOAT: i32 = 32;

impl World {
    /// Reads `world.json`, if the model has one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a damaged file.
    pub fn read(source: &Source) -> Result<Option<Self>> {
        if !source.exists(WORLD) {
            return Ok(None);
        }
        let world: Self = source.json(WORLD)?;
        match world.fault() {
            Some(fault) => Err(source.invalid(WORLD, fault)),
            None => Ok(Some(world)),
        }
    }

    fn fault(&self) -> Option<&'static str> {
        let moves = |list: &[i32]| !list.is_empty() && list.iter().all(|step| step.abs() <= 1024);
        let motions = self.motions.values().all(|motion| moves(&motion.dx) && moves(&motion.dy));
        let rules = [
            ((8..=1024).contains(&self.side), "`side` is not from 8 to 1024"),
            ((1..=8).contains(&self.max_references), "`max_references` is not from 1 to 8"),
            ((1..=64).contains(&self.step), "`step` is not from 1 to 64"),
            (motions, "a movement is empty or too long"),
            (self.motions.contains_key(Self::STILL), "there is no motion `stand`"),
            (self.places.values().all(|place| place.ground.abs() <= 4096), "a `ground` is too far away"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, fault)| *fault)
    }

    /// The motion of a subject without a verb.
    const STILL: &str = "stand";

    /// The drawings of the model. Read on first use.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Invalid`] for missing and damaged files.
    pub fn bank(&self, source: &Source) -> Result<&Bank> {
        self.bank.get_or_try_init(|| Bank::read(source))
    }

    /// The stems of all verbs; of several words the first that is not `is`.
    fn verb_stems(&self) -> impl Iterator<Item = String> {
        let verbs = self.motions.values().flat_map(|motion| motion.verbs.values()).flatten();
        verbs.filter_map(|verb| {
            let words = Words::new(verb);
            words.iter().find(|word| word.text != "is").map(|word| word.stem.clone())
        })
    }

    /// Whether these words are all from phrases of places, times and weathers: `rain`, `starry night`.
    fn is_setting(&self, words: &[Word]) -> bool {
        let phrases = self.places.values().flat_map(|place| &place.phrases).chain(&self.settings);
        let known: HashSet<String> = phrases
            .flat_map(|phrase| Words::new(phrase).iter().map(|word| word.stem.clone()).collect::<Vec<_>>())
            .collect();
        words.iter().all(|word| known.contains(&word.stem))
    }

    /// The motion that `words` name first, the one with more words if two begin together.
    fn motion(&self, words: &Words, element: &str) -> &Motion {
        let verbs = self.motions.values().flat_map(|motion| {
            let own = motion.verbs.get(element).into_iter();
            // Other elements have the same verbs for other motions, so they come after the own ones.
            let others =
                motion.verbs.iter().filter(move |(kind, _)| *kind != element).map(|(_, verbs)| verbs);
            let own = own.flatten().map(|verb| (true, verb));
            own.chain(others.flatten().map(|verb| (false, verb))).map(move |(own, verb)| (own, verb, motion))
        });
        let found = verbs.filter_map(|(own, verb, motion)| {
            let verb = Words::new(&verb.replace("{dir}", ""));
            words.find(&verb).map(|at| ((at, usize::MAX - verb.len(), !own), motion))
        });
        let still = &self.motions[Self::STILL];
        found.min_by_key(|(order, _)| *order).map_or(still, |(_, motion)| motion)
    }

    /// The place that `words` name with the longest phrase.
    fn place(&self, words: &Words) -> Option<&Place> {
        let phrases =
            self.places.values().flat_map(|place| place.phrases.iter().map(move |phrase| (phrase, place)));
        let found = phrases.filter_map(|(phrase, place)| {
            let phrase = Words::new(phrase);
            words.find(&phrase).map(|_| (phrase.len(), place))
        });
        found.max_by_key(|(length, _)| *length).map(|(_, place)| place)
    }

    /// Upper edge of a subject that stands in the place that `words` name.
    fn ground(&self, words: &Words) -> i32 {
        self.place(words).map_or_else(|| self.usual_ground(), |place| place.ground)
    }

    /// Whether a subject of this element floats there.
    fn floats(&self, words: &Words, element: &str) -> bool {
        self.place(words).is_some_and(|place| place.floats) || matches!(element, "air" | "space" | "water")
    }

    /// The ground of most places.
    fn usual_ground(&self) -> i32 {
        let mut grounds: Vec<_> = self.places.values().map(|place| place.ground).collect();
        grounds.sort_unstable();
        grounds.get(grounds.len() / 2).copied().unwrap_or(AFLOAT)
    }
}
