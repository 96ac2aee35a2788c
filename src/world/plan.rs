//! The plan of a shot: its subjects, their pictures, and where they are in each latent frame.

use std::time::Duration;

use image::RgbaImage;
use image::imageops::FilterType;

use super::camera::without_camera;
use super::path::{MotionPath, Point};
use super::phrase::Subject;
use super::words::{Words, direction};
use super::{Bank, Drawing, Motion, World};
use crate::reference::{Reference, ReferencePicture};
use crate::{Error, Result, Setting, Size};

/// The subjects of a shot.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    subjects: Vec<SubjectPlan>,
    /// Latent frame at which the shot began.
    begin: usize,
    /// Latent frames before the shot in which the motions have been going on.
    continued: usize,
    path: Option<MotionPath>,
    /// When the path begins, in seconds of the scene; it may have begun before.
    path_begin: f64,
    /// Pixels that the camera moves to the right in each latent frame, besides the movement that belongs to a motion.
    pan: i32,
    /// With that of the first subject's motion.
    speed: i32,
    /// Where the camera is at `begin`, in pixels.
    camera: i64,
    space: Space,
}

/// The space that subjects move in, in pixels.
#[derive(Clone, Copy, Debug, Default)]
struct Space {
    /// Width and height of the frame without those of a subject.
    width: i32,
    height: i32,
    /// Upper edge of what stands on the ground, and of what is at the top of the frame.
    ground: i32,
    top: i32,
    /// Positions are multiples of this.
    step: i32,
    /// Duration of a latent frame in seconds.
    latent: f64,
    /// Side of a subject.
    side: i32,
}

/// A subject.
#[derive(Clone, Debug)]
struct SubjectPlan {
    picture: Picture,
    motion: Motion,
    /// −1 to the left, 1 to the right.
    facing: i32,
    /// Place at the first latent frame.
    x: i32,
    y: i32,
    /// Place in the latent frame before the shot, if that showed the subject.
    before: Option<(i32, i32)>,
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
pub struct FacingPicture {
    picture: Picture,
    mirrored: bool,
}

/// Where a picture is in a latent frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Left and upper edge in pixels.
    At { x: i32, y: i32 },
    /// Where the model likes.
    Free,
    /// Outside the frame, or replaced by the picture that looks the other way.
    Hidden,
}

/// What a plan is made of.
pub struct PlanInputs<'a> {
    pub world: &'a World,
    pub bank: &'a Bank,
    /// Of the frames.
    pub size: Size,
    /// Duration of a latent frame.
    pub latent: Duration,
}

