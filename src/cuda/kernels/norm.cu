// Layer norm over the last dimension, then a factor and a term per channel, which groups of tokens share. One block per token;
// each thread keeps 16 values in registers.

struct NormArguments {
    const void* x;
    void* out;
    // f32 rows.
    const float* scale;
    const float* shift;
    i64 x_stride;
    i64 scale_stride;
    i64 shift_stride;
    // Tokens per row of `scale` and `shift`.
    u32 group;
    u32 dim;
    float eps;
    // Is added to the scale.
    float offset;
    u32 aligned;
};

template <class In, class Out> DEVICE void norm(const NormArguments& a) {
    __shared__ float sums[2][32];
    const u32 token = blockIdx.x, row = token / a.group;
    const In* x = (const In*)a.x + token * a.x_stride;
    Out* out = (Out*)a.out + (i64)token * a.dim;
    const float* scale = a.scale + row * a.scale_stride;
    const float* shift = a.shift + row * a.shift_stride;

    float values[2][8], sum = 0.0f;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        const u32 first = (part * blockDim.x + threadIdx.x) * 8;
        load_eight(values[part], x + first, (i64)a.dim - first, a.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += values[part][i];
    }
    const float mean = block_sum(sum, sums[0]) / a.dim;
    float squares = 0.0f;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        const u32 first = (part * blockDim.x + threadIdx.x) * 8;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            values[part][i] -= mean;
            if (first + i < a.dim) squares += values[part][i] * values[part][i];
        }
    }
    const float factor = 1.0f / sqrtf(block_sum(squares, sums[1]) / a.dim + a.eps);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        const u32 first = (part * blockDim.x + threadIdx.x) * 8;
        const i64 count = (i64)a.dim - first;
        float scales[8], shifts[8];
        load_eight(scales, scale + first, count, a.aligned);
        load_eight(shifts, shift + first, count, a.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            values[part][i] = values[part][i] * factor * (a.offset + scales[i]) + shifts[i];
        }
        store_eight(out + first, values[part], count, a.aligned);
    }
}

ENTRY(norm_f32_f32, NormArguments, 1024, 1, norm<float, float>)
ENTRY(norm_f32_bf16, NormArguments, 1024, 1, norm<float, bf16>)
ENTRY(norm_f32_f16, NormArguments, 1024, 1, norm<float, f16>)
ENTRY(norm_bf16_bf16, NormArguments, 1024, 1, norm<bf16, bf16>)
ENTRY(norm_f16_f16, NormArguments, 1024, 1, norm<f16, f16>)
