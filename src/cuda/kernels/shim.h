// Runs the kernels on a CPU, for tests: in place of `device.cuh`. Each thread of a block is a fiber. Barriers, shuffles, `mma` and
// `ldmatrix` are points where the fibers of a block or warp meet. Blocks run one after another.
//
// A launch has an order: forward (fibers run from the first to the last, background copies happen at once) or backward (from the
// last to the first, background copies happen when they are waited for). A missing barrier or wait changes the result of one of them.

#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <ucontext.h>
#include <vector>

#define DEVICE static inline
#define __shared__ static thread_local
#define DYNAMIC_SHARED(name) unsigned char* name = shim::block->dynamic
#define ENTRY(name, Arguments, threads, blocks, ...)                                                          \
    extern "C" int name(const unsigned* grid, unsigned block, unsigned shared, int backward, const void* arguments) { \
        if (block > threads) return 1;                                                                        \
        const Arguments& typed = *(const Arguments*)arguments;                                                \
        return shim::launch(grid, block, shared, backward != 0, [&] { __VA_ARGS__(typed); });                 \
    }                                                                                                         \
    extern "C" unsigned name##_size() { return sizeof(Arguments); }

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

struct float4 {
    float x, y, z, w;
};

struct dim3 {
    u32 x, y, z;
};
static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

struct Copy {
    void* to;
    const void* from;
};

struct Fiber {
    jmp_buf at;
    ucontext_t context;
    bool done;
    // Background copies of this thread, a list per group; the last one is open.
    std::vector<std::vector<Copy>> copies;
};

// Where fibers meet: the last one that arrives does the work and starts a new round.
struct Meeting {
    u32 arrived = 0, round = 0;
};

struct Warp {
    Meeting meeting;
    u32 in[32][8];
    const void* rows[32];
    u32 out[32][4];
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Meeting barrier;
    u32 now = 0, alive = 0;
    bool backward = false;
    void (*run)(void*) = nullptr;
    void* closure = nullptr;
    jmp_buf host;
    unsigned char* dynamic = nullptr;
};

static thread_local Block* block = nullptr;

constexpr size_t STACK = 64 << 10;

// The stack of a fiber, kept for later launches.
static char* stack(u32 thread) {
    static thread_local std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= thread) stacks.emplace_back(new char[STACK]);
    return stacks[thread].get();
}

static __attribute__((noinline)) void jump(jmp_buf* at) { _longjmp(*at, 1); }

static void select(u32 thread) {
    block->now = thread;
    threadIdx = {thread, 0, 0};
}

// Continues another fiber of the `count` fibers from `first` on, the next one that is not done.
static __attribute__((noinline)) void yield(u32 first, u32 count) {
    const u32 self = block->now;
    u32 next = self;
    do {
        next = block->backward ? first + (next - first + count - 1) % count : first + (next - first + 1) % count;
    } while (block->fibers[next].done && next != self);
    if (next == self) {
        if (block->fibers[self].done) return;
        fprintf(stderr, "shim: a thread waits for threads that have ended\n");
        abort();
    }
    if (_setjmp(block->fibers[self].at) == 0) {
        select(next);
        jump(&block->fibers[next].at);
    }
}

template <class Work> static void meet(Meeting& meeting, u32 first, u32 count, Work work) {
    if (++meeting.arrived == count) {
        work();
        meeting.arrived = 0;
        ++meeting.round;
        return;
    }
    const u32 round = meeting.round;
    for (u32 turns = 0; meeting.round == round; ++turns) {
        if (turns > 100000) {
            fprintf(stderr, "shim: threads wait for each other\n");
            abort();
        }
        yield(first, count);
    }
}

static void main_of_fiber() {
    const u32 self = block->now;
    if (_setjmp(block->fibers[self].at) == 0) jump(&block->host);
    block->run(block->closure);
    Fiber& fiber = block->fibers[self];
    for (auto& group : fiber.copies) {
        if (!group.empty()) {
            fprintf(stderr, "shim: a background copy was not waited for\n");
            abort();
        }
    }
    fiber.done = true;
    if (--block->alive == 0) jump(&block->host);
    yield(0, (u32)block->fibers.size());
    abort();
}

