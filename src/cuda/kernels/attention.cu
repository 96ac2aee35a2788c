// Scaled dot-product attention without a mask, which keeps no scores in memory (FlashAttention 2,
// <https://arxiv.org/abs/2307.08691>). A block of 8 warps computes 128 queries of one head, each warp 16 of them, and passes over
// the keys and values in tiles of 64. While it computes with one tile, the next is copied to shared memory.
//
// The softmax is in f32. The weights are rounded to the type of the values, as in the product of matrices that they replace.

struct AttentionArguments {
    const void* query;
    const void* key;
    const void* value;
    void* out;
    // In elements. The channels of a head are adjacent.
    i64 query_token_stride;
    i64 query_head_stride;
    i64 key_token_stride;
    i64 key_head_stride;
    i64 value_token_stride;
    i64 value_head_stride;
    i64 out_token_stride;
    i64 out_head_stride;
    u32 queries;
    u32 keys;
    // log2(e) / √head_dim.
    float scale;
    u32 unused;
};

constexpr u32 QUERIES = 128, KEYS = 64, THREADS = 256;

DEVICE void mma(bf16, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_bf16(c, a, b0, b1); }
DEVICE void mma(f16, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_f16(c, a, b0, b1); }
DEVICE u32 pack_two(bf16, float low, float high) { return pack_bf16(low, high); }
DEVICE u32 pack_two(f16, float low, float high) { return pack_f16(low, high); }

// The byte offset of 8 channels of a row in a tile. The order of the chunks in a row depends on the row, so that no two of the
// 8 rows that `ldmatrix` reads are in the same memory bank.
template <int dim> DEVICE u32 place(u32 row, u32 chunk) { return row * (2 * dim) + (chunk ^ (row & 7)) * 16; }

// Starts to copy the rows from `first` on of a head to a tile. Beyond the last row it copies the first one, whose scores are masked.
template <class T, int dim, int rows> DEVICE void copy_tile(u32 to, const T* from, i64 stride, u32 first, u32 count) {
    constexpr u32 chunks = dim / 8, step = THREADS / chunks;
    const u32 thread = opaque(threadIdx.x), chunk = thread % chunks, begin = thread / chunks;
#pragma unroll
    for (u32 i = 0; i < rows / step; ++i) {
        const u32 row = begin + i * step, token = first + row;
        copy_async(to + place<dim>(row, chunk), from + (token < count ? token : 0) * stride + chunk * 8);
    }
}

template <class T, int dim> DEVICE void attention(const AttentionArguments& a) {
    constexpr u32 tile_bytes = KEYS * dim * 2, steps = dim / 16;
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory), head = blockIdx.y, first = blockIdx.x * QUERIES;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const T* keys = (const T*)a.key + head * a.key_head_stride;
    const T* values = (const T*)a.value + head * a.value_head_stride;
    // Two stages of a tile of keys and one of values. The queries pass through the second stage.
    const u32 second = shared + 2 * tile_bytes;
    copy_tile<T, dim, QUERIES>(second, (const T*)a.query + head * a.query_head_stride, a.query_token_stride, first, a.queries);
    copy_commit();
    copy_tile<T, dim, KEYS>(shared, keys, a.key_token_stride, 0, a.keys);
    copy_tile<T, dim, KEYS>(shared + tile_bytes, values, a.value_token_stride, 0, a.keys);
    copy_commit();
    copy_wait<1>();
    block_barrier();
    u32 query[steps][4];
#pragma unroll
    for (u32 step = 0; step < steps; ++step) {
        ldmatrix(query[step], second + place<dim>(warp * 16 + lane % 16, 2 * step + lane / 16));
    }

    // Where this lane's rows for `ldmatrix` are in a tile. The chunk two further on is at the offset with other bits: ^ 32.
    const u32 key_place = place<dim>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const u32 value_place = place<dim>(lane / 8 % 2 * 8 + lane % 8, lane / 16);

    float out[dim / 8][4];
#pragma unroll
    for (u32 i = 0; i < dim / 8; ++i) {
#pragma unroll
        for (u32 j = 0; j < 4; ++j) out[i][j] = 0.0f;
    }
    // Of rows lane / 4 and lane / 4 + 8: the highest score so far, and the sum of this thread's weights.
    float highest[2] = {bits_to_float(0xff800000u), bits_to_float(0xff800000u)}, sum[2] = {0.0f, 0.0f};

