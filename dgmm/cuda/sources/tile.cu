// What a tile of rows needs besides the two products of matrices, for any number of features.
//
// Compiled for VALUE (of the stored rows), REAL (of features and products), DIFFERENCE (in which the
// origin is subtracted).

#define SQUARE 32
#define SLICES 8

// features[f][row] = e[left[f]] e[right[f]] with e = 1, z_1 ... z_D, |z|^2 and z = x - origin, for
// 1 <= f < size. Blocks (row / 32, slices of features); shared memory (D + 2) x 33 REAL.
extern "C" __global__ void load_features(const VALUE* __restrict__ x, integer n, integer d,
                                         const DIFFERENCE* __restrict__ origin,
                                         const unsigned* __restrict__ pairs, integer size,
                                         REAL* __restrict__ features) {
    DYNAMIC_SHARED(shared);
    REAL* rows = (REAL*)shared;
    const integer first = (integer)blockIdx.x * SQUARE;
    // In 32 bits, in which a division costs a fraction.
    const int width = (int)d;
    for (int i = threadIdx.x; i < SQUARE * width; i += SQUARE * SLICES) {
        const int row = i / width, column = i % width;
        if (first + row < n)
            rows[(1 + column) * (SQUARE + 1) + row] =
                (REAL)((DIFFERENCE)x[first * d + i] - origin[column]);
    }
    const int row = threadIdx.x & (SQUARE - 1), slice = threadIdx.x / SQUARE;
    if (slice == 0) rows[row] = (REAL)1;
    __syncthreads();
    if (slice == 0) {
        REAL norm = (REAL)0;
        for (integer i = 1; i <= d; ++i) {
            const REAL value = rows[i * (SQUARE + 1) + row];
            norm += value * value;
        }
        rows[(d + 1) * (SQUARE + 1) + row] = norm;
    }
    __syncthreads();
    if (first + row >= n) return;
    for (integer f = 1 + slice + (integer)blockIdx.y * SLICES; f < size;
         f += (integer)gridDim.y * SLICES) {
        const unsigned pair = pairs[f];
        features[f * n + first + row] = rows[(pair & 0xffff) * (SQUARE + 1) + row] *
                                        rows[(pair >> 16) * (SQUARE + 1) + row];
    }
}

// out[column][row] = x[row][column] - origin[column], through a square of shared memory.
extern "C" __global__ void centre(const VALUE* __restrict__ x, integer n, integer d,
                                  const DIFFERENCE* __restrict__ origin, REAL* __restrict__ out) {
    __shared__ REAL square[SQUARE][SQUARE + 1];
    const integer first = (integer)blockIdx.x * SQUARE, left = (integer)blockIdx.y * SQUARE;
    const int inner = threadIdx.x & (SQUARE - 1);
    for (int i = threadIdx.x / SQUARE; i < SQUARE; i += SLICES)
        if (first + i < n && left + inner < d)
            square[i][inner] =
                (REAL)((DIFFERENCE)x[(first + i) * d + left + inner] - origin[left + inner]);
    __syncthreads();
    for (int i = threadIdx.x / SQUARE; i < SQUARE; i += SLICES)
        if (first + inner < n && left + i < d) out[(left + i) * n + first + inner] = square[inner][i];
}

// The features after z, where z is in its place: norm from all of it, the others by pairs.
extern "C" __global__ void fill_features(REAL* __restrict__ features, integer n, integer d,
                                         const unsigned* __restrict__ pairs, integer size) {
    const integer row = (integer)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n) return;
    if (blockIdx.y == 0) {
        REAL norm = (REAL)0;
        for (integer i = 1; i <= d; ++i) {
            const REAL value = features[i * n + row];
            norm += value * value;
        }
        features[(d + 1) * n + row] = norm;
    }
    for (integer f = d + 2 + blockIdx.y; f < size; f += gridDim.y) {
        const unsigned pair = pairs[f];
        features[f * n + row] = features[(pair & 0xffff) * n + row] * features[(pair >> 16) * n + row];
    }
}

