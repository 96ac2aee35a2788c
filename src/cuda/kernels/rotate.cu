// Queries and keys: RMS norm over all heads together, then the rotation of the pairs (2i, 2i + 1) of each head. Both can be left
// out. One block per token; each thread keeps 16 values in registers.

struct RotateArguments {
    const void* x;
    void* out;
    // f32 [heads × head_dim]; null without norm.
    const float* weight;
    // f32 [tokens, head_dim / 2], or [tokens, heads × head_dim / 2]; null without rotation.
    const float* cosines;
    const float* sines;
    i64 x_stride;
    i64 out_token_stride;
    i64 out_head_stride;
    i64 angle_stride;
    // Between the angles of two heads; 0 if all heads have the same.
    i64 angle_head_stride;
    u32 heads;
    u32 head_dim;
    float eps;
    u32 aligned;
};

template <class T> DEVICE void rotate(const RotateArguments& a) {
    __shared__ float sums[32];
    const u32 token = blockIdx.x, dim = a.heads * a.head_dim;
    const T* x = (const T*)a.x + token * a.x_stride;
    T* out = (T*)a.out + token * a.out_token_stride;

    float values[2][8];
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        const u32 first = (part * blockDim.x + threadIdx.x) * 8;
        load_eight(values[part], x + first, (i64)dim - first, a.aligned);
    }
    if (a.weight != nullptr) {
        float sum = 0.0f;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
#pragma unroll
            for (int i = 0; i < 8; ++i) sum += values[part][i] * values[part][i];
        }
        const float factor = 1.0f / sqrtf(block_sum(sum, sums) / dim + a.eps);
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const u32 first = (part * blockDim.x + threadIdx.x) * 8;
            float weights[8];
            load_eight(weights, a.weight + first, (i64)dim - first, a.aligned);
#pragma unroll
            for (int i = 0; i < 8; ++i) values[part][i] = values[part][i] * factor * weights[i];
        }
    }
    const float* cosines = a.cosines + token * a.angle_stride;
    const float* sines = a.sines + token * a.angle_stride;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        const u32 first = (part * blockDim.x + threadIdx.x) * 8;
        if (first >= dim) continue;
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            // If aligned, the eight values are of one head, and the divisions are made once.
            const u32 at = a.aligned ? first : first + i, within = a.aligned ? i : 0;
            const u32 head = at / a.head_dim, channel = at % a.head_dim + within;
            if (a.cosines != nullptr && first + i < dim) {
                const i64 pair = head * a.angle_head_stride + channel / 2;
                const float c = cosines[pair], s = sines[pair];
                const float even = values[part][i], odd = values[part][i + 1];
                values[part][i] = even * c - odd * s;
                values[part][i + 1] = even * s + odd * c;
            }
            if (!a.aligned && first + i < dim) {
                T* to = out + head * a.out_head_stride + channel;
                store(to, values[part][i]);
                store(to + 1, values[part][i + 1]);
            }
        }
        if (a.aligned) pack(out + first / a.head_dim * a.out_head_stride + first % a.head_dim, values[part]);
    }
}

ENTRY(rotate_f32, RotateArguments, 1024, 1, rotate<float>)
ENTRY(rotate_bf16, RotateArguments, 1024, 1, rotate<bf16>)
ENTRY(rotate_f16, RotateArguments, 1024, 1, rotate<f16>)