impl PlanInputs<'_> {
    /// The plan for a shot that begins at the latent frame `begin` of the scene, after a shot with the plan `before`. A `path` has the
    /// time at which it begins, in seconds of the scene. Without `references` the subjects are the drawings that the prompt names;
    /// `similar` finds the drawing for a phrase that is no name of one.
    ///
    /// # Errors
    /// [`Error::Request`] for too many references, and for a name that the bank does not have.
    pub fn plan<'b>(
        &'b self,
        prompt: &str,
        references: &[Reference],
        path: Option<(&MotionPath, f64)>,
        begin: usize,
        before: &Plan,
        similar: impl FnOnce(&str) -> Result<Option<&'b Drawing>>,
    ) -> Result<Plan> {
        let world = self.world;
        let (words, camera) = without_camera(&Words::new(prompt));
        let named = world.subjects(&words, self.bank);
        let pictures: Vec<_> = match references {
            [] => self.drawings(&named, similar)?,
            // They have the verbs of the subjects in the same order.
            some => some
                .iter()
                .enumerate()
                .map(|(i, reference)| Ok((self.picture(reference)?, (i < named.len()).then_some(i))))
                .collect::<Result<_>>()?,
        };
        if pictures.len() > world.max_references {
            return Err(Error::Request(
                Setting::Reference,
                format!("{} references are too many; use at most {}", pictures.len(), world.max_references),
            ));
        }
        let (path, path_begin) = path.map_or((None, 0.0), |(path, begin)| (Some(path), begin));
        let seconds = begin as f64 * self.latent.as_secs_f64() - path_begin;
        let alone = pictures.len() == 1;
        let mut plan = Plan {
            subjects: Vec::new(),
            begin,
            continued: 0,
            path: path.cloned(),
            path_begin,
            pan: camera.pan.unwrap_or(0) * world.pan,
            speed: 0,
            camera: before.camera(begin),
            space: self.space(&words),
        };
        for (i, (picture, subject)) in pictures.into_iter().enumerate() {
            let element = picture.element();
            let rest = subject.map_or(&words, |i| &named[i].rest);
            let motion = world.motion_of(&named, subject, &words, element);
            // Two subjects stay side by side.
            let follows = camera.follows || !alone;
            let motion = motion.unwrap_or_else(|| world.still()).seen(follows);
            let now = before.now(&picture, begin);
            let facing = path
                .and_then(|path| path.facing(i, seconds))
                .or_else(|| direction(rest))
                .or_else(|| direction(&words))
                .or(now.map(|(_, _, facing)| facing))
                .unwrap_or(-1);
            let turns = alone && world.max_references > 1 && picture.may_be_mirrored();
            let turns = turns && (motion.turn > 0 || path.is_some_and(|path| path.turns(i)));
            let x = now.map_or_else(|| plan.space.first_x(&motion, facing, i, alone), |(x, ..)| x);
            let last = begin.checked_sub(1).and_then(|last| before.now(&picture, last));
            let y = if world.floats(&words, element) { world.afloat } else { plan.space.ground };
            let before = last.map(|(x, y, _)| (x, y));
            plan.subjects.push(SubjectPlan { picture, motion, facing, x, y, before, turns });
        }
        let follows = plan.subjects.first().map_or(0, |first| first.facing * first.motion.camera);
        plan.speed = plan.pan + follows;
        Ok(plan)
    }

    fn space(&self, words: &Words) -> Space {
        let side = self.world.side as i32;
        Space {
            width: self.size.width as i32 - side,
            height: self.size.height as i32 - side,
            ground: self.world.ground(words),
            top: self.world.top,
            step: self.world.step as i32,
            latent: self.latent.as_secs_f64(),
            side,
        }
    }

    fn picture(&self, reference: &Reference) -> Result<Picture> {
        match reference {
            Reference::Picture(picture) => Ok(Picture::Own(picture.clone())),
            Reference::Bank(name) => Ok(Picture::Drawing(self.bank.find(name)?.clone())),
        }
    }

    /// The drawings that the subjects name, with the numbers of the subjects. Only the first subject may be one that is similar to a
    /// drawing.
    fn drawings<'b>(
        &'b self,
        subjects: &[Subject],
        similar: impl FnOnce(&str) -> Result<Option<&'b Drawing>>,
    ) -> Result<Vec<(Picture, Option<usize>)>> {
        let mut found: Vec<(&Drawing, usize)> = Vec::new();
        let named =
            subjects.iter().enumerate().filter_map(|(i, subject)| Some((self.bank.named(subject)?, i)));
        for (drawing, i) in named {
            if found.len() < self.world.max_references && found.iter().all(|(other, _)| *other != drawing) {
                found.push((drawing, i));
            }
        }
        if let (true, Some(first)) = (found.is_empty(), subjects.first()) {
            let phrase: Vec<_> = first.words.iter().map(|word| word.text.as_str()).collect();
            found.extend(similar(&phrase.join(" "))?.map(|drawing| (drawing, 0)));
        }
        Ok(found.into_iter().map(|(drawing, i)| (Picture::Drawing(drawing.clone()), Some(i))).collect())
    }
}

impl Plan {
    /// The pictures that the model gets, in order.
    pub fn pictures(&self) -> Vec<FacingPicture> {
        let picture = |subject: &SubjectPlan, facing: i32| FacingPicture {
            picture: subject.picture.clone(),
            mirrored: facing > 0 && subject.picture.may_be_mirrored(),
        };
        let pictures = self.subjects.iter().flat_map(|subject| {
            let other = subject.turns.then(|| picture(subject, -subject.facing));
            std::iter::once(picture(subject, subject.facing)).chain(other)
        });
        pictures.collect()
    }

    /// Identifies the pictures.
    pub fn picture_keys(&self) -> Vec<(String, bool)> {
        self.pictures()
            .iter()
            .map(|picture| (picture.picture.reference().digest(), picture.mirrored))
            .collect()
    }

    /// Leaves the places to the model, unless a user gave a path.
    pub fn free_places(&mut self) {
        self.path.get_or_insert_with(MotionPath::free);
    }

