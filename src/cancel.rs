//! Cancels a computation that runs on another thread.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Error, Result};

/// A flag that the caller shares with a computation. Clones are the same flag.
///
/// The engine checks it between tensors while it loads, and between transformer blocks and decoder layers while it computes.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the computation. It cannot be undone. A new computation takes a new flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the computation is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`Error::Cancelled`] if the computation is cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// A mutex for long work: a thread that waits for it can be cancelled.
#[derive(Debug, Default)]
pub(crate) struct CancellableMutex<T> {
    value: Mutex<T>,
    /// Whether a guard exists.
    held: Mutex<bool>,
    released: Condvar,
}

/// Access to the value, until it is dropped.
pub(crate) struct CancellableGuard<'a, T> {
    value: Option<MutexGuard<'a, T>>,
    mutex: &'a CancellableMutex<T>,
}

impl<T> CancellableMutex<T> {
    /// How late a waiting thread notices a cancel.
    const POLL: Duration = Duration::from_millis(5);

    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), held: Mutex::default(), released: Condvar::new() }
    }

    /// Waits until no other thread has the value.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn lock(&self, cancel: &Cancel) -> Result<CancellableGuard<'_, T>> {
        let mut held = self.held();
        while *held {
            cancel.check()?;
            held = self.released.wait_timeout(held, Self::POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *held = true;
        drop(held);
        Ok(self.guard())
    }

    /// The value, if no other thread has it.
    pub fn try_lock(&self) -> Option<CancellableGuard<'_, T>> {
        if std::mem::replace(&mut *self.held(), true) { None } else { Some(self.guard()) }
    }

    fn held(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard(&self) -> CancellableGuard<'_, T> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        CancellableGuard { value: Some(value), mutex: self }
    }
}

impl<T> Deref for CancellableGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().unwrap_or_else(|| unreachable!("only drop removes the value"))
    }
}

impl<T> DerefMut for CancellableGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().unwrap_or_else(|| unreachable!("only drop removes the value"))
    }
}

impl<T> Drop for CancellableGuard<'_, T> {
    fn drop(&mut self) {
        // The next thread finds the value free.
        self.value = None;
        *self.mutex.held() = false;
        self.mutex.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_flag() {
        let (one, other) = (Cancel::new(), Cancel::new());
        let clone = one.clone();
        assert!(clone.check().is_ok());
        one.cancel();
        assert!(matches!(clone.check(), Err(Error::Cancelled)));
        assert!(!other.is_cancelled());
    }

    #[test]
    fn a_thread_that_waits_for_a_mutex_can_be_cancelled() {
        let mutex = CancellableMutex::new(1);
        let (held, cancel) = (mutex.lock(&Cancel::new()).unwrap(), Cancel::new());
        assert!(mutex.try_lock().is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| mutex.lock(&cancel).map(|value| *value));
            cancel.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
            let waiting = scope.spawn(|| mutex.lock(&Cancel::new()).map(|value| *value));
            drop(held);
            assert_eq!(waiting.join().unwrap().unwrap(), 1);
        });
        assert!(mutex.try_lock().is_some());
    }
}