template <class Run> static int launch(const u32* grid, u32 threads, u32 shared, bool backward, Run run) {
    const size_t guard = 4096;
    std::vector<unsigned char> memory(shared + guard + 128);
    Block all;
    all.backward = backward;
    all.run = [](void* closure) { (*(Run*)closure)(); };
    all.closure = &run;
    all.dynamic = memory.data() + (128 - (size_t)memory.data() % 128) % 128;
    all.fibers.resize(threads);
    all.warps.resize((threads + 31) / 32);
    block = &all;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    int status = 0;
    for (u32 i = 0; i < grid[0] * grid[1] * grid[2]; ++i) {
        const u32 at = backward ? grid[0] * grid[1] * grid[2] - 1 - i : i;
        blockIdx = {at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1]};
        // Not a number in every type.
        memset(all.dynamic, 0xff, shared + guard);
        all.barrier = Meeting();
        for (Warp& warp : all.warps) warp.meeting = Meeting();
        all.alive = threads;
        for (u32 thread = 0; thread < threads; ++thread) {
            Fiber& fiber = all.fibers[thread];
            fiber.done = false;
            fiber.copies.assign(1, {});
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = stack(thread);
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, main_of_fiber, 0);
            select(thread);
            if (_setjmp(all.host) == 0) setcontext(&fiber.context);
        }
        if (_setjmp(all.host) == 0) {
            select(all.backward ? threads - 1 : 0);
            jump(&all.fibers[all.now].at);
        }
        for (size_t beyond = 0; beyond < guard; ++beyond) {
            if (all.dynamic[shared + beyond] != 0xff) status = 2;
        }
    }
    block = nullptr;
    return status;
}

static u32 lane() { return block->now % 32; }
static Warp& warp() { return block->warps[block->now / 32]; }

template <class Work> static void meet_warp(Work work) {
    const u32 first = block->now / 32 * 32;
    meet(warp().meeting, first, 32, work);
}

static void copy(const Copy& copy) { memcpy(copy.to, copy.from, 16); }

static u16 half_of(const void* row, u32 column) {
    u16 value;
    memcpy(&value, (const char*)row + 2 * column, 2);
    return value;
}

} // namespace shim

