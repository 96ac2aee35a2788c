// Frames in f32 to 8-bit video. Every product and sum is rounded as on the host, so that the bytes are the same.

struct VideoArguments {
    // f32, red, green and blue in [0, 1].
    const float* x;
    u8* out;
    // In elements.
    i64 x_frame_stride;
    i64 x_channel_stride;
    i64 x_row_stride;
    i64 x_column_stride;
    // In bytes.
    i64 out_frame_stride;
    i64 luma_offset;
    i64 blue_offset;
    i64 red_offset;
    i64 luma_pitch;
    i64 chroma_pitch;
    // Between two samples of a component of chroma.
    u32 chroma_step;
    u32 width;
    u32 height;
    u32 frames;
    // Weights of red, green and blue.
    float luma[3];
    float blue[3];
    float red[3];
    float black;
    // Weights of the row before the two of a chroma sample, and of those two; the same for columns.
    float rows[3];
    float columns[3];
};

// Truncated and clipped; 0 for NaN.
DEVICE u8 to_byte(float x) { return x >= 255.0f ? 255 : x > 0.0f ? (u8)(u32)x : 0; }

// The level of a sample, 0 to 255, rounded to the nearest.
DEVICE u8 level(float sample) { return to_byte(add(multiply(sample, 255.0f), 0.5f)); }

DEVICE float weighted(const float (&weights)[3], float a, float b, float c) {
    return add(add(multiply(weights[0], a), multiply(weights[1], b)), multiply(weights[2], c));
}

DEVICE u8 component(const float (&weights)[3], const float (&pixel)[3], float offset) {
    return to_byte(add(add(weighted(weights, pixel[0], pixel[1], pixel[2]), offset), 0.5f));
}

// Four 8-bit samples of luma and one of each chroma per thread.
DEVICE void yuv(const VideoArguments& a) {
    const u32 columns = (a.width + 1) / 2, rows = (a.height + 1) / 2;
    const i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 x = (u32)(index % columns), y = (u32)(index / columns % rows), frame = (u32)(index / columns / rows);
    if (frame >= a.frames) return;
    const float* in = a.x + frame * a.x_frame_stride;
    u8* out = a.out + frame * a.out_frame_stride;
    // The rows and columns from the one before the four pixels on; outside the picture those at its edge.
    const i64 lines[3] = {y > 0 ? 2 * y - 1 : 0, 2 * y, 2 * y + 1 < a.height ? 2 * y + 1 : a.height - 1};
    const i64 places[3] = {x > 0 ? 2 * x - 1 : 0, 2 * x, 2 * x + 1 < a.width ? 2 * x + 1 : a.width - 1};
    float pixels[3][3][3], chroma[3];
#pragma unroll
    for (u32 colour = 0; colour < 3; ++colour) {
        float sums[3];
#pragma unroll
        for (u32 j = 0; j < 3; ++j) {
#pragma unroll
            for (u32 i = 0; i < 3; ++i) {
                const i64 at = colour * a.x_channel_stride + lines[i] * a.x_row_stride + places[j] * a.x_column_stride;
                pixels[i][j][colour] = level(in[at]);
            }
            sums[j] = weighted(a.rows, pixels[0][j][colour], pixels[1][j][colour], pixels[2][j][colour]);
        }
        chroma[colour] = weighted(a.columns, sums[0], sums[1], sums[2]);
    }
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
#pragma unroll
        for (u32 j = 0; j < 2; ++j) {
            const u32 line = 2 * y + i, place = 2 * x + j;
            if (line < a.height && place < a.width) {
                out[a.luma_offset + line * a.luma_pitch + place] = component(a.luma, pixels[i + 1][j + 1], a.black);
            }
        }
    }
    const i64 at = y * a.chroma_pitch + (i64)x * a.chroma_step;
    out[a.blue_offset + at] = component(a.blue, chroma, 128.0f);
    out[a.red_offset + at] = component(a.red, chroma, 128.0f);
}

// One pixel per thread.
DEVICE void rgb(const VideoArguments& a) {
    const i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 x = (u32)(index % a.width), y = (u32)(index / a.width % a.height), frame = (u32)(index / a.width / a.height);
    if (frame >= a.frames) return;
    const float* in = a.x + frame * a.x_frame_stride + y * a.x_row_stride + x * a.x_column_stride;
    u8* out = a.out + frame * a.out_frame_stride + a.luma_offset + y * a.luma_pitch + 3 * x;
#pragma unroll
    for (u32 colour = 0; colour < 3; ++colour) out[colour] = level(in[colour * a.x_channel_stride]);
}

ENTRY(video_yuv, VideoArguments, 256, 1, yuv)
ENTRY(video_rgb, VideoArguments, 256, 1, rgb)
