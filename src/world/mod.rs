//! The world that a model with references was trained on (`world.json`): where subjects stand in its places, and how they move.
//!
//! The engine decides where a subject is, from the verb of the prompt or from a path; the model draws what is there.

mod bank;
mod camera;
mod grammar;
mod lexicon;
mod path;
mod phrase;
mod plan;
mod reworded;
mod words;

use std::collections::BTreeMap;

use once_cell::sync::OnceCell;
use serde::Deserialize;

use crate::Result;
use crate::checkpoint::Source;
pub use bank::{Bank, Drawing};
use lexicon::Lexicon;
pub use path::MotionPath;
use phrase::Subject;
pub(crate) use plan::{FacingPicture, Place, Plan, PlanInputs};
use reworded::replaced;
use words::Words;

/// The file in the folder of a model.
pub const WORLD: &str = "world.json";

/// What a model knows of subjects, places and motions. Lengths are pixels; a subject is the square of its picture.
#[derive(Debug, Deserialize)]
pub struct World {
    /// Side of the picture of a subject.
    pub side: u32,
    /// References that the model takes.
    pub max_references: usize,
    /// Upper edge of a subject that floats, and of one at the top of the frame.
    pub afloat: i32,
    pub top: i32,
    /// Distance between the positions that the model was trained with.
    pub step: u32,
    /// How far a camera that pans moves in each latent frame.
    #[serde(default)]
    pub pan: i32,
    pub motions: BTreeMap<String, Motion>,
    pub places: BTreeMap<String, Location>,
    /// Phrases of times of day and weathers.
    settings: Vec<String>,
    /// Phrases of places that the model takes for another place, and what its text encoder reads in their place.
    #[serde(default)]
    reworded: BTreeMap<String, String>,
    #[serde(skip)]
    bank: OnceCell<Bank>,
    #[serde(skip)]
    lexicon: OnceCell<Lexicon>,
}

/// A motion, as movements in each latent frame; the lists repeat.
#[derive(Clone, Debug, Deserialize)]
pub struct Motion {
    /// By element, `*` for all others; `{dir}` stands for the direction.
    verbs: BTreeMap<String, Vec<String>>,
    /// More verbs, which the model was not trained with.
    #[serde(default)]
    also: BTreeMap<String, Vec<String>>,
    /// What decides whatever the verb is: `back and forth`.
    #[serde(default)]
    adverbs: Vec<String>,
    /// In the direction that the subject faces.
    dx: Vec<i32>,
    /// Downwards.
    dy: Vec<i32>,
    /// Latent frames after which the subject turns round; 0: never.
    turn: usize,
    /// Of the camera in each latent frame, in the direction that the subject faces, if it follows the subject, which then keeps its place.
    #[serde(default)]
    camera: i32,
}

/// A place of the world: where subjects stand in it.
#[derive(Debug, Deserialize)]
pub struct Location {
    phrases: Vec<String>,
    /// Upper edge of a subject that stands on the ground.
    ground: i32,
    /// Whether every subject floats; if it is not told, those of air, water and space do.
    floats: Option<bool>,
}

impl World {
    /// Reads `world.json`, if the model has one.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a damaged file.
    pub fn read(source: &Source) -> Result<Option<Self>> {
        if !source.exists(WORLD) {
            return Ok(None);
        }
        let world: Self = source.json(WORLD)?;
        match world.check() {
            Err(fault) => Err(source.invalid(WORLD, fault)),
            Ok(()) => Ok(Some(world)),
        }
    }

