//! How many threads compute.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Result};

/// Threads that compute what is run on them: models that are opened there, and sessions.
///
/// How many they are changes no frame.
#[derive(Debug, Default)]
pub struct Threads(Option<ThreadPool>);

impl Threads {
    /// So many; of 0, as many as there are cores, shared by all in the process who ask for none of their own.
    ///
    /// # Errors
    /// [`Error::Device`] if the system has no more threads.
    pub fn new(count: usize) -> Result<Self> {
        if count == 0 {
            return Ok(Self(None));
        }
        let name = |i| format!("soragen-{i}");
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(name).build();
        let pool =
            pool.map_err(|e| Error::Device(format!("there cannot be {count} threads: {e}; ask for fewer")));
        Ok(Self(Some(pool?)))
    }

    /// Runs `work` on one of them, with the help of the others.
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
    fn what_is_run_there_computes_there() {
        for count in [1, 3] {
            let threads = Threads::new(count).unwrap();
            let (computing, name) = threads
                .run(|| (rayon::current_num_threads(), std::thread::current().name().map(str::to_string)));
            assert_eq!(computing, count);
            assert!(name.unwrap().starts_with("soragen-"));
        }
        let own = std::thread::current().id();
        assert_eq!(Threads::new(0).unwrap().run(|| std::thread::current().id()), own);
    }
}
