//! The plan of a shot: its subjects, their pictures, and where they are in each latent frame.

use std::time::Duration;

use image::RgbaImage;

use super::path::{MotionPath, Point};
use super::phrase::{Subject, subjects};
use super::words::Words;
use super::{AFLOAT, Bank, Drawing, Motion, World};
use crate::reference::{Reference, ReferencePicture};
use crate::{Error, Result, Setting};

/// Upper edge of a subject at the top of the frame.
const UP: i32 = 8;

/// The subjects of a shot.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    figures: Vec<Figure>,
    /// Latent frame at which the shot began.
    begin: usize,
    path: Option<MotionPath>,
    /// Latent frame at which the path began.
    path_begin: usize,
    space: Space,
}

/// The space that subjects move in, in pixels.
#[derive(Clone, Copy, Debug, Default)]
struct Space {
    /// Width of the frame without that of a subject.
    width: i32,
    /// Upper edge of what stands on the ground.
    ground: i32,
    /// Positions are multiples of this.
    step: i32,
    /// Duration of a latent frame in seconds.
    latent: f64,
    /// Side of a subject.
    side: i32,
}

/// A subject.
#[derive(Clone, Debug)]
struct Figure {
    picture: Picture,
    motion: Motion,
    /// −1 to the left, 1 to the right.
    facing: i32,
    /// Place at the first latent frame.
    x: i32,
    y: i32,
    /// Whether there is a second picture that looks the other way.
    turns: bool,
}

/// A picture of a subject.
#[derive(Clone, Debug)]
enum Picture {
    /// It faces to the left, and may be mirrored.
    Drawing(Drawing),
    /// Never mirrored: it may have letters.
    Own(ReferencePicture),
}

/// The picture of a subject, as the model gets it.
#[derive(Clone, Debug)]
pub struct Pose {
    picture: Picture,
    mirrored: bool,
}

/// Where a picture is in a latent frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Of its left edge.
    pub x: i32,
    /// Of its upper edge.
    pub y: i32,
}

/// What a plan is made of.
pub struct Stage<'a> {
    pub world: &'a World,
    pub bank: &'a Bank,
    /// Width of the frame in pixels.
    pub width: u32,
    /// Duration of a latent frame.
    pub latent: Duration,
}

impl Stage<'_> {
    /// The plan for a shot that begins at the latent frame `begin` of the scene, after a shot with the plan `before`. Its path began
    /// at `path_begin`. Without `references` the
    /// subjects are the drawings that the prompt names; `similar` finds the drawing for a phrase that is no name of one.
    ///
    /// # Errors
    /// [`Error::Request`] for too many references, and for a name that the bank does not have.
    pub fn plan<'b>(
        &'b self,
        prompt: &str,
        references: &[Reference],
        path: Option<&MotionPath>,
        (begin, path_begin): (usize, usize),
        before: &Plan,
        similar: impl FnOnce(&str) -> Result<Option<&'b Drawing>>,
    ) -> Result<Plan> {
        let world = self.world;
        let words = Words::new(prompt);
        let verbs: Vec<_> = world.verb_stems().collect();
        let mut named = subjects(&words, |stem| verbs.iter().any(|verb| verb == stem));
        named.retain(|subject| !world.is_setting(&subject.words));
        let pictures = match references {
            [] => self.drawings(&named, similar)?,
            some => some.iter().map(|reference| self.picture(reference)).collect::<Result<_>>()?,
        };
        if pictures.len() > world.max_references {
            return Err(Error::Request(
                Setting::Reference,
                format!("{} references are too many; use at most {}", pictures.len(), world.max_references),
            ));
        }
        let space = Space {
            width: self.width as i32 - world.side as i32,
            ground: world.ground(&words),
            step: world.step as i32,
            latent: self.latent.as_secs_f64(),
            side: world.side as i32,
        };
        let alone = pictures.len() == 1;
        let paths = path.map_or(0, MotionPath::subjects);
        let figures = pictures.into_iter().enumerate().map(|(i, picture)| {
            let element = picture.element();
            // References of a user have the verbs of the subjects in the same order.
            let rest = named.get(i).map_or(&words, |subject| &subject.rest);
            let motion = world.motion(rest, element);
            let facing = match path.filter(|_| i < paths) {
                Some(path) => path.facing(i),
                None => direction(rest).or_else(|| direction(&words)),
            };
            let facing = facing.unwrap_or(-1);
            let turns = alone && world.max_references > 1 && picture.may_be_mirrored();
            let turns = turns && (motion.turn > 0 || path.is_some_and(|path| path.turns(i)));
            let continued = before.figures.get(i).filter(|figure| begin > 0 && figure.picture.is(&picture));
            let (x, y) = match continued {
                Some(_) => {
                    let spot = before.place(i, begin).0;
                    (spot.x, spot.y)
                }
                None => (
                    motion.first_x(facing, space.width, (i, alone)),
                    if world.floats(&words, element) { AFLOAT } else { space.ground },
                ),
            };
            Figure { picture, motion: motion.clone(), facing, x, y, turns }
        });
        Ok(Plan { figures: figures.collect(), begin, path: path.cloned(), path_begin, space })
    }

    fn picture(&self, reference: &Reference) -> Result<Picture> {
        match reference {
            Reference::Picture(picture) => Ok(Picture::Own(picture.clone())),
            Reference::Bank(name) => Ok(Picture::Drawing(self.bank.find(name)?.clone())),
        }
    }

    /// The drawings that the subjects name. Only the first subject may be one that is similar to a drawing.
    fn drawings<'b>(
        &'b self,
        subjects: &[Subject],
        similar: impl FnOnce(&str) -> Result<Option<&'b Drawing>>,
    ) -> Result<Vec<Picture>> {
        let mut found: Vec<&Drawing> = Vec::new();
        let names = subjects.iter().filter_map(|subject| self.bank.named(subject));
        for drawing in names.take(self.world.max_references) {
            if !found.contains(&drawing) {
                found.push(drawing);
            }
        }
        if let (true, Some(first)) = (found.is_empty(), subjects.first()) {
            let phrase: Vec<_> = first.words.iter().map(|word| word.text.as_str()).collect();
            found.extend(similar(&phrase.join(" "))?);
        }
        Ok(found.into_iter().cloned().map(Picture::Drawing).collect())
    }
}