    /// Lets the motions go on as after so many latent frames before the shot, unless the subjects have left the frame by `latent`.
    pub fn continue_motions(&mut self, continued: usize, latent: usize) {
        let before = std::mem::replace(&mut self.continued, continued);
        if self.places(latent).iter().all(|place| *place == Place::Hidden) {
            self.continued = before;
        }
    }

    /// Identifies the plan in cache keys.
    pub fn key(&self) -> String {
        let Self { begin, continued, path_begin, pan, speed, space, .. } = self;
        let mut key = format!("{begin} {path_begin} {pan} {speed} {space:?}");
        if *continued > 0 {
            key += &format!(" {continued}");
        }
        for SubjectPlan { picture, motion, facing, x, y, before, turns } in &self.subjects {
            let Motion { dx, dy, turn, .. } = motion;
            let picture = picture.reference().digest();
            key += &format!(" | {picture} {facing} {x} {y} {before:?} {turns} {dx:?} {dy:?} {turn}");
        }
        self.path.iter().for_each(|path| key += &format!(" | {path}"));
        key
    }

    /// Where the camera is at a latent frame, in pixels to the right of where it was when the scene began. Before the shot it has moved
    /// as in the shot.
    pub fn camera(&self, latent: usize) -> i64 {
        let latents = i64::try_from(latent).unwrap_or(i64::MAX).saturating_sub(self.begin as i64);
        self.camera.saturating_add(latents.saturating_mul(i64::from(self.speed)))
    }

    /// The references, in order.
    pub fn references(&self) -> Vec<Reference> {
        self.subjects.iter().map(|subject| subject.picture.reference()).collect()
    }

    /// Where each of the [`pictures`](Self::pictures) is at a latent frame.
    pub fn places(&self, latent: usize) -> Vec<Place> {
        let of = |(i, subject): (usize, &SubjectPlan)| {
            let (x, y, facing) = self.position(i, latent);
            let place = match &self.path {
                Some(path) if path.is_free() => Place::Free,
                _ if self.space.shows(x, y) => Place::At { x, y },
                _ => Place::Hidden,
            };
            match subject.turns {
                false => vec![place],
                true if facing == subject.facing => vec![place, Place::Hidden],
                true => vec![Place::Hidden, place],
            }
        };
        self.subjects.iter().enumerate().flat_map(of).collect()
    }

    /// The upper and the left edge of each of the [`pictures`](Self::pictures) in the latent frame before a latent frame, in pixels, wherever
    /// that is; a subject that turns round has one place.
    pub fn places_before(&self, latent: usize) -> Vec<[i32; 2]> {
        let of = |(i, subject): (usize, &SubjectPlan)| {
            let (x, y) = match latent.checked_sub(1) {
                Some(last) if last >= self.begin => self.place(i, last, self.continued),
                // The motions have been going on.
                Some(last) if self.continued > 0 => self.place(i, last, self.continued - 1),
                _ => subject.before.unwrap_or_else(|| self.place(i, latent, self.continued)),
            };
            vec![[y, x]; if subject.turns { 2 } else { 1 }]
        };
        self.subjects.iter().enumerate().flat_map(of).collect()
    }

    /// x and y of a subject at a latent frame.
    fn place(&self, i: usize, latent: usize, continued: usize) -> (i32, i32) {
        let (x, y, _) = self.position_after(i, latent, continued);
        (x, y)
    }

    /// x, y and the direction of a subject at a latent frame.
    fn position(&self, i: usize, latent: usize) -> (i32, i32, i32) {
        self.position_after(i, latent, self.continued)
    }

    /// As [`position`](Self::position), if the motions have been going on for `continued` latent frames before the shot.
    fn position_after(&self, i: usize, latent: usize, continued: usize) -> (i32, i32, i32) {
        let subject = &self.subjects[i];
        let seconds = latent as f64 * self.space.latent - self.path_begin;
        let path = self.path.as_ref();
        if let Some((point, facing)) =
            path.and_then(|path| Some((path.at(i, seconds)?, path.facing(i, seconds))))
        {
            let (x, y) = self.space.pixels(point);
            return (x, y, facing.unwrap_or(subject.facing));
        }
        let latents = latent.saturating_sub(self.begin).saturating_add(continued);
        let (dx, dy, facing) = subject.motion.moved(latents, subject.facing);
        let pan = self.pan.saturating_mul(i32::try_from(latents).unwrap_or(i32::MAX));
        (subject.x.saturating_add(dx).saturating_sub(pan), subject.y.saturating_add(dy), facing)
    }

