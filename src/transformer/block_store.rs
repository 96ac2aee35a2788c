//! The blocks of a transformer: in memory, or each brought when it is its turn.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use crate::Result;

/// So many blocks in a row. Clones share them.
#[derive(Clone)]
pub(super) enum BlockStore<B> {
    Resident(Arc<[B]>),
    /// They stay in the file, or in the host's memory where the system keeps what was read of it; one at a time is made
    /// ready for the device, and let go of.
    Offloaded {
        count: usize,
        load: Arc<dyn Fn(usize) -> Result<B> + Send + Sync>,
    },
}

impl<B: Clone + Send + Sync> BlockStore<B> {
    /// `load` makes the block of a number below `count`, which it does now unless they are to stay `away`.
    pub(super) fn new(
        count: usize,
        away: bool,
        load: impl Fn(usize) -> Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        if away {
            return Ok(Self::Offloaded { count, load: Arc::new(load) });
        }
        Ok(Self::Resident((0..count).into_par_iter().map(load).collect::<Result<Vec<_>>>()?.into()))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Resident(blocks) => blocks.len(),
            Self::Offloaded { count, .. } => *count,
        }
    }

    /// The block `i`, which there is.
    pub(super) fn get(&self, i: usize) -> Result<Cow<'_, B>> {
        match self {
            Self::Resident(blocks) => Ok(Cow::Borrowed(&blocks[i])),
            Self::Offloaded { load, .. } => load(i).map(Cow::Owned),
        }
    }

    /// What `f` makes of each.
    pub(super) fn map<T>(&self, f: impl Fn(&B) -> Result<T>) -> Result<Vec<T>> {
        (0..self.len()).map(|i| f(&*self.get(i)?)).collect()
    }
}

impl<B> fmt::Debug for BlockStore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resident(blocks) => write!(f, "{} blocks", blocks.len()),
            Self::Offloaded { count, .. } => write!(f, "{count} blocks in their file"),
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
        let block_store = |away| {
            let (alive, brought) = (alive.clone(), brought.clone());
            let load = move |i: usize| {
                brought.fetch_add(1, Ordering::Relaxed);
                Ok((i, alive.clone()))
            };
            BlockStore::new(5, away, load).unwrap()
        };
        let here = block_store(false);
        let those_of_the_shelf = Arc::strong_count(&alive) - 1;
        assert!(those_of_the_shelf >= 5, "{those_of_the_shelf}");
        assert_eq!(here.map(|(i, _)| Ok(*i)).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(brought.load(Ordering::Relaxed), 5);
        drop(here);

        let away = block_store(true);
        let before = Arc::strong_count(&alive);
        for _ in 0..2 {
            let counts = away.map(|_| Ok(Arc::strong_count(&alive))).unwrap();
            assert_eq!(counts, [before + 1; 5]);
        }
        assert_eq!(brought.load(Ordering::Relaxed), 5 + 10);
    }
}
