//! The shots of a request, on the frames of a model.

use std::collections::VecDeque;
use std::time::Duration;

use super::plan::admit;
use crate::policy::Policy;
use crate::request::{Shot, Transition};
use crate::{Error, ModelInfo, Request, Result};

/// Shots that are still to come.
pub struct Schedule {
    upcoming: VecDeque<Placed>,
    /// When the last of all starts.
    last: Duration,
    total: Option<u64>,
}

/// A shot, from the frame nearest to its time.
pub struct Placed {
    pub frame: u64,
    pub shot: Shot,
    /// Whether a take begins with it: at that very frame, and knowing nothing of what was before.
    pub take: bool,
}

impl Placed {
    fn new(shot: Shot, info: &ModelInfo, first: bool) -> Self {
        let cut = shot.transition == Transition::Cut;
        let take = first || cut && (!info.remembers_shots || shot.image.is_some());
        Self { frame: info.frame_at(shot.start), shot, take }
    }
}

impl Schedule {
    /// The shots of `request`, of which a plain prompt is one.
    pub fn new(request: &mut Request, info: &ModelInfo, policy: &Policy, total: Option<u64>) -> Result<Self> {
        let mut shots = std::mem::take(&mut request.shots);
        let image = request.image.take();
        match shots.first_mut() {
            Some(first) => first.image = first.image.take().or(image),
            None => shots.push(Shot {
                start: Duration::ZERO,
                prompt: std::mem::take(&mut request.prompt),
                seed: None,
                image,
                transition: Transition::Cut,
            }),
        }
        if !shots[0].start.is_zero() {
            return refuse("the first shot starts at 0".into());
        }
        // There is nothing before it that it could go on from.
        shots[0].transition = Transition::Cut;
        if !shots.is_sorted_by(|a, b| a.start < b.start) {
            return refuse("a shot starts no later than the one before it".into());
        }
        shots.iter().try_for_each(|shot| check(shot, info, policy))?;
        let last = shots.last().map(|shot| shot.start).unwrap_or_default();
        let upcoming =
            shots.into_iter().enumerate().map(|(i, shot)| Placed::new(shot, info, i == 0)).collect();
        Ok(Self { upcoming, last, total })
    }

    /// The shots that are still to come.
    pub fn shots(&self) -> impl Iterator<Item = &Shot> {
        self.upcoming.iter().map(|placed| &placed.shot)
    }

    /// Adds a shot after the others.
    pub fn add(&mut self, shot: Shot, info: &ModelInfo, policy: &Policy) -> Result<()> {
        check(&shot, info, policy)?;
        if shot.start <= self.last {
            return refuse("a shot starts no later than the one before it".into());
        }
        self.last = shot.start;
        self.upcoming.push_back(Placed::new(shot, info, false));
        Ok(())
    }

    /// The video has `total` frames and no more.
    pub fn end_at(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// How many frames there are in all.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Where the next take begins, or the end.
    pub fn next_take(&self) -> Option<u64> {
        let next = self.upcoming.iter().find(|placed| placed.take);
        next.map(|placed| placed.frame).into_iter().chain(self.total).min()
    }

    /// How many frames each take has, from the first to the last.
    pub fn takes(&self) -> Option<Vec<u64>> {
        let total = self.total?;
        let takes = self.upcoming.iter().filter(|placed| placed.take);
        let starts: Vec<_> = takes.map(|take| take.frame.min(total)).chain([total]).collect();
        Some(starts.windows(2).map(|pair| pair[1] - pair[0]).filter(|&frames| frames > 0).collect())
    }

    /// A shot that starts with the chunk of `length` frames after the `made` ones: a take that has come, or what
    /// goes on within one and whose time is nearer to this chunk's first frame than to that of the next. A chunk
    /// that would not be followed by one of the same take is the last chance.
    pub fn due(&mut self, made: u64, length: u64) -> Option<Placed> {
        let next = self.upcoming.front()?;
        let after = made.saturating_add(length);
        let due = match next.take {
            _ if next.frame <= made => true,
            true => false,
            false => {
                let last_chance = self.next_take().is_some_and(|end| next.frame < end && after >= end);
                last_chance || (next.frame <= after && next.frame - made <= after - next.frame)
            }
        };
        if due { self.upcoming.pop_front() } else { None }
    }
}

fn check(shot: &Shot, info: &ModelInfo, policy: &Policy) -> Result<()> {
    let goes_on = shot.transition == Transition::Continue;
    if goes_on && !info.causal {
        return refuse(format!(
            "{} makes its video in one piece; its shots need a cut between them",
            info.name
        ));
    }
    if goes_on && shot.image.is_some() {
        return refuse("a shot that starts from an image needs a cut before it".into());
    }
    if shot.image.is_none() && info.needs_image {
        return refuse(format!("{} starts from an image; say which with `image`", info.name));
    }
    if shot.image.is_some() && !info.image_to_video {
        return refuse(format!("{} cannot start from an image", info.name));
    }
    admit(&shot.prompt, policy)
}

fn refuse<T>(reason: String) -> Result<T> {
    Err(Error::Request(crate::Setting::Shots, reason))
}
