// The two products of a tile for mixtures whose sums no block can keep, with features that are never
// written: they are multiplied from rows in shared memory as the matrix unit asks for them.
//
// Compiled for
//     M_TILES  of 16 components, and
//     N_TILES  of 8 rows (`joint`, 4) or features (`sums`), that a warp keeps
//     WARPS    of a block
//
// Rows come extended and feature-major: extended (d + 2, n) holds 1, z_1 ... z_D, |z|^2. A feature is
// a product of two of them; pairs says which, as places in a copy of STRIDE values to each, the
// second one shifted by 16 bits.

#define COLUMNS (8 * N_TILES)
// Rows that are held at a time: by a warp in `joint`, by a block in `sums`.
#define CHUNK 32
// 4 modulo 16, so that four neighbouring rows of four neighbouring features meet 16 banks.
#define STRIDE 36

typedef double Kept[M_TILES][N_TILES][4];

__device__ __forceinline__ void clear(Kept& kept) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int q = 0; q < N_TILES; ++q)
#pragma unroll
            for (int i = 0; i < 4; ++i) kept[m][q][i] = 0.0;
}

// 16 components by 16 coefficients, as a lane takes them from the host's order.
struct Fragment {
    double2 both[4];

    __device__ __forceinline__ void fetch(const double2* theta, integer tile, int lane) {
#pragma unroll
        for (int s = 0; s < 4; ++s) both[s] = theta[tile * 128 + 32 * s + lane];
    }
};

// out (k, n) = coefficients (k, F) features (F, n). theta: fragments (blocks of M_TILES, steps,
// M_TILES, 4, 32) and one that is not used; pairs (16 steps). Blocks (rows / (CHUNK WARPS),
// components / (16 M_TILES)).
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)
    joint(const double* __restrict__ extended, integer n, integer d, integer k, integer steps,
          const double* __restrict__ theta, const unsigned* __restrict__ pairs,
          double* __restrict__ out) {
    DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const integer first = ((integer)blockIdx.x * WARPS + warp) * CHUNK;
    if (first >= n) return;
    double* rows = shared + warp * (d + 2) * STRIDE;
    const bool there = first + lane < n;
#pragma unroll 8
    for (integer i = 0; i < d + 2; ++i)
        rows[i * STRIDE + lane] = there ? extended[i * n + first + lane] : 0.0;
    __syncwarp();

    Kept kept;
    clear(kept);
    const double2* fragments = (const double2*)theta + blockIdx.y * steps * M_TILES * 128;
    const double* mine = rows + place(g);
    Fragment next;
    next.fetch(fragments, 0, lane);
    unsigned places[4];
#pragma unroll
    for (int s = 0; s < 4; ++s) places[s] = pairs[4 * s + t];
    for (integer step = 0; step < steps; ++step) {
        double b[N_TILES][4];
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            const double* left = mine + (places[s] & 0xffff);
            const double* right = mine + (places[s] >> 16);
#pragma unroll
            for (int q = 0; q < N_TILES; ++q) b[q][s] = left[8 * q] * right[8 * q];
        }
        if (step + 1 < steps)
#pragma unroll
            for (int s = 0; s < 4; ++s) places[s] = pairs[16 * (step + 1) + 4 * s + t];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
            double a[8];
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                a[2 * s] = next.both[s].x;
                a[2 * s + 1] = next.both[s].y;
            }
            next.fetch(fragments, step * M_TILES + m + 1, lane);
#pragma unroll
            for (int q = 0; q < N_TILES; ++q) multiply(kept[m][q], a, b[q]);
        }
    }

#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int q = 0; q < N_TILES; ++q)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const integer component = 16 * ((integer)blockIdx.y * M_TILES + m) + g + 8 * (i >> 1);
                const integer row = first + 8 * q + place(2 * t + (i & 1));
                if (component < k && row < n) out[component * n + row] = kept[m][q][i];
            }
}

// Asks for 32 numbers of each of `count` arrays of n, the ones after another; zero from `left` on.
__device__ __forceinline__ void ask(double* target, const double* source, integer n, int count,
                                    integer left, int lane, int warp) {
    const bool valid = lane < left;
    const double* from = source + warp * n + (valid ? lane : 0);
    double* to = target + warp * STRIDE + lane;
#pragma unroll 4
    for (int i = warp; i < count; i += WARPS) {
        copy_async(to, from, valid);
        from += WARPS * n;
        to += WARPS * STRIDE;
    }
}