// A softmax over the components of 32 rows, by a block of 32 x 8 threads, each with every eighth
// component. Leaves the responsibilities times `weight` in place of the joint densities.
__device__ __forceinline__ void softmax_of_rows(REAL* joint, integer n, integer k, integer row,
                                                int slice, double weight, REAL (*shared)[SQUARE],
                                                REAL& top, REAL& total) {
    const int inner = threadIdx.x & (SQUARE - 1);
    top = (REAL)no_density();
    if (row < n)
        for (integer i = slice; i < k; i += SLICES) top = fmax(top, joint[i * n + row]);
    shared[slice][inner] = top;
    __syncthreads();
    for (int i = 0; i < SLICES; ++i) top = fmax(top, shared[i][inner]);
    __syncthreads();
    REAL part = (REAL)0;
    if (row < n)
        for (integer i = slice; i < k; i += SLICES) {
            const REAL value = exp(joint[i * n + row] - top);
            joint[i * n + row] = value;
            part += value;
        }
    shared[slice][inner] = part;
    __syncthreads();
    total = (REAL)0;
    for (int i = 0; i < SLICES; ++i) total += shared[i][inner];
    __syncthreads();
    const REAL scale = (REAL)weight / total;
    if (row < n)
        for (integer i = slice; i < k; i += SLICES) joint[i * n + row] *= scale;
}

// joint (k, n): responsibilities in place; tops and totals (n).
extern "C" __global__ void softmax(REAL* __restrict__ joint, integer n, integer k,
                                   REAL* __restrict__ tops, REAL* __restrict__ totals) {
    __shared__ REAL shared[SLICES][SQUARE];
    const integer row = (integer)blockIdx.x * SQUARE + (threadIdx.x & (SQUARE - 1));
    const int slice = threadIdx.x / SQUARE;
    REAL top, total;
    softmax_of_rows(joint, n, k, row, slice, 1.0, shared, top, total);
    if (slice == 0 && row < n) {
        tops[row] = top;
        totals[row] = total;
    }
}

__device__ __forceinline__ void leave(Tally& tally, Tally* tallies) {
    tally.merge_warp();
    if (threadIdx.x == 0) tallies[blockIdx.x] = tally;
}

// The E-step of a tile: weighted responsibilities in place, and a tally for each block.
extern "C" __global__ void expectation(REAL* __restrict__ joint, integer n, integer k,
                                       const double* __restrict__ weights,
                                       Tally* __restrict__ tallies) {
    __shared__ REAL shared[SLICES][SQUARE];
    const int slice = threadIdx.x / SQUARE;
    Tally tally;
    tally.clear();
    for (integer first = (integer)blockIdx.x * SQUARE; first < n;
         first += (integer)gridDim.x * SQUARE) {
        const integer row = first + (threadIdx.x & (SQUARE - 1));
        const double weight = row >= n ? 0.0 : weights ? weights[row] : 1.0;
        REAL top, total;
        softmax_of_rows(joint, n, k, row, slice, weight, shared, top, total);
        if (slice == 0 && row < n) {
            const double log_total = (double)log(total);
            tally.add((double)row, weight, (double)top + log_total, -log_total);
        }
        __syncthreads();
    }
    if (slice == 0) leave(tally, tallies);
}

// The tally of rows whose posterior another policy found. Blocks of 32 threads.
extern "C" __global__ void tally_rows(const REAL* __restrict__ density,
                                      const REAL* __restrict__ assignment,
                                      const double* __restrict__ weights, integer n,
                                      Tally* __restrict__ tallies) {
    Tally tally;
    tally.clear();
    for (integer row = (integer)blockIdx.x * 32 + threadIdx.x; row < n; row += gridDim.x * 32LL)
        tally.add((double)row, weights ? weights[row] : 1.0, (double)density[row],
                  (double)assignment[row]);
    leave(tally, tallies);
}

// Of each tile, the tallies of all its blocks, in one. A block of 32 threads for each tile.
extern "C" __global__ void merge_tallies(const Tally* __restrict__ tallies, integer each,
                                         Tally* __restrict__ merged) {
    Tally tally;
    tally.clear();
    for (integer i = threadIdx.x; i < each; i += 32) tally.merge(tallies[blockIdx.x * each + i]);
    leave(tally, merged);
}