    /// Whether everything is within the limits.
    fn check(&self) -> Result<(), &'static str> {
        let near = |pixels: i32, most: i32| (-most..=most).contains(&pixels);
        let moves =
            |list: &[i32]| (1..=1024).contains(&list.len()) && list.iter().all(|step| near(*step, 1024));
        let is_short = |motion: &Motion| {
            moves(&motion.dx) && moves(&motion.dy) && motion.turn <= 1024 && near(motion.camera, 1024)
        };
        let rules = [
            ((8..=1024).contains(&self.side), "`side` is not from 8 to 1024"),
            ((1..=8).contains(&self.max_references), "`max_references` is not from 1 to 8"),
            ((1..=64).contains(&self.step), "`step` is not from 1 to 64"),
            (near(self.pan, 1024), "`pan` is too fast"),
            (self.motions.values().all(is_short), "a movement is empty or too long"),
            (self.motions.contains_key(Self::STILL), "there is no motion `stand`"),
            (self.places.values().all(|place| near(place.ground, 4096)), "a `ground` is too far away"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, fault)| Err(*fault))
    }

    /// The motion of a subject without a verb.
    const STILL: &str = "stand";

    /// The drawings of the model. Read on first use.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) and [`Error::Invalid`](crate::Error::Invalid) for missing and damaged files.
    pub fn bank(&self, source: &Source) -> Result<&Bank> {
        self.bank.get_or_try_init(|| Bank::read(source))
    }

    /// The words that the model knows, by kind.
    ///
    /// # Errors
    /// As [`bank`](Self::bank).
    pub fn vocabulary(&self, source: &Source) -> Result<BTreeMap<String, Vec<String>>> {
        let places = self.places.values().filter_map(|place| place.phrases.first().cloned()).collect();
        let mut found = BTreeMap::from([
            ("motions".to_owned(), self.motions.keys().cloned().collect()),
            ("places".to_owned(), places),
            ("settings".to_owned(), self.settings.clone()),
        ]);
        for drawing in self.bank(source)?.drawings() {
            found.entry(format!("drawings ({})", drawing.element)).or_default().push(drawing.name.clone());
        }
        Ok(found)
    }

    /// A prompt as the text encoder reads it.
    pub fn reworded(&self, prompt: &str) -> String {
        self.reworded.iter().fold(prompt.into(), |text, (phrase, other)| replaced(&text, phrase, other))
    }

    fn lexicon(&self) -> &Lexicon {
        self.lexicon.get_or_init(|| Lexicon::new(self))
    }

    /// The subjects of a prompt, without what its places, times and weathers name.
    fn subjects(&self, prompt: &Words, bank: &Bank) -> Vec<Subject> {
        let lexicon = self.lexicon();
        let mut subjects =
            phrase::subjects(prompt, |stem| lexicon.is_verb(stem), |words| bank.name_length(words));
        subjects.retain(|subject| {
            let is_named = bank.named(subject).is_some();
            // `the sun rises` and `a palm tree on the beach` are subjects, `stars in space` are none.
            let stands_out =
                || self.motion(&subject.rest, "").is_some() || subject.article && lexicon.has_place(subject);
            let is_style =
                subject.words.last().is_some_and(|word| grammar::is_one_of(grammar::FILLERS, &word.text));
            if lexicon.is_setting(subject) { is_named && stands_out() } else { is_named || !is_style }
        });
        subjects
    }

    /// The motion of a subject that does nothing.
    fn still(&self) -> &Motion {
        &self.motions[Self::STILL]
    }

    /// The motion that `words` name for a subject of this element.
    fn motion(&self, words: &Words, element: &str) -> Option<&Motion> {
        self.lexicon().motion(words, element).map(|name| &self.motions[name])
    }

    /// The motion of a subject of this element: that of `subjects[index]`, or for a reference that no subject stands for, the first
    /// of the prompt.
    fn motion_of(
        &self,
        subjects: &[Subject],
        index: Option<usize>,
        prompt: &Words,
        element: &str,
    ) -> Option<&Motion> {
        let motion = |words: &Words| self.motion(words, element);
        let Some(index) = index else { return motion(prompt) };
        let subject = &subjects[index];
        if let Some(own) = motion(&subject.rest) {
            return Some(own);
        }
        // `a running horse`
        let participles = subject.words.iter().filter(|word| word.text.ends_with("ing"));
        // `a dog and a cat jump`
        let shared = subjects.get(index + 1).filter(|_| subject.shares_its_verb());
        motion(&Words::of(participles.cloned().collect()))
            .or_else(|| motion(&shared?.rest))
            // `on the grass jumps a fox`; the verb of another subject is none of one that does something.
            .or_else(|| if subject.acts { None } else { motion(prompt) })
    }

    /// The place that `words` name.
    fn place(&self, words: &Words) -> Option<&Location> {
        self.lexicon().place(words).map(|name| &self.places[name])
    }

    /// Upper edge of a subject that stands in the place that `words` name.
    fn ground(&self, words: &Words) -> i32 {
        self.place(words).map_or_else(|| self.usual_ground(), |place| place.ground)
    }

    /// Whether a subject of this element floats there.
    fn floats(&self, words: &Words, element: &str) -> bool {
        let by_nature = matches!(element, "air" | "space" | "water");
        self.place(words).and_then(|place| place.floats).unwrap_or(by_nature)
    }

    /// The ground of most places.
    fn usual_ground(&self) -> i32 {
        let mut grounds: Vec<_> = self.places.values().map(|place| place.ground).collect();
        grounds.sort_unstable();
        grounds.get(grounds.len() / 2).copied().unwrap_or(self.afloat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Parts;

    fn open() -> (Source, World) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/references");
        let source = Source::parse(folder, &Parts::default()).unwrap();
        let world = World::read(&source).unwrap().unwrap();
        (source, world)
    }

    /// Drawings and motions that a prompt names, as `fox jump, owl -`.
    fn named(world: &World, bank: &Bank, prompt: &str) -> String {
        let (words, _) = camera::without_camera(&Words::new(prompt));
        let subjects = world.subjects(&words, bank);
        let named = subjects.iter().enumerate().filter_map(|(i, subject)| {
            let drawing = bank.named(subject)?;
            let motion = world.motion_of(&subjects, Some(i), &words, &drawing.element);
            let is_it = |other: &Motion| motion.is_some_and(|motion| std::ptr::eq(other, motion));
            let name = world.motions.iter().find(|(_, other)| is_it(other));
            Some(format!("{} {}", drawing.name, name.map_or("-", |(name, _)| name)))
        });
        named.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn prompts_name_drawings_and_motions() {
        let (source, world) = open();
        let bank = world.bank(&source).unwrap();
        for (prompt, expected) in [
            ("a red fox runs on the grass", "fox cross"),
            ("a running fox in a meadow", "fox cross"),
            ("a jumping dog", "dog jump"),
            ("a dog and a fox jump", "dog jump, fox jump"),
            ("a dog and a fox are jumping", "dog jump, fox jump"),
            ("a dog waits and a fox jumps", "dog stand, fox jump"),
            ("on the grass jumps a fox", "fox jump"),
            ("two wolves jump", "wolf jump"),
            ("a puppy jumps", "dog jump"),
            ("a big animal jumps", ""),
            ("an animal fox cub", "fox -"),
            ("once upon a time a fox waits", "fox stand"),
            ("a fox in flat cartoon style", "fox -"),
            ("my logo jumps", ""),
            ("a dog sits in front of a train", "dog -"),
            ("a fox, in the style of a children's book", "fox -"),
            ("a close-up of a fox", "fox -"),
            ("a group of foxes next to a dog", "fox -, dog -"),
            ("the king of the dog", ""),
            ("a fox of the wolf", "fox -"),
            ("a dog cooks pasta and jumps", "dog jump"),
            ("a small dog wearing a fox", "dog -"),
            ("a dog stares at a star", "dog -"),
            ("a fox with a dog", "fox -, dog -"),
            ("a fox with big dog ears", "fox -"),
            ("the sun rises", "sun cross"),
            ("the sun in space", "sun -"),
            ("the sun", ""),
            ("a fox waits before the setting sun", "fox stand"),
            ("the sun at night", ""),
            ("stars in space", ""),
            ("rain on the grass", ""),
            ("quarterly results in fog", ""),
            ("in space", ""),
            ("a train crosses a bridge", "steam-train cross"),
            ("a fox runs back and forth", "fox pace"),
            ("a fox runs slowly back and forth", "fox pace"),
            ("a fox waits, the camera pans to the right", "fox stand"),
            ("the camera moves to the left, a dog jumps", "dog jump"),
            ("a blue wave and an owl", "owl -"),
            ("an owl flies, a fox runs and a dog jumps", "owl cross, fox cross, dog jump"),
        ] {
            assert_eq!(named(&world, bank, prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn too_long_motions_are_refused() {
        let change = |change: &dyn Fn(&mut Motion)| {
            let (_, mut world) = open();
            change(world.motions.get_mut("jump").unwrap());
            world.check()
        };
        assert!(change(&|_| ()).is_ok());
        assert!(change(&|motion| motion.turn = 1025).is_err());
        assert!(change(&|motion| motion.dx = vec![0; 1025]).is_err());
        assert!(change(&|motion| motion.dy.clear()).is_err());
    }
}