DEVICE float bits_to_float(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

DEVICE u32 float_to_bits(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

DEVICE u32 opaque(u32 x) { return x; }

DEVICE float multiply(float a, float b) { return a * b; }
DEVICE float add(float a, float b) { return a + b; }

// To the nearest, ties to even.
DEVICE u16 float_to_bf16(float x) {
    const u32 bits = float_to_bits(x);
    if (std::isnan(x)) return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

DEVICE float f16_to_float(u16 x) {
    const u32 sign = (u32)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000 | fraction << 13);
    const float size = exponent == 0 ? std::ldexp((float)fraction, -24) : std::ldexp((float)(fraction | 1024), (int)exponent - 25);
    return sign != 0 ? -size : size;
}

DEVICE u16 float_to_f16(float x) {
    const u16 sign = (u16)(float_to_bits(x) >> 16 & 0x8000);
    if (std::isnan(x)) return 0x7fff;
    const float size = std::fabs(x);
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < std::ldexp(1.0f, -14)) return sign | (u16)std::nearbyint(std::ldexp(size, 24));
    const u32 bits = float_to_bits(size);
    return sign | (u16)((bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13);
}

DEVICE u32 pack_bf16(float low, float high) { return float_to_bf16(low) | (u32)float_to_bf16(high) << 16; }
DEVICE u32 pack_f16(float low, float high) { return float_to_f16(low) | (u32)float_to_f16(high) << 16; }

DEVICE float exp2_fast(float x) { return std::exp2(x); }

DEVICE void warp_barrier() {
    shim::meet_warp([] {});
}

DEVICE void block_barrier() {
    const u32 threads = (u32)shim::block->fibers.size();
    shim::meet(shim::block->barrier, 0, threads, [] {});
}

DEVICE float shuffle_xor(float x, int mask) {
    shim::Warp& warp = shim::warp();
    const u32 lane = shim::lane();
    warp.in[lane][0] = float_to_bits(x);
    shim::meet_warp([&warp, mask] {
        for (u32 lane = 0; lane < 32; ++lane) warp.out[lane][0] = warp.in[lane ^ (u32)mask][0];
    });
    return bits_to_float(warp.out[lane][0]);
}

// The offset in dynamic shared memory.
DEVICE u32 shared_address(const void* pointer) { return (u32)((const unsigned char*)pointer - shim::block->dynamic); }

static inline void shim_ldmatrix(u32 (&to)[4], u32 row, bool transposed) {
    shim::Warp& warp = shim::warp();
    const u32 lane = shim::lane();
    if (row % 16 != 0) {
        fprintf(stderr, "shim: ldmatrix of a row that is not aligned\n");
        abort();
    }
    warp.rows[lane] = shim::block->dynamic + row;
    shim::meet_warp([&warp, transposed] {
        for (u32 lane = 0; lane < 32; ++lane) {
            for (u32 matrix = 0; matrix < 4; ++matrix) {
                u16 pair[2];
                for (u32 i = 0; i < 2; ++i) {
                    u32 row = lane / 4, column = 2 * (lane % 4) + i;
                    if (transposed) std::swap(row, column);
                    pair[i] = shim::half_of(warp.rows[8 * matrix + row], column);
                }
                warp.out[lane][matrix] = pair[0] | (u32)pair[1] << 16;
            }
        }
    });
    for (u32 i = 0; i < 4; ++i) to[i] = warp.out[lane][i];
}

DEVICE void ldmatrix(u32 (&to)[4], u32 row) { shim_ldmatrix(to, row, false); }
DEVICE void ldmatrix_transposed(u32 (&to)[4], u32 row) { shim_ldmatrix(to, row, true); }

static inline void shim_mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, float (*to_float)(u16)) {
    shim::Warp& warp = shim::warp();
    const u32 lane = shim::lane();
    for (u32 i = 0; i < 4; ++i) warp.in[lane][i] = a[i];
    warp.in[lane][4] = b0;
    warp.in[lane][5] = b1;
    shim::meet_warp([&warp, to_float] {
        // The layouts of the fragments as the PTX manual gives them for mma.m16n8k16.
        float a[16][16], b[16][8];
        for (u32 lane = 0; lane < 32; ++lane) {
            const u32 group = lane / 4, within = lane % 4;
            for (u32 i = 0; i < 8; ++i) {
                const u32 row = i % 4 < 2 ? group : group + 8, column = within * 2 + i % 2 + (i < 4 ? 0 : 8);
                a[row][column] = to_float((u16)(warp.in[lane][i / 2] >> 16 * (i % 2)));
            }
            for (u32 i = 0; i < 4; ++i) {
                const u32 row = within * 2 + i % 2 + (i < 2 ? 0 : 8);
                b[row][group] = to_float((u16)(warp.in[lane][4 + i / 2] >> 16 * (i % 2)));
            }
        }
        for (u32 lane = 0; lane < 32; ++lane) {
            for (u32 i = 0; i < 4; ++i) {
                const u32 row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
                float sum = 0.0f;
                for (u32 k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
                warp.out[lane][i] = float_to_bits(sum);
            }
        }
    });
    for (u32 i = 0; i < 4; ++i) c[i] += bits_to_float(warp.out[lane][i]);
}

DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    shim_mma(c, a, b0, b1, [](u16 x) { return bits_to_float((u32)x << 16); });
}

DEVICE void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { shim_mma(c, a, b0, b1, f16_to_float); }

DEVICE void copy_async(u32 to, const void* from) {
    if (to % 16 != 0 || (size_t)from % 16 != 0) {
        fprintf(stderr, "shim: a background copy that is not aligned\n");
        abort();
    }
    const shim::Copy copy = {shim::block->dynamic + to, from};
    if (!shim::block->backward) shim::copy(copy);
    shim::block->fibers[shim::block->now].copies.back().push_back(copy);
}

DEVICE void copy_commit() { shim::block->fibers[shim::block->now].copies.emplace_back(); }

template <int pending> DEVICE void copy_wait() {
    auto& copies = shim::block->fibers[shim::block->now].copies;
    while (copies.size() > pending + 1) {
        if (shim::block->backward) {
            for (const shim::Copy& copy : copies.front()) shim::copy(copy);
        }
        copies.erase(copies.begin());
    }
}
