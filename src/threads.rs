//! The thread pool for computations.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Result};

/// A thread pool. Models that are opened and sessions that run on it use its threads.
///
/// The output does not depend on the number of threads.
#[derive(Debug, Default)]
pub struct Threads(Option<ThreadPool>);

impl Threads {
    /// A pool of `count` threads. With 0, the global pool of the process, with one thread per core.
    ///
    /// # Errors
    /// [`Error::Device`] if the system cannot spawn the threads.
    pub fn new(count: usize) -> Result<Self> {
        if count == 0 {
            return Ok(Self(None));
        }
        let name = |i| format!("soragen-{i}");
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(name).build();
        let pool =
            pool.map_err(|e| Error::Device(format!("cannot spawn {count} threads: {e}; request fewer")));
        Ok(Self(Some(pool?)))
    }

    /// Runs `work` on the pool. Parallel operations inside `work` use its threads.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_the_threads_of_the_pool() {
        for count in [1, 3] {
            let threads = Threads::new(count).unwrap();
            let (threads_in_use, name) = threads
                .run(|| (rayon::current_num_threads(), std::thread::current().name().map(str::to_string)));
            assert_eq!(threads_in_use, count);
            assert!(name.unwrap().starts_with("soragen-"));
        }
        let caller = std::thread::current().id();
        assert_eq!(Threads::new(0).unwrap().run(|| std::thread::current().id()), caller);
    }
}
