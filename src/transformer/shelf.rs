//! The blocks of a transformer: in memory, or each brought when it is its turn.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use crate::Result;

/// So many blocks in a row. Clones share them.
#[derive(Clone)]
pub(super) enum Shelf<B> {
    Here(Arc<[B]>),
    /// They stay in the file, or in the host's memory where the system keeps what was read of it; one at a time is made
    /// ready for the device, and let go of.
    Away {
        count: usize,
        bring: Arc<dyn Fn(usize) -> Result<B> + Send + Sync>,
    },
}

impl<B: Clone + Send + Sync> Shelf<B> {
    /// `bring` makes the block of a number below `count`, which it does now unless they are to stay `away`.
    pub(super) fn new(
        count: usize,
        away: bool,
        bring: impl Fn(usize) -> Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        if away {
            return Ok(Self::Away { count, bring: Arc::new(bring) });
        }
        Ok(Self::Here((0..count).into_par_iter().map(bring).collect::<Result<Vec<_>>>()?.into()))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Here(blocks) => blocks.len(),
            Self::Away { count, .. } => *count,
        }
    }

    /// The block `i`, which there is.
    pub(super) fn get(&self, i: usize) -> Result<Cow<'_, B>> {
        match self {
            Self::Here(blocks) => Ok(Cow::Borrowed(&blocks[i])),
            Self::Away { bring, .. } => bring(i).map(Cow::Owned),
        }
    }

    /// What `f` makes of each.
    pub(super) fn map<T>(&self, f: impl Fn(&B) -> Result<T>) -> Result<Vec<T>> {
        (0..self.len()).map(|i| f(&*self.get(i)?)).collect()
    }
}

impl<B> fmt::Debug for Shelf<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(blocks) => write!(f, "{} blocks", blocks.len()),
            Self::Away { count, .. } => write!(f, "{count} blocks in their file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_block_is_in_memory_at_a_time() {
        let alive = Arc::new(());
        let brought = Arc::new(AtomicUsize::new(0));
        let shelf = |away| {
            let (alive, brought) = (alive.clone(), brought.clone());
            let bring = move |i: usize| {
                brought.fetch_add(1, Ordering::Relaxed);
                Ok((i, alive.clone()))
            };
            Shelf::new(5, away, bring).unwrap()
        };
        let here = shelf(false);
        let those_of_the_shelf = Arc::strong_count(&alive) - 1;
        assert!(those_of_the_shelf >= 5, "{those_of_the_shelf}");
        assert_eq!(here.map(|(i, _)| Ok(*i)).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(brought.load(Ordering::Relaxed), 5);
        drop(here);

        let away = shelf(true);
        let before = Arc::strong_count(&alive);
        for _ in 0..2 {
            let counts = away.map(|_| Ok(Arc::strong_count(&alive))).unwrap();
            assert_eq!(counts, [before + 1; 5]);
        }
        assert_eq!(brought.load(Ordering::Relaxed), 5 + 10);
    }
}