// Asks for CHUNK of the rows: extended, and the weights of the block's components.
__device__ __forceinline__ void ask_chunk(double* buffer, const double* extended,
                                          const double* weighed, integer n, int width, int there,
                                          integer first, int lane, int warp) {
    ask(buffer, extended + first, n, width, n - first, lane, warp);
    ask(buffer + width * STRIDE, weighed + first, n, there, n - first, lane, warp);
}

// A lane's feature of four rows, every fourth one.
__device__ __forceinline__ void make(double (&b)[4], const double* rows, unsigned places, int row) {
    const double* left = rows + (places & 0xffff) + row;
    const double* right = rows + (places >> 16) + row;
#pragma unroll
    for (int s = 0; s < 4; ++s) b[s] = left[4 * s] * right[4 * s];
}

// partial (slices, components, F) += a (k, n) features^T (n, F), each slice over its part of the
// rows; begin: they hold nothing yet. Blocks (F / (COLUMNS WARPS) x components / (16 M_TILES),
// slices); components and F filled up to whole blocks.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)
    sums(const double* __restrict__ extended, const double* __restrict__ a, integer n, integer d,
         integer k, const unsigned* __restrict__ pairs, integer feature_blocks, integer begin,
         double* __restrict__ partial) {
    DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const integer feature_block = blockIdx.x % feature_blocks;
    const integer first_component = blockIdx.x / feature_blocks * (16 * M_TILES);
    const integer components = gridDim.x / feature_blocks * (16 * M_TILES);
    const integer width = feature_blocks * COLUMNS * WARPS;
    const integer first_feature = (feature_block * WARPS + warp) * COLUMNS;
    double* mine = partial + ((integer)blockIdx.y * components + first_component) * width + first_feature;

    Kept kept;
    clear(kept);
    if (!begin)
#pragma unroll
        for (int m = 0; m < M_TILES; ++m)
#pragma unroll
            for (int q = 0; q < N_TILES; ++q)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    kept[m][q][i] =
                        mine[(16 * m + g + 8 * (i >> 1)) * width + 8 * q + 2 * t + (i & 1)];

    unsigned places[N_TILES];
#pragma unroll
    for (int q = 0; q < N_TILES; ++q) places[q] = pairs[first_feature + 8 * q + g];

    const integer chunks = (n + CHUNK - 1) / CHUNK, slices = gridDim.y;
    const integer from = chunks * blockIdx.y / slices, to = chunks * (blockIdx.y + 1) / slices;
    const integer size = (d + 2 + 16 * M_TILES) * STRIDE;
    // Of the block's components, those that there are; those that fill it up stay zero.
    const int there = (int)(k - first_component < 16 * M_TILES ? k - first_component : 16 * M_TILES);
    for (integer i = threadIdx.x; i < 2 * size; i += 32 * WARPS) shared[i] = 0.0;
    __syncthreads();
    const double* weighed = a + first_component * n;
    if (from < to) ask_chunk(shared, extended, weighed, n, (int)d + 2, there, from * CHUNK, lane, warp);
    for (integer chunk = from; chunk < to; ++chunk) {
        const double* buffer = shared + ((chunk - from) & 1) * size;
        wait_for_copies();
        // Everybody's copies have come, and nobody reads the rows before these any more.
        __syncthreads();
        if (chunk + 1 < to)
            ask_chunk(shared + ((chunk + 1 - from) & 1) * size, extended, weighed, n, (int)d + 2,
                      there, (chunk + 1) * CHUNK, lane, warp);
        const double* weights = buffer + (d + 2) * STRIDE;
        double b[2][N_TILES][4];
#pragma unroll
        for (int q = 0; q < N_TILES; ++q) make(b[0][q], buffer, places[q], t);
#pragma unroll
        for (int half = 0; half < CHUNK / 16; ++half) {
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                double fragment[8];
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    fragment[i] = weights[(16 * m + g + 8 * (i & 1)) * STRIDE + 16 * half +
                                          4 * (i >> 1) + t];
                // Features of the next rows, while the matrix unit has these.
                if (half + 1 < CHUNK / 16)
#pragma unroll
                    for (int q = m; q < N_TILES; q += M_TILES)
                        make(b[(half + 1) & 1][q], buffer, places[q], 16 * (half + 1) + t);
#pragma unroll
                for (int q = 0; q < N_TILES; ++q) multiply(kept[m][q], fragment, b[half & 1][q]);
            }
        }
    }

#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int q = 0; q < N_TILES; ++q)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                mine[(16 * m + g + 8 * (i >> 1)) * width + 8 * q + 2 * t + (i & 1)] = kept[m][q][i];
}
