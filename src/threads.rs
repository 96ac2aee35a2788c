//! The thread pool for computations.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Result};

/// A thread pool. Models that are opened and sessions that run on it use its threads.
///
/// The output does not depend on the number of threads.
#[derive(Debug, Default)]
pub struct Threads {
    pool: Option<ThreadPool>,
    warning: Option<String>,
}

impl Threads {
    /// A pool of `count` threads, but not more than the process has CPUs; see [`warning`](Self::warning). With 0, the global pool
    /// of the process, with one thread per core.
    ///
    /// # Errors
    /// [`Error::Device`] if the system cannot spawn the threads.
    pub fn new(count: usize) -> Result<Self> {
        Self::named("soragen", count)
    }

    /// As [`new`](Self::new), for other work: the names of the threads begin with `name`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn named(name: &str, count: usize) -> Result<Self> {
        // Without a number the system decides.
        Self::capped(name, count, std::thread::available_parallelism().map_or(usize::MAX, usize::from))
    }

    fn capped(name: &str, count: usize, cpus: usize) -> Result<Self> {
        if count == 0 {
            return Ok(Self::default());
        }
        let warning = (count > cpus)
            .then(|| format!("{count} threads are more than the {cpus} CPUs here; {cpus} threads are used"));
        let count = count.min(cpus);
        let name = name.to_string();
        let name = move |i| format!("{name}-{i}");
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(name).build();
        let pool =
            pool.map_err(|e| Error::Device(format!("cannot spawn {count} threads: {e}; request fewer")));
        Ok(Self { pool: Some(pool?), warning })
    }

    /// For the user: more threads were requested than there are CPUs. They would only wait for each other.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Runs `work` on the pool. Parallel operations inside `work` use its threads.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
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
            let threads = Threads::capped("soragen", count, 4).unwrap();
            assert_eq!(threads.warning(), None);
            let (threads_in_use, name) = threads
                .run(|| (rayon::current_num_threads(), std::thread::current().name().map(str::to_string)));
            assert_eq!(threads_in_use, count);
            assert!(name.unwrap().starts_with("soragen-"));
        }
        let caller = std::thread::current().id();
        assert_eq!(Threads::new(0).unwrap().run(|| std::thread::current().id()), caller);
    }

    #[test]
    fn there_are_not_more_threads_than_cpus() {
        let threads = Threads::capped("soragen", 1000, 2).unwrap();
        assert_eq!(threads.run(rayon::current_num_threads), 2);
        let warning = threads.warning().unwrap();
        assert!(warning.contains("1000 threads") && warning.contains("2 CPUs"), "{warning}");
        let cpus = std::thread::available_parallelism().unwrap().get();
        let threads = Threads::new(cpus + 1).unwrap();
        assert_eq!(threads.run(rayon::current_num_threads), cpus);
        assert!(threads.warning().is_some() && Threads::new(cpus).unwrap().warning().is_none());
    }
}