    /// x, y and the direction of the subject with this picture at a latent frame, if the frame shows it.
    fn now(&self, picture: &Picture, latent: usize) -> Option<(i32, i32, i32)> {
        let i = self.subjects.iter().position(|subject| subject.picture.is(picture))?;
        let (x, y, facing) = self.position(i, latent);
        self.space.shows(x, y).then_some((x, y, facing))
    }
}

impl Space {
    fn pixels(&self, point: Point) -> (i32, i32) {
        let rounded = |pixels: f64| (pixels / f64::from(self.step)).round() as i32 * self.step;
        let y = f64::from(self.ground) + point.height * f64::from(self.top - self.ground);
        (rounded(point.x * f64::from(self.width)), rounded(y))
    }

    /// Whether the frame shows a part of a subject there.
    fn shows(&self, x: i32, y: i32) -> bool {
        let shows = |at: i32, length: i32| -self.side < at && at < length + self.side;
        shows(x, self.width) && shows(y, self.height)
    }

    /// Where subject `i` begins.
    fn first_x(&self, motion: &Motion, facing: i32, i: usize, alone: bool) -> i32 {
        let (step, edge) = (motion.dx[0], self.width / 12);
        let x = match motion.turn {
            _ if !alone && i == 0 => edge,
            _ if !alone => self.width - edge,
            // It comes into the picture and leaves it.
            0 if step != 0 && facing > 0 => -self.side / 4,
            0 if step != 0 => self.width + self.side / 4,
            0 => self.width / 2,
            // In the middle of the way that it goes.
            turn => self.width / 2 - facing * step * turn as i32 / 2,
        };
        x / self.step * self.step
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
        self.reference().digest() == other.reference().digest()
    }

    fn reference(&self) -> Reference {
        match self {
            Self::Drawing(drawing) => Reference::Bank(drawing.name.clone()),
            Self::Own(picture) => Reference::Picture(picture.clone()),
        }
    }
}

impl FacingPicture {
    /// The picture in a square of `side` pixels: `[side, side, 4]` in \[0, 1\], premultiplied.
    ///
    /// # Errors
    /// Those of [`Bank::picture`].
    pub fn in_square(&self, bank: &Bank, side: u32) -> Result<Vec<f32>> {
        let square = match &self.picture {
            Picture::Own(picture) => picture.in_square(side),
            Picture::Drawing(drawing) => as_square(bank.picture(drawing)?, side),
        };
        let row = 4 * side as usize;
        let mirror = |row: &[f32]| row.chunks_exact(4).rev().flatten().copied().collect::<Vec<_>>();
        Ok(if self.mirrored { square.chunks_exact(row).flat_map(mirror).collect() } else { square })
    }
}

/// A drawing of the bank, which has its margins.
fn as_square(picture: RgbaImage, side: u32) -> Vec<f32> {
    let picture = match picture.dimensions() == (side, side) {
        true => picture,
        false => image::imageops::resize(&picture, side, side, FilterType::Triangle),
    };
    picture.as_raw().iter().map(|value| f32::from(*value) / 255.0).collect()
}

impl Motion {
    /// The motion as a camera shows it that follows the subject, or stands still: what it follows keeps its place.
    fn seen(&self, follows: bool) -> Self {
        match follows && self.camera != 0 {
            true => Self { dx: vec![0], turn: 0, ..self.clone() },
            false => Self { camera: 0, ..self.clone() },
        }
    }

    /// How far a subject has moved after `frames` latent frames, and where it looks.
    fn moved(&self, frames: usize, facing: i32) -> (i32, i32, i32) {
        let now = |i: usize| match self.turn {
            0 => facing,
            turn if (i / turn).is_multiple_of(2) => facing,
            _ => -facing,
        };
        let turns = if self.turn == 0 { 1 } else { 2 * self.turn };
        let dx = sum(frames, self.dx.len() * turns, |i| self.dx[i % self.dx.len()] * now(i));
        (dx, sum(frames, self.dy.len(), |i| self.dy[i % self.dy.len()]), now(frames))
    }
}

