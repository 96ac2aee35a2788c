// GELU with the tanh approximation, of a linear layer's output and bias. Each thread computes eight values.

struct GeluArguments {
    const void* x;
    void* out;
    // [dim], in the type of `x`; null for 0.
    const void* bias;
    i64 rows;
    u32 dim;
    u32 aligned;
};

template <class T> DEVICE void gelu(const GeluArguments& a) {
    const u32 parts = (a.dim + 7) / 8;
    const i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = index / parts;
    const u32 first = (u32)(index - row * parts) * 8;
    if (row >= a.rows) return;
    const i64 at = row * a.dim + first, count = (i64)a.dim - first;
    float values[8];
    load_eight(values, (const T*)a.x + at, count, a.aligned);
    if (a.bias != nullptr) {
        float bias[8];
        load_eight(bias, (const T*)a.bias + first, count, a.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] += bias[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        // (1 + tanh u) / 2 = 1 / (1 + e^-2u), with u = √(2/π) (x + 0.044715 x³).
        const float x = values[i], u2 = 1.5957691216f * (x + 0.044715f * x * x * x);
        values[i] = x / (1.0f + expf(-u2));
    }
    store_eight((T*)a.out + at, values, count, a.aligned);
}

ENTRY(gelu_f32, GeluArguments, 256, 1, gelu<float>)
ENTRY(gelu_bf16, GeluArguments, 256, 1, gelu<bf16>)
ENTRY(gelu_f16, GeluArguments, 256, 1, gelu<f16>)
