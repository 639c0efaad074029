// C (16 x 8) += A (16 x 16) B (16 x 8) in float64, by the 32 lanes of a warp together.
//
// With g = lane / 4 and t = lane % 4, a lane holds
//     a[2 s + h] = A[g + 8 h][4 s + t],   b[s] = B[4 s + t][g],   c[2 h + e] = C[g + 8 h][2 t + e]
// for s < 4, h < 2, e < 2. The instruction of compute capability 9.0 is made of eight of those of
// 8.0, whose fragments it holds side by side (PTX ISA, "Matrix Fragments for mma.m16n8k16 with .f64
// floating point type").

#ifndef DGMM_MULTIPLY
__device__ __forceinline__ void multiply(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7, %8, %9, %10, %11}, {%12, %13, %14, %15}, "
        "{%0, %1, %2, %3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]),
          "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
#elif __CUDA_ARCH__ >= 800
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int h = 0; h < 2; ++h)
            asm volatile(
                "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                : "+d"(c[2 * h]), "+d"(c[2 * h + 1])
                : "d"(a[2 * s + h]), "d"(b[s]));
#else
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const double left[2] = {__shfl_sync(EVERYBODY, a[2 * s], 4 * g + k),
                                    __shfl_sync(EVERYBODY, a[2 * s + 1], 4 * g + k)};
            const double right[2] = {__shfl_sync(EVERYBODY, b[s], 8 * t + k),
                                     __shfl_sync(EVERYBODY, b[s], 8 * t + 4 + k)};
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int e = 0; e < 2; ++e) c[2 * h + e] = fma(left[h], right[e], c[2 * h + e]);
        }
#endif
}
#endif

// Place of column c of a product within its 8 rows. The columns that a lane holds after the first
// product are the ones it needs for the second; with this order neither reads a bank twice.
__device__ __forceinline__ int place(int c) { return c ^ (c >> 2); }