impl Plan {
    /// The pictures that the model gets, in order.
    pub fn poses(&self) -> Vec<Pose> {
        let pose = |figure: &Figure, facing: i32| Pose {
            picture: figure.picture.clone(),
            mirrored: facing > 0 && figure.picture.may_be_mirrored(),
        };
        let poses = self.figures.iter().flat_map(|figure| {
            let other = figure.turns.then(|| pose(figure, -figure.facing));
            std::iter::once(pose(figure, figure.facing)).chain(other)
        });
        poses.collect()
    }

    /// Identifies the plan in cache keys.
    pub fn key(&self) -> String {
        let Self { begin, path_begin, space, .. } = self;
        let mut key = format!("{begin} {path_begin} {space:?}");
        for Figure { picture, motion, facing, x, y, turns } in &self.figures {
            let Motion { dx, dy, turn, .. } = motion;
            key +=
                &format!(" | {} {facing} {x} {y} {turns} {dx:?} {dy:?} {turn}", picture.reference().digest());
        }
        self.path.iter().for_each(|path| key += &format!(" | {path}"));
        key
    }

    /// The references, in order.
    pub fn references(&self) -> Vec<Reference> {
        self.figures.iter().map(|figure| figure.picture.reference()).collect()
    }

    /// Where each of the [`poses`](Self::poses) is at a latent frame; `None` if the frame does not show it.
    pub fn spots(&self, latent: usize) -> Vec<Option<Spot>> {
        let of = |i: usize| {
            let figure = &self.figures[i];
            let (spot, facing) = self.place(i, latent);
            let seen = -self.space.side < spot.x && spot.x < self.space.width + self.space.side;
            let spot = seen.then_some(spot);
            match figure.turns {
                false => vec![spot],
                true if facing == figure.facing => vec![spot, None],
                true => vec![None, spot],
            }
        };
        (0..self.figures.len()).flat_map(of).collect()
    }

    /// The place and the direction of a subject at a latent frame.
    fn place(&self, i: usize, latent: usize) -> (Spot, i32) {
        let figure = &self.figures[i];
        let (moved, frame) = (latent.saturating_sub(self.begin), latent.saturating_sub(self.path_begin));
        let time = |frame: usize| {
            Duration::try_from_secs_f64(frame as f64 * self.space.latent).unwrap_or(Duration::MAX)
        };
        let at = |frame| self.path.as_ref().and_then(|path| path.at(i, time(frame)));
        match at(frame) {
            Some(point) => {
                let facing = (0..frame)
                    .rev()
                    .take(64)
                    .find_map(|before| at(before).and_then(|from| towards(from, at(before + 1)?)));
                let facing = facing.or_else(|| towards(point, at(frame + 1)?)).unwrap_or(figure.facing);
                (self.space.spot(point), facing)
            }
            None => {
                let (dx, dy, facing) = figure.motion.moved(moved, figure.facing);
                (Spot { x: figure.x + dx, y: figure.y + dy }, facing)
            }
        }
    }
}

