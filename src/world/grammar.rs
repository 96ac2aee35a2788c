//! The words that build sentences.

/// Words before a noun.
pub const ARTICLES: &str =
    "a an the one two three four five several many some my your his her our their another";
/// Words before a place or an object.
pub const PREPOSITIONS: &str = "in on over under at through by into across among between past near behind before above below beneath down \
    up upon along around round against from to towards toward inside outside during onto off beyond underneath amid within without for like \
    out with wearing";
/// Words that end a phrase; a subject or a verb may follow.
pub const LINKS: &str = "that which who while as is are was were it they there then where when beside plus or but , & next \
    slowly quickly very happily and";
/// Those of [`LINKS`] that change nothing: what follows is still a subject, a place or an action.
pub const JOINTS: &str = "and slowly quickly very happily";
/// Verbs that the motions do not name.
pub const VERBS: &str = "sit play dance sleep eat wave look spin climb carry ride chase fall roar bark sing shine burn grow explode land \
    watch push pull throw catch kick drop crawl creep gallop trot sprint wander stroll march lie lean smile laugh cry dive leap skip circle \
    approach cook bake make hold wear fight read write draw paint build drink wash clean open close turn move come leave follow lead meet \
    greet hug kiss love see hear smell touch talk speak say shout howl growl meow purr chirp hunt dig hide seek search find bring take give \
    use work study teach stare gaze glow sparkle flicker melt freeze bloom blow shake swing sway rock slide skate ski surf sail row paddle \
    hike jog travel arrive return begin start stop try want need celebrate cheer fish shop drive chew bite lick scratch stretch yawn wake \
    blink wink shoot attack defend escape";
/// Words without meaning for the picture: `show me`, `a video of`.
pub const FILLERS: &str = "show me look imagine please make generate create draw video cartoon animation picture film movie clip drawing \
    image photo painting illustration scene shot short style art view wide once time background";
/// Words that `of` and the subjects follow.
pub const GROUPS: &str =
    "group pair couple flock herd pack bunch lot lots swarm school crowd family team dozen kind sort";

/// Whether `word` is one of these.
pub fn is_one_of(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}
