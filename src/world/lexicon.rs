//! The words of a world: what its motions, places and settings are called.

use std::collections::HashSet;

use super::World;
use super::grammar::{ARTICLES, PREPOSITIONS, VERBS, is_one_of};
use super::phrase::Subject;
use super::words::{Word, Words};

/// The phrases of a [`World`] as words. Made once.
#[derive(Debug)]
pub struct Lexicon {
    motions: Vec<Name>,
    places: Vec<(Words, String)>,
    /// Stems of verbs, also of those that no motion has.
    verbs: HashSet<String>,
    /// Stems of the phrases of places, without articles and prepositions.
    scenery: HashSet<String>,
    /// Stems of the phrases of places, times of day and weathers.
    settings: HashSet<String>,
}

/// A name of a motion.
#[derive(Debug)]
struct Name {
    words: Words,
    /// Element of the subjects that it is for; `*` for all others.
    element: String,
    motion: String,
    /// Whether it decides whatever the verb is.
    adverb: bool,
}

impl Lexicon {
    /// The words of a world.
    pub fn new(world: &World) -> Self {
        let mut motions = Vec::new();
        for (motion, path) in &world.motions {
            let verbs = path.verbs.iter().chain(&path.also);
            let verbs = verbs
                .flat_map(|(element, verbs)| verbs.iter().map(move |verb| (element.as_str(), verb, false)));
            let adverbs = path.adverbs.iter().map(|adverb| ("*", adverb, true));
            motions.extend(verbs.chain(adverbs).map(|(element, verb, adverb)| Name {
                words: Words::new(&verb.replace("{dir}", "")),
                element: element.to_string(),
                motion: motion.clone(),
                adverb,
            }));
        }
        let stem = |words: &Words| words.iter().find(|word| word.text != "is").map(|word| word.stem.clone());
        let verbs = motions.iter().filter(|name| !name.adverb).filter_map(|name| stem(&name.words));
        let verbs = verbs.chain(VERBS.split_whitespace().map(|verb| Word::new(verb).stem)).collect();
        let places = world.places.iter().flat_map(|(name, place)| {
            place.phrases.iter().map(move |phrase| (Words::new(phrase), name.clone()))
        });
        let places: Vec<_> = places.collect();
        let stems = |words: &Words| words.iter().map(|word| word.stem.clone()).collect::<Vec<_>>();
        let content = |word: &&Word| !is_one_of(ARTICLES, &word.text) && !is_one_of(PREPOSITIONS, &word.text);
        let scenery =
            places.iter().flat_map(|(words, _)| words.iter().filter(content)).map(|word| word.stem.clone());
        let scenery = scenery.collect();
        let settings = places.iter().flat_map(|(words, _)| stems(words));
        let settings =
            settings.chain(world.settings.iter().flat_map(|phrase| stems(&Words::new(phrase)))).collect();
        Self { motions, verbs, scenery, settings, places }
    }

    /// Whether a word with this stem is a verb.
    pub fn is_verb(&self, stem: &str) -> bool {
        self.verbs.contains(stem)
    }

    /// The motion that `words` name first, the one with more words if two begin together.
    pub fn motion(&self, words: &Words, element: &str) -> Option<&str> {
        let found = self.motions.iter().filter_map(|name| {
            let at = words.find(&name.words)?;
            // Other elements have the same verbs for other motions, so they come last.
            let foreign = match name.element.as_str() {
                own if own == element => 0,
                "*" => 1,
                _ => 2,
            };
            Some(((!name.adverb, at, usize::MAX - name.words.len(), foreign), name))
        });
        found.min_by_key(|(order, _)| *order).map(|(_, name)| name.motion.as_str())
    }

    /// The place that `words` name with the longest phrase.
    pub fn place(&self, words: &Words) -> Option<&str> {
        let found = self.places.iter().filter(|(phrase, _)| words.find(phrase).is_some());
        found.max_by_key(|(phrase, _)| phrase.len()).map(|(_, place)| place.as_str())
    }

    /// Whether all words of a subject are from phrases of places, times and weathers: `rain`, `starry night`.
    pub fn is_setting(&self, subject: &Subject) -> bool {
        subject.words.iter().all(|word| self.settings.contains(&word.stem))
    }

    /// Whether a subject is in a place: `a palm tree on the beach`, but not `the desert at night`.
    pub fn has_place(&self, subject: &Subject) -> bool {
        let rest = subject.rest.as_slice();
        rest.first().is_some_and(|word| is_one_of(PREPOSITIONS, &word.text))
            && rest.iter().any(|word| self.scenery.contains(&word.stem))
    }
}
