//! The CUDA context of a device, for programs that share the memory of its frames.

/// The CUDA context in which all models of a GPU compute: its primary context.
#[derive(Clone, Debug)]
pub struct GpuContext {
    handle: usize,
    device: i32,
    /// Keeps the context.
    #[cfg(feature = "cuda")]
    _context: Option<std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaContext>>,
}

impl GpuContext {
    /// The context of `device`, as in [`OpenOptions::device`](crate::OpenOptions::device); `None` for a device that is no NVIDIA GPU.
    pub fn open(device: &str) -> Option<Self> {
        #[cfg(feature = "testing")]
        if let Some(gpu) = crate::testing::gpu() {
            return Some(Self {
                handle: gpu.handle,
                device: gpu.device,
                #[cfg(feature = "cuda")]
                _context: None,
            });
        }
        let ordinal = match device {
            "auto" | "cuda" => 0,
            _ => device.strip_prefix("cuda:")?.parse().ok()?,
        };
        Self::of_gpu(ordinal)
    }

    #[cfg(feature = "cuda")]
    fn of_gpu(ordinal: usize) -> Option<Self> {
        let context = crate::cuda::context(ordinal).ok()?;
        Some(Self { handle: context.cu_ctx() as usize, device: context.cu_device(), _context: Some(context) })
    }

    #[cfg(not(feature = "cuda"))]
    fn of_gpu(_: usize) -> Option<Self> {
        None
    }

    /// The `CUcontext`.
    pub fn handle(&self) -> usize {
        self.handle
    }

    /// The `CUdevice`.
    pub fn device(&self) -> i32 {
        self.device
    }
}