/// The sum of a periodic sequence. Whole periods are multiplied: a video may be endless.
fn sum(count: usize, period: usize, of: impl Fn(usize) -> i32) -> i32 {
    let part = |count: usize| (0..count).map(&of).sum::<i32>();
    let periods = count / period;
    let whole = if periods > 0 { part(period) } else { 0 };
    whole.saturating_mul(i32::try_from(periods).unwrap_or(i32::MAX)).saturating_add(part(count % period))
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

        fn inputs(&self) -> PlanInputs<'_> {
            let bank = self.world.bank(&self.source).unwrap();
            let size = Size { width: 96, height: 32 };
            PlanInputs { world: &self.world, bank, size, latent: Duration::from_millis(250) }
        }

        fn plan(&self, prompt: &str, references: &[Reference], path: Option<&str>) -> Result<Plan> {
            let path = path.map(|path| MotionPath::parse(path).unwrap());
            let path = path.as_ref().map(|path| (path, 0.0));
            self.inputs().plan(prompt, references, path, 0, &Plan::default(), |_| Ok(None))
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

    /// Left edges of the first picture; `None` where it is hidden.
    fn x(plan: &Plan, latents: std::ops::Range<usize>) -> Vec<Option<i32>> {
        let x = |place: Place| match place {
            Place::At { x, .. } => Some(x),
            Place::Free | Place::Hidden => None,
        };
        latents.map(|latent| x(plan.places(latent)[0])).collect()
    }

    /// Upper edges of the first picture in three latent frames.
    fn heights(plan: &Plan) -> Vec<i32> {
        let y = |place: Place| match place {
            Place::At { y, .. } => y,
            Place::Free | Place::Hidden => panic!("{place:?}"),
        };
        (plan.begin..plan.begin + 3).map(|latent| y(plan.places(latent)[0])).collect()
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
        let inputs = fixture.inputs();
        let plan = |prompt: &str| {
            let similar = |phrase: &str| Ok(inputs.bank.get("owl").filter(|_| phrase == "big bird"));
            names(&inputs.plan(prompt, &[], None, 0, &Plan::default(), similar).unwrap())
        };
        assert_eq!(plan("a big bird flies in space"), ["bank:owl"]);
        assert_eq!(plan("a fox and a big bird"), ["bank:fox"]);
    }

    #[test]
    fn verbs_become_motions() {
        let fixture = Fixture::open();
        // It comes into the picture, 8 pixels in each latent frame.
        let runs = fixture.named("a fox runs to the right");
        assert_eq!(x(&runs, 0..4), [-8, 0, 8, 16].map(Some));
        let jumps = fixture.named("a fox jumps");
        assert_eq!(heights(&jumps), [0, -8, 0]);
        assert_eq!(x(&jumps, 0..2), [Some(32); 2], "in the middle");
        // Each has its own verb.
        assert_eq!(heights(&fixture.named("a gizmo jumps and a fox waits")), [0; 3]);
        assert_eq!(heights(&fixture.named("a fox jumps and a train waits")), [0, -8, 0]);
        // An owl flies, and a fox does not.
        assert_eq!(x(&fixture.named("an owl flies to the left"), 0..2), [72, 64].map(Some));
        assert_eq!(heights(&fixture.named("an owl waits")), [8; 3]);
        assert_eq!(heights(&fixture.named("a fox waits in space")), [8; 3]);
        assert_eq!(heights(&fixture.named("an owl waits on the sea")), [0; 3]);
    }

    #[test]
    fn a_drawing_that_turns_has_a_mirrored_picture_and_an_own_picture_has_not() {
        let fixture = Fixture::open();
        let prompt = "a fox goes back and forth, to the right";
        let paces = fixture.named(prompt);
        let places: Vec<_> = (0..6).map(|latent| paces.places(latent)).collect();
        let (there, back) =
            (|x| vec![Place::At { x, y: 0 }, Place::Hidden], |x| vec![Place::Hidden, Place::At { x, y: 0 }]);
        assert_eq!(places, [there(24), there(32), back(40), back(32), there(24), there(32)]);
        assert_eq!(
            paces.pictures().iter().map(|picture| picture.mirrored).collect::<Vec<_>>(),
            [true, false]
        );

        let logo = fixture.plan(prompt, &[own()], None).unwrap();
        assert_eq!(logo.pictures().len(), 1);
        assert!(!logo.pictures()[0].mirrored);
        assert_eq!(names(&logo), ["logo.png"]);
    }

    #[test]
    fn a_path_moves_a_reference() {
        let fixture = Fixture::open();
        let path = "0 left ground | 1 right up | 2 left ground; 0 1 0";
        let plan = fixture.plan("a fox jumps", &[Reference::Bank("fox".into()), own()], Some(path)).unwrap();
        let places: Vec<_> = [0, 2, 4, 6, 8, 99].iter().map(|latent| plan.places(*latent)).collect();
        let at = |x, y| Place::At { x, y };
        // 64 pixels wide and 8 high, in steps of 8.
        assert_eq!(places[0], [at(0, 0), at(64, 0)]);
        assert_eq!(places[1], [at(32, 8), at(64, 0)]);
        assert_eq!(places[2], [at(64, 8), at(64, 0)]);
        assert_eq!(places[4], [at(0, 0), at(64, 0)]);
        assert_eq!(places[5], places[4]);
        // Alone it turns round.
        let alone = fixture.plan("a fox", &[], Some("0 left ground | 1 right up | 2 left ground")).unwrap();
        assert_eq!(alone.places(2), [at(32, 8), Place::Hidden]);
        assert_eq!(alone.places(6), [Place::Hidden, at(32, 8)]);
        assert_eq!(alone.places(999), [Place::Hidden, at(0, 0)], "it stays turned");
        let outside = fixture.plan("a fox", &[], Some("0 center -2 | 1 center 2 | 2 -1 0")).unwrap();
        assert_eq!(outside.places(0), [at(32, -16)]);
        assert_eq!(outside.places(8), [Place::Hidden]);
    }

    #[test]
    fn another_prompt_goes_on_where_the_subject_is() {
        let fixture = Fixture::open();
        let inputs = fixture.inputs();
        let after = |before: &Plan, prompt: &str, begin: usize| {
            inputs.plan(prompt, &[], None, begin, before, |_| Ok(None)).unwrap()
        };
        let paces = fixture.named("a fox goes back and forth, to the right");
        let waits = after(&paces, "a fox waits", 2);
        assert_eq!(x(&waits, 2..4), [Some(40); 2]);
        assert!(!waits.pictures()[0].mirrored, "it looks back");
        assert_eq!(x(&after(&paces, "an owl waits", 2), 2..4), [Some(32); 2], "another subject");
        assert_eq!(x(&after(&paces, "an owl and a fox wait", 2), 2..3), [Some(0)], "the owl is new");
        // A jump ends on the ground, and who has left comes back.
        assert_eq!(heights(&after(&fixture.named("a fox jumps"), "a fox waits", 1)), [0; 3]);
        let gone = fixture.named("a fox runs to the right");
        assert_eq!(x(&after(&gone, "a fox waits", 99), 99..100), [Some(32)]);
    }

    #[test]
    fn the_place_in_the_latent_frame_before_is_known() {
        let fixture = Fixture::open();
        let paces = fixture.named("a fox goes back and forth, to the right");
        let before: Vec<_> = (0..5).map(|latent| paces.places_before(latent)[0]).collect();
        assert_eq!(before, [[0, 24], [0, 24], [0, 32], [0, 40], [0, 32]]);
        assert_eq!(paces.places_before(3).len(), paces.pictures().len());
        let after = |prompt: &str| {
            fixture.inputs().plan(prompt, &[], None, 2, &paces, |_| Ok(None)).unwrap().places_before(2)
        };
        assert_eq!(after("a fox waits"), [[0, 32]], "it came from there");
        assert_eq!(after("an owl waits"), [[8, 32]], "it was nowhere");
        let path = fixture.plan("a fox", &[own()], Some("0 left ground | 1 right up")).unwrap();
        assert_eq!(path.places_before(4), [[8, 48]]);
        let plan = |continued| {
            let mut plan = fixture
                .inputs()
                .plan("a fox runs to the right", &[], None, 2, &Plan::default(), |_| Ok(None))
                .unwrap();
            plan.continue_motions(continued, 2);
            plan.places_before(2)
        };
        assert_eq!([plan(0), plan(3)], [[[0, -8]], [[0, 8]]]);
    }

    #[test]
    fn a_motion_goes_on_in_a_video_that_is_continued() {
        let fixture = Fixture::open();
        let continued = |prompt: &str, latents| {
            let mut plan =
                fixture.inputs().plan(prompt, &[], None, 2, &Plan::default(), |_| Ok(None)).unwrap();
            plan.continue_motions(latents, 2);
            plan
        };
        let (paces, runs) = ("a fox goes back and forth, to the right", "a fox runs to the right");
        for prompt in [paces, runs] {
            let whole = fixture.named(prompt);
            let rest = continued(prompt, 5);
            let places =
                |plan: &Plan, first: usize| (first..first + 6).map(|i| plan.places(i)).collect::<Vec<_>>();
            assert_eq!(places(&rest, 2), places(&whole, 5), "{prompt}");
            assert_ne!(rest.key(), continued(prompt, 0).key());
        }
        // Who has left comes again.
        assert_eq!(x(&continued(runs, 99), 2..4), [-8, 0].map(Some));
    }

    #[test]
    fn a_path_that_began_before_the_scene_goes_on() {
        let fixture = Fixture::open();
        let path = MotionPath::parse("0 left ground | 2 right ground").unwrap();
        let plan = |begin: f64| {
            let inputs = fixture.inputs();
            inputs.plan("a fox", &[], Some((&path, begin)), 0, &Plan::default(), |_| Ok(None)).unwrap()
        };
        assert_eq!(x(&plan(-1.0), 0..3), [32, 40, 48].map(Some));
        assert_eq!(x(&plan(0.5), 0..4), [0, 0, 0, 8].map(Some));
    }

    #[test]
    fn a_free_path_leaves_the_places_to_the_model() {
        let fixture = Fixture::open();
        let plan = fixture.plan("a fox jumps", &[], Some("free")).unwrap();
        assert_eq!([plan.places(0), plan.places(9)], [[Place::Free], [Place::Free]]);
    }

    #[test]
    fn the_camera_follows_what_walks() {
        let fixture = Fixture::open();
        let camera = |plan: &Plan| [2, 3, 4].map(|latent| plan.camera(latent));
        assert_eq!(camera(&fixture.named("a fox walks to the right, the camera follows it")), [16, 24, 32]);
        assert_eq!(
            camera(&fixture.named("the camera moves with a fox that walks to the left")),
            [-16, -24, -32]
        );
        assert_eq!(camera(&fixture.named("a fox and an owl walk to the left")), [-16, -24, -32]);
        assert_eq!(camera(&fixture.named("a fox walks to the right")), [0; 3]);
        assert_eq!(camera(&fixture.named("a fox waits")), [0; 3]);
        assert_eq!(camera(&fixture.named("a fox waits, the camera pans to the left")), [-16, -24, -32]);
        // The next shot begins where the camera is.
        let before = fixture.named("a fox walks to the right, followed by the camera");
        let next = fixture.inputs().plan("a fox waits", &[], None, 3, &before, |_| Ok(None)).unwrap();
        assert_eq!(camera(&next), [24; 3]);
    }

    #[test]
    fn the_camera_moves_what_stands() {
        let fixture = Fixture::open();
        let plan = fixture.named("a fox waits, the camera pans to the right");
        assert_eq!(names(&plan), ["bank:fox"]);
        let step = -fixture.world.pan;
        assert_eq!(x(&plan, 0..3), [32, 32 + step, 32 + 2 * step].map(Some));
        assert!(!plan.pictures()[0].mirrored, "the direction is the camera's");
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
        let square = |prompt: &str| fixture.named(prompt).pictures()[0].in_square(bank, 16).unwrap();
        let (left, right) = (square("a fox waits"), square("a fox runs to the right"));
        let pixel = |all: &[f32], x: usize| all[4 * (7 * 16 + x)..][..4].to_vec();
        assert_eq!(pixel(&left, 3), pixel(&right, 12));
        assert_ne!(pixel(&left, 12), pixel(&left, 3));
    }

    #[test]
    fn an_endless_motion_does_not_overflow() {
        let fixture = Fixture::open();
        for prompt in
            ["a fox runs to the right", "a fox runs to the left", "a fox waits, the camera pans to the left"]
        {
            assert_eq!(fixture.named(prompt).places(usize::MAX), [Place::Hidden], "{prompt}");
        }
        let paces = fixture.named("a fox goes back and forth");
        let period = usize::MAX / 8 * 4;
        assert_eq!(paces.places(period + 1), paces.places(1));
        assert_ne!(paces.places(period + 1), paces.places(2));
    }
}