/// The horizontal direction from one place to another.
fn towards(from: Point, to: Point) -> Option<i32> {
    let by = to.x - from.x;
    (by.abs() > 1e-6).then_some(if by > 0.0 { 1 } else { -1 })
}

impl Space {
    fn spot(&self, point: Point) -> Spot {
        let rounded = |pixels: f64| (pixels / f64::from(self.step)).round() as i32 * self.step;
        Spot {
            x: rounded(point.x * f64::from(self.width)),
            y: rounded(f64::from(self.ground) + point.height * f64::from(UP - self.ground)),
        }
    }
}

impl Picture {
    fn element(&self) -> &str {
        match self {
            Self::Drawing(drawing) => &drawing.element,
            Self::Own(_) => "land",
        }
    }

    fn may_be_mirrored(&self) -> bool {
        matches!(self, Self::Drawing(_))
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Drawing(a), Self::Drawing(b)) => a == b,
            (Self::Own(a), Self::Own(b)) => a == b,
            _ => false,
        }
    }

    fn reference(&self) -> Reference {
        match self {
            Self::Drawing(drawing) => Reference::Bank(drawing.name.clone()),
            Self::Own(picture) => Reference::Picture(picture.clone()),
        }
    }
}

impl Pose {
    /// The picture in a square of `side` pixels: `[side, side, 4]` in \[0, 1\], premultiplied.
    ///
    /// # Errors
    /// Those of [`Bank::picture`].
    pub fn in_square(&self, bank: &Bank, side: u32) -> Result<Vec<f32>> {
        let square = match &self.picture {
            Picture::Own(picture) => picture.in_square(side),
            Picture::Drawing(drawing) => as_square(&bank.picture(drawing)?, side),
        };
        let row = 4 * side as usize;
        let mirror = |row: &[f32]| row.chunks_exact(4).rev().flatten().copied().collect::<Vec<_>>();
        Ok(if self.mirrored { square.chunks_exact(row).flat_map(mirror).collect() } else { square })
    }
}

/// A drawing of the bank, which has its margins.
fn as_square(picture: &RgbaImage, side: u32) -> Vec<f32> {
    let scaled;
    let picture = if picture.dimensions() == (side, side) {
        picture
    } else {
        scaled = image::imageops::resize(picture, side, side, image::imageops::FilterType::Triangle);
        &scaled
    };
    picture.as_raw().iter().map(|value| f32::from(*value) / 255.0).collect()
}

impl Motion {
    /// How far a subject has moved after `frames` latent frames, and where it looks.
    fn moved(&self, frames: usize, facing: i32) -> (i32, i32, i32) {
        let now = |i: usize| match self.turn {
            0 => facing,
            turn => {
                if (i / turn).is_multiple_of(2) {
                    facing
                } else {
                    -facing
                }
            }
        };
        let sum = |list: &[i32], weight: &dyn Fn(usize) -> i32, period: usize| -> i32 {
            // Whole periods first: a video may be endless.
            let of = |frames: usize| {
                (0..frames)
                    .map(|i| list[i % list.len()].saturating_mul(weight(i)))
                    .fold(0i32, i32::saturating_add)
            };
            let periods = i32::try_from(frames / period).unwrap_or(i32::MAX);
            of(period).saturating_mul(periods).saturating_add(of(frames % period))
        };
        let turns = if self.turn == 0 { 1 } else { 2 * self.turn };
        let dx = sum(&self.dx, &now, self.dx.len() * turns);
        (dx, sum(&self.dy, &|_| 1, self.dy.len()), now(frames))
    }

    /// Where a subject begins; `slot` is its number and whether it is alone.
    fn first_x(&self, facing: i32, width: i32, (i, alone): (usize, bool)) -> i32 {
        let step = self.dx[0];
        match (alone, self.turn) {
            (false, _) => {
                if i == 0 {
                    width / 12
                } else {
                    width - width / 12
                }
            }
            // It comes into the picture and leaves it.
            (true, 0) if step != 0 => {
                if facing > 0 {
                    -32
                } else {
                    width + 32
                }
            }
            (true, 0) => width / 2,
            // In the middle of the way that it goes.
            (true, turn) => width / 2 - facing * step * turn as i32 / 2,
        }
    }
}

