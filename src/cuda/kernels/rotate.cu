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

// Rotates a pair.
DEVICE void turn(float& even, float& odd, float cosine, float sine) {
    const float x = even, y = odd;
    even = x * cosine - y * sine;
    odd = x * sine + y * cosine;
}

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
        if (a.aligned) {
            // The eight values are of one head.
            const u32 head = first / a.head_dim, channel = first % a.head_dim;
            if (a.cosines != nullptr) {
                const i64 pair = head * a.angle_head_stride + channel / 2;
                const float4 c = *(const float4*)(cosines + pair), s = *(const float4*)(sines + pair);
                turn(values[part][0], values[part][1], c.x, s.x);
                turn(values[part][2], values[part][3], c.y, s.y);
                turn(values[part][4], values[part][5], c.z, s.z);
                turn(values[part][6], values[part][7], c.w, s.w);
            }
            pack(out + head * a.out_head_stride + channel, values[part]);
            continue;
        }
#pragma unroll
        for (u32 i = 0; i < 8; i += 2) {
            if (first + i >= dim) continue;
            const u32 head = (first + i) / a.head_dim, channel = (first + i) % a.head_dim;
            if (a.cosines != nullptr) {
                const i64 pair = head * a.angle_head_stride + channel / 2;
                turn(values[part][i], values[part][i + 1], cosines[pair], sines[pair]);
            }
            T* to = out + head * a.out_head_stride + channel;
            store(to, values[part][i]);
            store(to + 1, values[part][i + 1]);
        }
    }
}

ENTRY(rotate_f32, RotateArguments, 1024, 1, rotate<float>)
ENTRY(rotate_bf16, RotateArguments, 1024, 1, rotate<bf16>)
ENTRY(rotate_f16, RotateArguments, 1024, 1, rotate<f16>)