#pragma unroll 1
    for (u32 begin = 0; begin < a.keys; begin += KEYS) {
        copy_wait<0>();
        // The tile is there for all, and all have finished with the one before, or with the queries.
        block_barrier();
        const u32 stage = begin / KEYS % 2 * 2 * tile_bytes;
        const u32 tile_keys = shared + stage;
        const u32 tile_values = tile_keys + tile_bytes;
        if (begin + KEYS < a.keys) {
            const u32 next = shared + (stage ^ 2 * tile_bytes);
            copy_tile<T, dim, KEYS>(next, keys, a.key_token_stride, begin + KEYS, a.keys);
            copy_tile<T, dim, KEYS>(next + tile_bytes, values, a.value_token_stride, begin + KEYS, a.keys);
            copy_commit();
        }

        float scores[KEYS / 8][4];
#pragma unroll
        for (u32 i = 0; i < KEYS / 8; ++i) {
#pragma unroll
            for (u32 j = 0; j < 4; ++j) scores[i][j] = 0.0f;
        }
#pragma unroll
        for (u32 step = 0; step < steps; ++step) {
#pragma unroll
            for (u32 pair = 0; pair < KEYS / 16; ++pair) {
                u32 b[4];
                ldmatrix(b, tile_keys + pair * 16 * 2 * dim + (key_place ^ step * 32));
                mma(T(), scores[2 * pair], query[step], b[0], b[1]);
                mma(T(), scores[2 * pair + 1], query[step], b[2], b[3]);
            }
        }
        const u32 rest = a.keys - begin;
        if (rest < KEYS) {
#pragma unroll
            for (u32 i = 0; i < KEYS / 8; ++i) {
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    if (i * 8 + lane % 4 * 2 + j % 2 >= rest) scores[i][j] = bits_to_float(0xff800000u);
                }
            }
        }

#pragma unroll
        for (u32 row = 0; row < 2; ++row) {
            float top = highest[row];
#pragma unroll
            for (u32 i = 0; i < KEYS / 8; ++i) top = fmaxf(top, fmaxf(scores[i][2 * row], scores[i][2 * row + 1]));
            top = fmaxf(top, shuffle_xor(top, 1));
            top = fmaxf(top, shuffle_xor(top, 2));
            const float shrink = exp2_fast((highest[row] - top) * a.scale), offset = top * a.scale;
            highest[row] = top;
            sum[row] *= shrink;
#pragma unroll
            for (u32 i = 0; i < dim / 8; ++i) {
                out[i][2 * row] *= shrink;
                out[i][2 * row + 1] *= shrink;
            }
#pragma unroll
            for (u32 i = 0; i < KEYS / 8; ++i) {
#pragma unroll
                for (u32 j = 2 * row; j < 2 * row + 2; ++j) {
                    scores[i][j] = exp2_fast(scores[i][j] * a.scale - offset);
                    sum[row] += scores[i][j];
                }
            }
        }

        // A thread's scores of two tiles of 8 keys are its part of the left operand with 16 columns.
#pragma unroll
        for (u32 pair = 0; pair < KEYS / 16; ++pair) {
            const float(&low)[4] = scores[2 * pair];
            const float(&high)[4] = scores[2 * pair + 1];
            const u32 weights[4] = {pack_two(T(), low[0], low[1]), pack_two(T(), low[2], low[3]),
                                    pack_two(T(), high[0], high[1]), pack_two(T(), high[2], high[3])};
#pragma unroll
            for (u32 step = 0; step < steps; ++step) {
                u32 b[4];
                ldmatrix_transposed(b, tile_values + pair * 16 * 2 * dim + (value_place ^ step * 32));
                mma(T(), out[2 * step], weights, b[0], b[1]);
                mma(T(), out[2 * step + 1], weights, b[2], b[3]);
            }
        }
    }

    // Through shared memory, so that 16 bytes are stored at a time.
    block_barrier();
    u8* rows = memory + warp * 16 * dim * 2;
#pragma unroll
    for (u32 row = 0; row < 2; ++row) {
        sum[row] += shuffle_xor(sum[row], 1);
        sum[row] += shuffle_xor(sum[row], 2);
        const float factor = 1.0f / sum[row];
#pragma unroll
        for (u32 i = 0; i < dim / 8; ++i) {
            const u32 two = pack_two(T(), out[i][2 * row] * factor, out[i][2 * row + 1] * factor);
            *(u32*)(rows + place<dim>(lane / 4 + 8 * row, i) + lane % 4 * 4) = two;
        }
    }
    warp_barrier();
    T* to = (T*)a.out + head * a.out_head_stride;
#pragma unroll
    for (u32 i = 0; i < dim / 16; ++i) {
        const u32 index = i * 32 + lane, row = index / (dim / 8), chunk = index % (dim / 8);
        const u32 token = first + warp * 16 + row;
        if (token < a.queries) {
            *(Sixteen*)(to + token * a.out_token_stride + chunk * 8) = *(const Sixteen*)(rows + place<dim>(row, chunk));
        }
    }
}

ENTRY(attention_bf16_64, AttentionArguments, 256, 2, attention<bf16, 64>)
ENTRY(attention_f16_64, AttentionArguments, 256, 2, attention<f16, 64>)
ENTRY(attention_bf16_128, AttentionArguments, 256, 1, attention<bf16, 128>)
ENTRY(attention_f16_128, AttentionArguments, 256, 1, attention<f16, 128>)
