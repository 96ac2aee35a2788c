// What the kernels need from the GPU beyond plain C++: inline PTX, each instruction in a function of its own. `shim.h` has the
// same functions for a CPU. For compute capability 8.0 and later.

#define DEVICE __device__ __forceinline__
// Shared memory whose size the launch gives.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// A kernel that the host calls by `name`: `function` with one struct of arguments.
#define ENTRY(name, Arguments, threads, blocks, ...)                                                          \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const Arguments arguments) {           \
        __VA_ARGS__(arguments);                                                                               \
    }

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

DEVICE float bits_to_float(u32 bits) { return __uint_as_float(bits); }

// `x`, about which the compiler assumes nothing: what depends on it is computed here, not kept in registers from earlier.
DEVICE u32 opaque(u32 x) {
    asm volatile("mov.u32 %0, %0;" : "+r"(x));
    return x;
}

// Products and sums that are rounded one by one, as on the host.
DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
DEVICE float add(float a, float b) { return __fadd_rn(a, b); }

DEVICE u16 float_to_bf16(float x) {
    u16 y;
    asm("{ .reg .b32 pair; .reg .b16 high; cvt.rn.bf16x2.f32 pair, 0f00000000, %1; mov.b32 {%0, high}, pair; }" : "=h"(y) : "f"(x));
    return y;
}

DEVICE u16 float_to_f16(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

DEVICE float f16_to_float(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

// Two floats in 16 bits each, `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

DEVICE u32 pack_f16(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// 2^x with a relative error of about 2^-22.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The value of the thread whose lane differs in the bits of `mask`.
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

DEVICE void warp_barrier() { __syncwarp(); }

DEVICE void block_barrier() { __syncthreads(); }

// The address that the functions below take.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// Loads four 8 × 8 matrices of 16-bit values from shared memory. Lane l gives the address of row l % 8 of matrix l / 8, and
// receives of each matrix the two values of row l / 4 from column 2 (l % 4) on.
DEVICE void ldmatrix(u32 (&to)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

// The same for the transposed matrices.
DEVICE void ldmatrix_transposed(u32 (&to)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

// c += a × b for matrices of 16 × 16 and 16 × 8. Of `c` lane l has columns 2 (l % 4) and the next, of rows l / 4 and l / 4 + 8.
DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes from global to shared memory in the background.
DEVICE void copy_async(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// Ends a group of copies.
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` groups of this thread are on their way.
template <int pending> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }
