//! Hooks for tests: slow or failing models.
//!
//! A hook belongs to the folder of a model. The engine calls it at every [`Event`], and the hook may wait or return an error.
//! A test decides so how long a step takes and which step fails. Without the feature `testing` the calls are empty.

/// A place in the engine where a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Before a tensor of the weights is loaded.
    Load,
    /// Before a text encoder encodes a prompt.
    Encode,
    /// Before a denoising step.
    Step {
        /// Number of the chunk in its scene, from 0.
        chunk: usize,
        /// Number of the step in its chunk, from 0.
        step: usize,
    },
    /// Before the latents of a chunk are decoded.
    Decode {
        /// Number of the chunk in the video, from 0.
        chunk: usize,
    },
}

/// Calls the hook of the model at `source`, if there is one.
#[cfg(not(feature = "testing"))]
#[inline]
pub(crate) fn call(_: &crate::checkpoint::Source, _: Event, _: &crate::Cancel) -> crate::Result<()> {
    Ok(())
}

#[cfg(feature = "testing")]
pub(crate) use hooks::call;
#[cfg(feature = "testing")]
pub use hooks::{FakeGpu, HookGuard, failing, gpu, set_gpu, set_hook, slow, wait};

#[cfg(feature = "testing")]
mod hooks {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use once_cell::sync::Lazy;

    use super::Event;
    use crate::checkpoint::Source;
    use crate::{Cancel, Error, Result};

    type Hook = Arc<dyn Fn(Event, &Cancel) -> Result<()> + Send + Sync>;

    static HOOKS: Lazy<Mutex<HashMap<PathBuf, Hook>>> = Lazy::new(Mutex::default);

    /// A GPU in place of the one that a device has.
    #[derive(Clone, Copy, Debug)]
    pub struct FakeGpu {
        /// The `CUcontext`.
        pub handle: usize,
        /// The `CUdevice`.
        pub device: i32,
        /// Frames in the memory of the process count as frames in that of the GPU.
        pub owns_host_memory: bool,
    }

    static GPU: Mutex<Option<FakeGpu>> = Mutex::new(None);

    /// Has every device show `gpu` to programs that share frames. Models compute where they did before.
    pub fn set_gpu(gpu: FakeGpu) {
        *GPU.lock().unwrap_or_else(PoisonError::into_inner) = Some(gpu);
    }

    /// The GPU of [`set_gpu`].
    pub fn gpu() -> Option<FakeGpu> {
        *GPU.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes its hook when it is dropped.
    #[derive(Debug)]
    #[must_use = "the hook is removed when this is dropped"]
    pub struct HookGuard(PathBuf);

    impl Drop for HookGuard {
        fn drop(&mut self) {
            HOOKS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        }
    }

    /// Calls `hook` at every event of models in `folder`, which exists. There is one hook per folder: a test copies
    /// the model.
    pub fn set_hook(
        folder: &Path,
        hook: impl Fn(Event, &Cancel) -> Result<()> + Send + Sync + 'static,
    ) -> HookGuard {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
        HOOKS.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone(), Arc::new(hook));
        HookGuard(folder)
    }

    /// Every denoising step of models in `folder` takes `delay` longer. `pause` waits, and returns early after a cancel: use
    /// [`wait`] for the wall clock, or a wait on a test clock if the test depends on time.
    pub fn slow(
        folder: &Path,
        delay: Duration,
        pause: impl Fn(Duration, &Cancel) + Send + Sync + 'static,
    ) -> HookGuard {
        set_hook(folder, move |event, cancel| {
            if let Event::Step { .. } = event {
                pause(delay, cancel);
            }
            cancel.check()
        })
    }

    /// Models in `folder` generate `chunks` chunks of a scene, and then fail.
    pub fn failing(folder: &Path, chunks: usize) -> HookGuard {
        set_hook(folder, move |event, _| match event {
            Event::Step { chunk, .. } if chunk >= chunks => {
                Err(Error::Generation(format!("injected fault after {chunks} chunks")))
            }
            _ => Ok(()),
        })
    }

    pub(crate) fn call(source: &Source, event: Event, cancel: &Cancel) -> Result<()> {
        let Some(folder) = source.folder() else { return Ok(()) };
        let hook = HOOKS.lock().unwrap_or_else(PoisonError::into_inner).get(folder).cloned();
        hook.map_or(Ok(()), |hook| hook(event, cancel))
    }

    /// Waits on the wall clock until `delay` has passed or `cancel` is set.
    pub fn wait(delay: Duration, cancel: &Cancel) {
        let end = Instant::now() + delay;
        while !cancel.is_cancelled() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(1)));
        }
    }
}
