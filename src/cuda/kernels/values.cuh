// Values of 16 and 32 bits, eight at a time, and sums over a block.

struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return bits_to_float((u32)x.bits << 16); }
DEVICE float to_float(f16 x) { return f16_to_float(x.bits); }

DEVICE void store(float* to, float x) { *to = x; }
DEVICE void store(bf16* to, float x) { to->bits = float_to_bf16(x); }
DEVICE void store(f16* to, float x) { to->bits = float_to_f16(x); }

struct alignas(16) Sixteen {
    u32 at[4];
};

DEVICE void unpack(float (&to)[8], const bf16* from) {
    const Sixteen bits = *(const Sixteen*)from;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        to[2 * i] = bits_to_float(bits.at[i] << 16);
        to[2 * i + 1] = bits_to_float(bits.at[i] & 0xffff0000u);
    }
}

DEVICE void unpack(float (&to)[8], const f16* from) {
    const Sixteen bits = *(const Sixteen*)from;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        to[2 * i] = f16_to_float((u16)bits.at[i]);
        to[2 * i + 1] = f16_to_float((u16)(bits.at[i] >> 16));
    }
}

DEVICE void unpack(float (&to)[8], const float* from) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Sixteen bits = ((const Sixteen*)from)[half];
#pragma unroll
        for (int i = 0; i < 4; ++i) to[4 * half + i] = bits_to_float(bits.at[i]);
    }
}

DEVICE void pack(bf16* to, const float (&from)[8]) {
    Sixteen bits;
#pragma unroll
    for (int i = 0; i < 4; ++i) bits.at[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
    *(Sixteen*)to = bits;
}

DEVICE void pack(f16* to, const float (&from)[8]) {
    Sixteen bits;
#pragma unroll
    for (int i = 0; i < 4; ++i) bits.at[i] = pack_f16(from[2 * i], from[2 * i + 1]);
    *(Sixteen*)to = bits;
}

DEVICE void pack(float* to, const float (&from)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float4 four = {from[4 * half], from[4 * half + 1], from[4 * half + 2], from[4 * half + 3]};
        ((float4*)to)[half] = four;
    }
}

// Loads up to eight values; those from `count` on are zeros. `aligned`: the address is a multiple of 16, and `count` of 8.
template <class T> DEVICE void load_eight(float (&to)[8], const T* from, i64 count, bool aligned) {
    if (aligned && count > 0) {
        unpack(to, from);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = i < count ? to_float(from[i]) : 0.0f;
}

// Stores the first `count` of eight values.
template <class T> DEVICE void store_eight(T* to, const float (&from)[8], i64 count, bool aligned) {
    if (aligned && count > 0) {
        pack(to, from);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (i < count) store(to + i, from[i]);
    }
}

// The sum of `x` over the threads of the block, a multiple of 32. `partial` has room for one float per warp, and each call its own.
DEVICE float block_sum(float x, float* partial) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    block_barrier();
    float sum = 0.0f;
    for (u32 warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    return sum;
}
