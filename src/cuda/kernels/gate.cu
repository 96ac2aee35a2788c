// x + (change + bias) × gate: the residual connection of a block. Each thread computes eight values.

struct GateArguments {
    const void* x;
    const void* change;
    void* out;
    // f32 rows; null for 1.
    const float* gate;
    // Of the linear layer that computed `change`, in its type; null for 0.
    const void* bias;
    i64 gate_stride;
    // Tokens per row of `gate`.
    u32 group;
    u32 tokens;
    u32 dim;
    u32 aligned;
};

template <class X, class Change> DEVICE void gate(const GateArguments& a) {
    const u32 parts = (a.dim + 7) / 8;
    const i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 token = (u32)(index / parts), first = (u32)(index % parts) * 8;
    if (token >= a.tokens) return;
    const i64 at = (i64)token * a.dim + first, count = (i64)a.dim - first;
    float values[8], changes[8];
    load_eight(values, (const X*)a.x + at, count, a.aligned);
    load_eight(changes, (const Change*)a.change + at, count, a.aligned);
    if (a.bias != nullptr) {
        float bias[8];
        load_eight(bias, (const Change*)a.bias + first, count, a.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) changes[i] += bias[i];
    }
    if (a.gate != nullptr) {
        float gates[8];
        load_eight(gates, a.gate + token / a.group * a.gate_stride + first, count, a.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) changes[i] *= gates[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] += changes[i];
    store_eight((X*)a.out + at, values, count, a.aligned);
}

ENTRY(gate_f32_f32, GateArguments, 256, 1, gate<float, float>)
ENTRY(gate_f32_bf16, GateArguments, 256, 1, gate<float, bf16>)
ENTRY(gate_f32_f16, GateArguments, 256, 1, gate<float, f16>)
ENTRY(gate_bf16_bf16, GateArguments, 256, 1, gate<bf16, bf16>)
ENTRY(gate_f16_f16, GateArguments, 256, 1, gate<f16, f16>)