/// The direction that a text names: −1 to the left, 1 to the right.
fn direction(words: &Words) -> Option<i32> {
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| words.has(phrase));
    match (
        says(&["to the right", "rightwards", "rightward", "from the left", "from left"]),
        says(&["to the left", "leftwards", "leftward", "from the right", "from right"]),
    ) {
        (true, false) => Some(1),
        (false, true) => Some(-1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;
    use crate::checkpoint::{Parts, Source};

    struct Fixture {
        source: Source,
        world: World,
    }

    impl Fixture {
        fn open() -> Self {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/references");
            let source = Source::parse(folder, &Parts::default()).unwrap();
            Self { world: World::read(&source).unwrap().unwrap(), source }
        }

        fn stage(&self) -> Stage<'_> {
            let bank = self.world.bank(&self.source).unwrap();
            Stage { world: &self.world, bank, width: 96, latent: Duration::from_millis(250) }
        }

        fn plan(&self, prompt: &str, references: &[Reference], path: Option<&str>) -> Result<Plan> {
            let path = path.map(|path| MotionPath::parse(path).unwrap());
            self.stage().plan(prompt, references, path.as_ref(), (0, 0), &Plan::default(), |_| Ok(None))
        }

        fn named(&self, prompt: &str) -> Plan {
            self.plan(prompt, &[], None).unwrap()
        }
    }

    fn own() -> Reference {
        let picture = RgbaImage::from_fn(8, 8, |x, _| Rgba([255, 0, 0, if x < 6 { 255 } else { 0 }]));
        Reference::Picture(ReferencePicture::new("logo.png", picture).unwrap())
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.references().iter().map(Reference::name).collect()
    }

    /// Left edges of the first picture.
    fn x(plan: &Plan, latents: std::ops::Range<usize>) -> Vec<Option<i32>> {
        latents.map(|latent| plan.spots(latent)[0].map(|spot| spot.x)).collect()
    }

    #[test]
    fn a_prompt_gets_the_drawings_that_it_names() {
        let fixture = Fixture::open();
        for (prompt, expected) in [
            ("a red fox runs on the grass", &["bank:fox"][..]),
            ("two foxes at night", &["bank:fox"]),
            ("on the grass a fox jumps and a train waits", &["bank:fox", "bank:steam-train"]),
            ("the railway in the rain", &["bank:steam-train"]),
            ("a fox, an owl and a train", &["bank:fox", "bank:owl"]),
            ("stars in space", &[]),
            ("rain on the grass", &[]),
            ("quarterly results in fog", &[]),
            ("a picture of an owl", &["bank:owl"]),
            ("in space", &[]),
        ] {
            assert_eq!(names(&fixture.named(prompt)), expected, "{prompt}");
        }
    }

    #[test]
    fn only_a_subject_without_a_name_is_compared() {
        let fixture = Fixture::open();
        let stage = fixture.stage();
        let plan = |prompt: &str| {
            let similar = |phrase: &str| Ok(stage.bank.get("owl").filter(|_| phrase == "big bird"));
            names(&stage.plan(prompt, &[], None, (0, 0), &Plan::default(), similar).unwrap())
        };
        assert_eq!(plan("a big bird flies in space"), ["bank:owl"]);
        assert_eq!(plan("a fox and a big bird"), ["bank:fox"]);
    }

    #[test]
    fn verbs_become_motions() {
        let fixture = Fixture::open();
        // It comes into the picture, 8 pixels in each latent frame.
        let runs = fixture.named("a fox runs to the right");
        assert_eq!(x(&runs, 0..4), [None, Some(-24), Some(-16), Some(-8)]);
        let heights = |plan: &Plan| (0..3).map(|latent| plan.spots(latent)[0].unwrap().y).collect::<Vec<_>>();
        let jumps = fixture.named("a fox jumps");
        assert_eq!(heights(&jumps), [0, -8, 0]);
        assert_eq!(x(&jumps, 0..2), [Some(32); 2], "in the middle");
        // An owl flies, and a fox does not.
        assert_eq!(x(&fixture.named("an owl flies to the left"), 0..2), [None, Some(88)]);
        assert_eq!(heights(&fixture.named("an owl waits")), [AFLOAT; 3]);
        assert_eq!(heights(&fixture.named("a fox waits in space")), [AFLOAT; 3]);
    }

    #[test]
    fn a_drawing_that_turns_has_a_mirrored_picture_and_an_own_picture_has_not() {
        let fixture = Fixture::open();
        let prompt = "a fox goes back and forth, to the right";
        let paces = fixture.named(prompt);
        let seen: Vec<_> = (0..6)
            .map(|latent| paces.spots(latent).iter().map(Option::is_some).collect::<Vec<_>>())
            .collect();
        let (there, back) = (vec![true, false], vec![false, true]);
        assert_eq!(seen, [&there, &there, &back, &back, &there, &there].map(Clone::clone));
        let places: Vec<_> =
            (0..6).map(|latent| paces.spots(latent).iter().flatten().next().unwrap().x).collect();
        assert_eq!(places, [24, 32, 40, 32, 24, 32]);
        assert_eq!(paces.poses().iter().map(|pose| pose.mirrored).collect::<Vec<_>>(), [true, false]);

        let logo = fixture.plan(prompt, &[own()], None).unwrap();
        assert_eq!(logo.poses().len(), 1);
        assert!(!logo.poses()[0].mirrored);
        assert_eq!(names(&logo), ["logo.png"]);
    }

    #[test]
    fn a_path_moves_a_reference() {
        let fixture = Fixture::open();
        let path = "0 left ground | 1 right up | 2 left ground; 0 1 0";
        let plan = fixture.plan("a fox jumps", &[Reference::Bank("fox".into()), own()], Some(path)).unwrap();
        let spots: Vec<_> = [0, 2, 4, 6, 8, 99].iter().map(|latent| plan.spots(*latent)).collect();
        let spot = |x, y| Some(Spot { x, y });
        // 64 pixels wide and 8 high, in steps of 8.
        assert_eq!(spots[0], [spot(0, 0), spot(64, 0)]);
        assert_eq!(spots[1], [spot(32, 8), spot(64, 0)]);
        assert_eq!(spots[2], [spot(64, 8), spot(64, 0)]);
        assert_eq!(spots[4], [spot(0, 0), spot(64, 0)]);
        assert_eq!(spots[5], spots[4]);
        // Alone it turns round.
        let alone = fixture.plan("a fox", &[], Some("0 left ground | 1 right up | 2 left ground")).unwrap();
        assert_eq!(alone.spots(2), [spot(32, 8), None]);
        assert_eq!(alone.spots(6), [None, spot(32, 8)]);
    }

    #[test]
    fn another_prompt_goes_on_where_the_subject_is() {
        let fixture = Fixture::open();
        let stage = fixture.stage();
        let first = fixture.named("a fox goes back and forth, to the right");
        let plan = |prompt: &str| stage.plan(prompt, &[], None, (2, 0), &first, |_| Ok(None)).unwrap();
        assert_eq!(x(&plan("a fox waits"), 2..4), [Some(40); 2]);
        assert_eq!(x(&plan("an owl waits"), 2..4), [Some(32); 2], "another subject");
    }

    #[test]
    fn everything_that_moves_a_subject_is_in_the_key() {
        let fixture = Fixture::open();
        let (fox, path) = (Reference::Bank("fox".into()), "0 left ground | 1 right up");
        let plans = [
            fixture.named("a fox jumps"),
            fixture.named("a fox waits"),
            fixture.named("an owl jumps"),
            fixture.named("a fox runs to the left"),
            fixture.named("a fox runs to the right"),
            fixture.plan("a fox jumps", &[own()], None).unwrap(),
            fixture.plan("a fox jumps", &[fox], Some(path)).unwrap(),
        ];
        for (i, plan) in plans.iter().enumerate() {
            assert!(plans[..i].iter().all(|other| other.key() != plan.key()), "{i}");
        }
    }

    #[test]
    fn too_many_and_unknown_references_are_errors() {
        let fixture = Fixture::open();
        let error = |references: &[Reference]| fixture.plan("", references, None).unwrap_err().to_string();
        assert!(error(&[own(), own(), own()]).contains("at most 2"));
        assert!(error(&[Reference::Bank("unicorn".into())]).contains("no drawing `unicorn`"));
    }

    #[test]
    fn a_drawing_is_mirrored_when_it_looks_to_the_right() {
        let fixture = Fixture::open();
        let bank = fixture.world.bank(&fixture.source).unwrap();
        let square = |prompt: &str| fixture.named(prompt).poses()[0].in_square(bank, 16).unwrap();
        let (left, right) = (square("a fox waits"), square("a fox runs to the right"));
        let pixel = |all: &[f32], x: usize| all[4 * (7 * 16 + x)..][..4].to_vec();
        assert_eq!(pixel(&left, 3), pixel(&right, 12));
        assert_ne!(pixel(&left, 12), pixel(&left, 3));
    }

    #[test]
    fn an_endless_motion_does_not_overflow() {
        let fixture = Fixture::open();
        let plan = fixture.named("a fox runs to the right");
        assert_eq!(plan.spots(usize::MAX), [None]);
        assert!(fixture.named("a fox goes back and forth").spots(usize::MAX / 2).len() == 2);
    }
}
