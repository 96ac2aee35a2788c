// SPDX-License-Identifier: MPL-2.0

//! A value that threads change, and wait for. A thread that panics does not poison it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Default)]
pub struct Monitor<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value, and wakes the threads that wait.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.notify();
        result
    }

    /// Wakes the threads that wait, after a change by [`lock`](Self::lock).
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change.
    pub fn wait<'a>(&self, value: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.changed.wait(value).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `condition` holds; `None` if it still holds after `timeout`.
    pub fn wait_while<'a>(
        &self,
        value: MutexGuard<'a, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Option<MutexGuard<'a, T>> {
        let (value, waited) = self
            .changed
            .wait_timeout_while(value, timeout, condition)
            .unwrap_or_else(PoisonError::into_inner);
        (!waited.timed_out()).then_some(value)
    }
}
