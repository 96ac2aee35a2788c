// SPDX-License-Identifier: MPL-2.0

//! Frames that stay on the GPU: when they may, the context they are in, and the buffers they are copied into.

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_video::VideoInfo;
use soragen::{Nv12Frame, Sizes};

use super::caps;
use super::imp::{CAT, SoraGen, lock};
use crate::video::cuda::{CONTEXT_TYPE, CudaContext, FrameCopier, is_cuda_pool, new_pool};

/// What the element has of the GPU.
#[derive(Default)]
pub struct CudaState {
    /// The device of the property, and the context in which models compute there.
    own: Option<(String, Option<CudaContext>)>,
    copier: Option<FrameCopier>,
}

impl CudaState {
    /// The context of `device`; `None` if frames cannot be shared there.
    fn own(&mut self, device: String) -> Option<CudaContext> {
        if self.own.as_ref().is_none_or(|(opened, _)| *opened != device) {
            let context = CudaContext::of_device(&device);
            *self = Self { own: Some((device, context)), copier: None };
        }
        self.own.as_ref()?.1.clone()
    }
}

impl SoraGen {
    fn own_context(&self) -> Option<CudaContext> {
        let device = lock(&self.settings).device.clone();
        lock(&self.cuda).own(device)
    }

    /// The context to share with other elements: the one that was set on this element, or its own.
    fn shared_context(&self) -> Option<CudaContext> {
        let own = self.own_context()?;
        let element = self.obj();
        let set = element.context(CONTEXT_TYPE);
        Some(set.and_then(|context| CudaContext::of_gst(element.upcast_ref(), &context)).unwrap_or(own))
    }

    /// Whether frames can stay on the GPU. A live source marks a frame when it is shown; the GPU may be busy with the next chunk then,
    /// so such frames are in system memory, and so is a slate.
    fn can_share_gpu(&self) -> bool {
        let needs_system_memory = {
            let settings = lock(&self.settings);
            let has_slate = !matches!(&*settings.slate, "" | "none");
            settings.is_live && (settings.watermark || has_slate)
        };
        !needs_system_memory && self.own_context().is_some()
    }

    /// The caps that a model with these sizes can output, in any memory.
    pub(super) fn caps_of_sizes(&self, sizes: &Sizes) -> gst::Caps {
        let mut possible = caps::of_sizes(sizes);
        if self.can_share_gpu() {
            possible.merge(caps::of_sizes_in_cuda(sizes));
        }
        possible
    }

    /// Leaves those of `caps` that are on the GPU, if downstream names its memory. An element that takes anything may not expect it.
    pub(super) fn choose_memory(&self, caps: gst::Caps) -> gst::Caps {
        if !caps::has_gpu(&caps) {
            return caps;
        }
        let wanted = self.obj().src_pad().peer_query_caps(None);
        caps::choose_memory(caps, !wanted.is_any() && caps::has_gpu(&wanted))
    }

    /// Answers a query for a context of the GPU.
    pub(super) fn answer_context(&self, query: &mut gst::QueryRef) -> bool {
        let element = self.obj();
        self.shared_context().is_some_and(|context| context.answer(element.upcast_ref(), query))
    }

    /// Puts a pool of buffers on the GPU in the first place of `query`, unless downstream has proposed one.
    pub(super) fn decide_cuda_pool(
        &self,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        let failed = |reason: &str| gst::loggable_error!(CAT, "no buffers on the GPU: {reason}");
        let context = self.shared_context().ok_or_else(|| failed("there is no context"))?;
        let caps = query.get_owned().0.ok_or_else(|| failed("the format is not known"))?;
        let video = VideoInfo::from_caps(&caps).map_err(|e| failed(&e.to_string()))?;
        let size = u32::try_from(video.size()).unwrap_or(u32::MAX);
        let proposed = query.allocation_pools().next();
        let is_first = proposed.is_none();
        let usable = proposed.and_then(|(pool, _, min, max)| {
            let pool = pool.filter(|pool| is_cuda_pool(&context, pool))?;
            configure(&pool, &caps, size, (min, max)).ok()?;
            Some((pool, min, max))
        });
        let (pool, min, max) = match usable {
            Some(usable) => usable,
            None => {
                let pool = new_pool(&context).ok_or_else(|| failed("the library has no pool"))?;
                configure(&pool, &caps, size, (0, 0)).map_err(|e| failed(&e.to_string()))?;
                (pool, 0, 0)
            }
        };
        // Rows on the GPU are longer.
        let size = pool.config().params().map_or(size, |(_, size, ..)| size);
        if is_first {
            query.add_allocation_pool(Some(&pool), size, min, max);
        } else {
            query.set_nth_allocation_pool(0, Some(&pool), size, min, max);
        }
        Ok(())
    }

    /// Copies `frame` into a buffer of that pool.
    pub(super) fn copy_to_gpu(
        &self,
        frame: &Nv12Frame,
        buffer: &mut gst::BufferRef,
    ) -> Result<(), glib::BoolError> {
        let device = lock(&self.settings).device.clone();
        let mut cuda = lock(&self.cuda);
        let context = cuda.own(device).ok_or_else(|| glib::bool_error!("there is no GPU"))?;
        let copier = match &mut cuda.copier {
            Some(copier) => copier,
            none => none.insert(FrameCopier::new(context)?),
        };
        copier.copy(frame, buffer)
    }
}

/// Has `pool` make buffers that say where their planes are.
fn configure(
    pool: &gst::BufferPool,
    caps: &gst::Caps,
    size: u32,
    (min, max): (u32, u32),
) -> Result<(), glib::BoolError> {
    let mut config = pool.config();
    config.set_params(Some(caps), size, min, max);
    config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
    pool.set_config(config)
}
