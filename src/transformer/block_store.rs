//! The blocks of a transformer: all in memory, or each loaded from its file when it is needed.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use crate::{Cancel, Result};

/// Loads the block with the given index.
type LoadBlock<B> = Arc<dyn Fn(usize, &Cancel) -> Result<B> + Send + Sync>;

/// The blocks in the order in which they run. Clones share them.
#[derive(Clone)]
pub(super) enum BlockStore<B> {
    Resident(Arc<[B]>),
    /// The weights stay in the file, or in the operating system's page cache. One block at a time is loaded onto the device,
    /// used and dropped.
    Offloaded {
        count: usize,
        load: LoadBlock<B>,
    },
}

impl<B: Clone + Send + Sync> BlockStore<B> {
    /// A store of `count` blocks. Without `offload`, `load` runs now for every block.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), checked before each block, and those of `load`.
    pub(super) fn new(
        count: usize,
        offload: bool,
        cancel: &Cancel,
        load: impl Fn(usize, &Cancel) -> Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        if offload {
            return Ok(Self::Offloaded { count, load: Arc::new(load) });
        }
        let load = |i| {
            cancel.check()?;
            load(i, cancel)
        };
        Ok(Self::Resident((0..count).into_par_iter().map(load).collect::<Result<Vec<_>>>()?.into()))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Resident(blocks) => blocks.len(),
            Self::Offloaded { count, .. } => *count,
        }
    }

    /// The block `i`, which must be below [`len`](Self::len).
    pub(super) fn get(&self, i: usize, cancel: &Cancel) -> Result<Cow<'_, B>> {
        cancel.check()?;
        match self {
            Self::Resident(blocks) => Ok(Cow::Borrowed(&blocks[i])),
            Self::Offloaded { load, .. } => load(i, cancel).map(Cow::Owned),
        }
    }

    /// The results of `f` for every block, in order.
    pub(super) fn map<T>(&self, cancel: &Cancel, f: impl Fn(&B) -> Result<T>) -> Result<Vec<T>> {
        (0..self.len()).map(|i| f(&*self.get(i, cancel)?)).collect()
    }
}

impl<B> fmt::Debug for BlockStore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resident(blocks) => write!(f, "{} resident blocks", blocks.len()),
            Self::Offloaded { count, .. } => write!(f, "{count} offloaded blocks"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Error;

    #[test]
    fn offloaded_blocks_are_in_memory_one_at_a_time() {
        let alive = Arc::new(());
        let loads = Arc::new(AtomicUsize::new(0));
        let cancel = Cancel::new();
        let block_store = |offload| {
            let (alive, loads) = (alive.clone(), loads.clone());
            let load = move |i: usize, _: &Cancel| {
                loads.fetch_add(1, Ordering::Relaxed);
                Ok((i, alive.clone()))
            };
            BlockStore::new(5, offload, &cancel, load).unwrap()
        };
        let resident = block_store(false);
        let resident_count = Arc::strong_count(&alive) - 1;
        assert!(resident_count >= 5, "{resident_count}");
        assert_eq!(resident.map(&cancel, |(i, _)| Ok(*i)).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(loads.load(Ordering::Relaxed), 5);
        drop(resident);

        let offloaded = block_store(true);
        let before = Arc::strong_count(&alive);
        for _ in 0..2 {
            let counts = offloaded.map(&cancel, |_| Ok(Arc::strong_count(&alive))).unwrap();
            assert_eq!(counts, [before + 1; 5]);
        }
        assert_eq!(loads.load(Ordering::Relaxed), 5 + 10);
    }

    #[test]
    fn a_cancel_stops_loading_before_the_next_block() {
        let cancel = Cancel::new();
        let load = |i: usize, cancel: &Cancel| {
            cancel.cancel();
            Ok(i)
        };
        let offloaded = BlockStore::new(3, true, &cancel, load).unwrap();
        assert_eq!(*offloaded.get(0, &cancel).unwrap(), 0);
        assert!(matches!(offloaded.get(1, &cancel), Err(Error::Cancelled)));
        assert!(matches!(BlockStore::new(3, false, &cancel, load), Err(Error::Cancelled)));
    }
}
