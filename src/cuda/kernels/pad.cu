// The padded input of a causal convolution over frames: frames of zeros, the frames kept from the chunk before, the new frames, each
// with zeros around it. A warp copies a row.

struct PadArguments {
    // [frames, channels, height, width].
    const void* before;
    const void* x;
    void* out;
    // In elements.
    i64 out_frame_stride;
    i64 out_channel_stride;
    // The first frames of the result are zeros, the next ones are from `before`, the rest from `x`.
    u32 zeros;
    u32 kept;
    // The first frame that is read of `before`.
    u32 first;
    u32 frames;
    u32 channels;
    u32 height;
    u32 width;
    // Rows and columns of zeros before the picture.
    u32 top;
    u32 left;
    u32 out_height;
    u32 out_width;
    u32 unused;
};

template <class T> DEVICE void pad(const PadArguments& a) {
    const i64 index = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const u32 row = (u32)(index % a.out_height), plane = (u32)(index / a.out_height);
    const u32 channel = plane % a.channels, frame = plane / a.channels;
    if (frame >= a.frames) return;
    T* out = (T*)a.out + frame * a.out_frame_stride + channel * a.out_channel_stride + (i64)row * a.out_width;
    // Wraps to a large number above the picture.
    const u32 line = row - a.top;
    const T* from = nullptr;
    if (frame >= a.zeros && line < a.height) {
        const bool kept = frame < a.zeros + a.kept;
        const i64 source = kept ? a.first + frame - a.zeros : frame - a.zeros - a.kept;
        from = (const T*)(kept ? a.before : a.x) + ((source * a.channels + channel) * a.height + line) * a.width;
    }
    for (u32 column = threadIdx.x % 32; column < a.out_width; column += 32) {
        const u32 at = column - a.left;
        out[column] = from != nullptr && at < a.width ? from[at] : (T)0;
    }
}

ENTRY(pad_16, PadArguments, 256, 1, pad<u16>)
ENTRY(pad_32, PadArguments, 256, 1, pad<u32>)
