// An E-step and its sums in one kernel: no feature, density or responsibility leaves the chip.
//
// Compiled for one shape:
//     D  features of a row        COMPONENTS  components, filled up to a multiple of 16
//     F  coefficients, filled up to a multiple of 16
//     WARPS  of a block           TEAM  warps that share the sums of their rows
//     VALUE  float or double, of the stored rows
//     NORM  1 if a feature is the squared norm
//
// Every feature is a product of two of the numbers 1, z_1 ... z_D, |z|^2 of a row ("extended row"),
// so a table of pairs describes every covariance family. A warp takes 16 rows at a time through
//     joint (K x 16) = coefficients (K x F) features (F x 16)
//     a (K x 16)     = weights of a softmax over K
//     sums (K x F)  += a (K x 16) features^T (16 x F)
// where the features are multiplied from shared memory as the matrix unit asks for them, and the
// sums stay in registers over all rows. A team of warps divides the columns of the sums: each warp
// leaves its a in shared memory, and takes those of all for its share of the features. So few
// registers are taken that a multiprocessor has warps enough to hide the softmax of some behind the
// products of others.

#define ROWS 16
// 4 modulo 16, so that four lanes reading one of four features each of four rows meet 16 banks.
#define STRIDE 20
#define M_TILES (COMPONENTS / 16)
#define K_STEPS (F / 16)
#define N_TILES (F / 8)
// Of the features, what one warp of a team sums.
#define MY_TILES ((N_TILES + TEAM - 1) / TEAM)
#define SHARE (M_TILES * 8 * 32)
#define PER_WARP (EXTENDED * STRIDE + ROWS + SHARE)
#define EXTENDED (D + 2)
#define PER_LANE (2 * ((D + 3) / 4))

// Stored values of 16 rows, spread over the lanes, and the weight of row `lane`. Eight rows by four
// columns at a time: so many share no bank where they are stored, feature by feature.
struct Fetched {
    VALUE value[PER_LANE];
    double weight;

    __device__ __forceinline__ static int row_of(int j, int lane) { return (lane >> 2) + 8 * (j & 1); }
    __device__ __forceinline__ static int column_of(int j, int lane) {
        return (lane & 3) + 4 * (j >> 1);
    }

    __device__ __forceinline__ void fetch(const VALUE* x, const double* weights, integer n,
                                          integer first, int lane) {
        const integer row = first + lane;
        weight = 0.0;
        if (lane < ROWS && row < n) weight = weights ? weights[row] : 1.0;
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            const integer place = first + row_of(j, lane);
            const int column = column_of(j, lane);
            value[j] = place < n && column < D ? x[place * D + column] : (VALUE)0;
        }
    }

    // Rows of weight zero may hold anything; they count as rows at the origin.
    __device__ __forceinline__ void store(double* rows, double* row_weights, const double* origin,
                                          int lane) const {
        const double weights[2] = {__shfl_sync(EVERYBODY, weight, lane >> 2),
                                   __shfl_sync(EVERYBODY, weight, (lane >> 2) + 8)};
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            const int column = column_of(j, lane);
            if (column < D)
                rows[(1 + column) * STRIDE + row_of(j, lane)] =
                    weights[j & 1] == 0.0 ? 0.0 : (double)value[j] - origin[column];
        }
        if (lane < ROWS) row_weights[lane] = weight;
        __syncwarp();
#if NORM
        if (lane < ROWS) {
            double norm = 0.0;
            for (int i = 1; i <= D; ++i) norm = fma(rows[i * STRIDE + lane], rows[i * STRIDE + lane], norm);
            rows[(D + 1) * STRIDE + lane] = norm;
        }
        __syncwarp();
#endif
    }
};

__device__ __forceinline__ void log_joint(double (&joint)[M_TILES][2][4], const double* coefficients,
                                          const double* rows, const unsigned* pairs, int lane) {
    const int t = lane & 3, row = place(lane >> 2);
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int q = 0; q < 2; ++q)
#pragma unroll
            for (int i = 0; i < 4; ++i) joint[m][q][i] = 0.0;
#pragma unroll 2
    for (int step = 0; step < K_STEPS; ++step) {
        double b[2][4];
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            const unsigned pair = pairs[16 * step + 4 * s + t];
            const double* left = rows + (pair & 0xffff) + row;
            const double* right = rows + (pair >> 16) + row;
            b[0][s] = left[0] * right[0];
            b[1][s] = left[8] * right[8];
        }
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
            double a[8];
            const double2* fragment =
                (const double2*)(coefficients + (m * K_STEPS + step) * 256) + lane;
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                const double2 both = fragment[32 * s];
                a[2 * s] = both.x;
                a[2 * s + 1] = both.y;
            }
            multiply(joint[m][0], a, b[0]);
            multiply(joint[m][1], a, b[1]);
        }
    }
}

// Joint densities become weighted responsibilities. Lane (g, t) holds components g + 8 h + 16 m of
// the rows 8 q + place(2 t + e): a row's components lie in the eight lanes of one t.
__device__ __forceinline__ void responsibilities(double (&joint)[M_TILES][2][4],
                                                 const double* row_weights, integer first,
                                                 int lane, Tally& tally) {
    const int g = lane >> 2, t = lane & 3;
    double my_top = 0.0, my_total = 1.0;
#pragma unroll
    for (int q = 0; q < 2; ++q)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            double top = joint[0][q][e];
#pragma unroll
            for (int m = 0; m < M_TILES; ++m)
                top = fmax(top, fmax(joint[m][q][e], joint[m][q][2 + e]));
#pragma unroll
            for (int distance = 4; distance < 32; distance *= 2)
                top = fmax(top, __shfl_xor_sync(EVERYBODY, top, distance));
            double total = 0.0;
#pragma unroll
            for (int m = 0; m < M_TILES; ++m)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const double value = exp(joint[m][q][2 * h + e] - top);
                    joint[m][q][2 * h + e] = value;
                    total += value;
                }
#pragma unroll
            for (int distance = 4; distance < 32; distance *= 2)
                total += __shfl_xor_sync(EVERYBODY, total, distance);
            const double scale = row_weights[8 * q + place(2 * t + e)] / total;
#pragma unroll
            for (int m = 0; m < M_TILES; ++m)
#pragma unroll
                for (int h = 0; h < 2; ++h) joint[m][q][2 * h + e] *= scale;
            // One lane of the eight sees to the row's logarithm.
            if (g == 2 * q + e) {
                my_top = top;
                my_total = total;
            }
        }
    if (g < 4) {
        const int row = 8 * (g >> 1) + place(2 * t + (g & 1));
        const double log_total = log(my_total);
        tally.add((double)(first + row), row_weights[row], my_top + log_total, -log_total);
    }
}

// What a warp leaves for its team, lane by lane as the matrix unit takes it.
__device__ __forceinline__ void share(const double (&a)[M_TILES][2][4], double* shares, int lane) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int q = 0; q < 2; ++q)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                shares[(m * 8 + 4 * q + (i & 1) * 2 + (i >> 1)) * 32 + lane] = a[m][q][i];
}

// Adds the rows of one warp of the team to this warp's columns of the sums.
__device__ __forceinline__ void accumulate(double (&sums)[M_TILES][MY_TILES][4],
                                           const double* shares, const double* rows,
                                           const unsigned* pairs, int lane) {
    const int g = lane >> 2, t = lane & 3;
    const int even = place(2 * t), odd = place(2 * t + 1);
    double weights[M_TILES][8];
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int i = 0; i < 8; ++i) weights[m][i] = shares[(m * 8 + i) * 32 + lane];
#pragma unroll
    for (int tile = 0; tile < MY_TILES; ++tile) {
        const unsigned pair = pairs[8 * tile + g];
        const double* left = rows + (pair & 0xffff);
        const double* right = rows + (pair >> 16);
        const double b[4] = {left[even] * right[even], left[odd] * right[odd],
                             left[8 + even] * right[8 + even], left[8 + odd] * right[8 + odd]};
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) multiply(sums[m][tile], weights[m], b);
    }
}

// Sums of the block's teams, one team after another, and then out to global memory.
__device__ __forceinline__ void gather(const double (&sums)[M_TILES][MY_TILES][4], double* shared,
                                       double* out, int warp, int lane) {
    const int g = lane >> 2, t = lane & 3;
    for (int turn = 0; turn < WARPS / TEAM; ++turn) {
        __syncthreads();
        if (warp / TEAM == turn) {
#pragma unroll
            for (int m = 0; m < M_TILES; ++m)
#pragma unroll
                for (int tile = 0; tile < MY_TILES; ++tile)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int component = 16 * m + g + 8 * (i >> 1);
                        const int column = 8 * (warp % TEAM * MY_TILES + tile) + 2 * t + (i & 1);
                        double* target = shared + component * F + column;
                        if (column < F) *target = turn ? *target + sums[m][tile][i] : sums[m][tile][i];
                    }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < COMPONENTS * F; i += 32 * WARPS)
        out[(integer)blockIdx.x * COMPONENTS * F + i] = shared[i];
}

// x (n, D), weights (n) or null, origin (D), theta (COMPONENTS, F), pairs (F): the places of the two
// numbers of a feature in the extended row, the second one shifted by 16 bits. Each block leaves its
// sums in out (blocks, COMPONENTS, F) and its tally in tallies (blocks).
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)
    fused(const VALUE* __restrict__ x, const double* __restrict__ weights, integer n,
          const double* __restrict__ origin, const double* __restrict__ theta,
          const unsigned* __restrict__ pairs, double* __restrict__ out, Tally* __restrict__ tallies) {
    DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    double* coefficients = shared;
    double* rows = shared + COMPONENTS * F + warp * PER_WARP;
    double* row_weights = rows + EXTENDED * STRIDE;
    double* shares = row_weights + ROWS;
    double* centre = shared + COMPONENTS * F + WARPS * PER_WARP;
    unsigned* places = (unsigned*)(centre + D);

    // In the order in which lanes take them: fragment by fragment.
    for (int i = threadIdx.x; i < COMPONENTS * F; i += 32 * WARPS) {
        const int h = i & 1, who = (i >> 1) & 31, s = (i >> 6) & 3, tile = i >> 8;
        const int component = 16 * (tile / K_STEPS) + (who >> 2) + 8 * h;
        coefficients[i] = theta[component * F + 16 * (tile % K_STEPS) + 4 * s + (who & 3)];
    }
    for (int i = threadIdx.x; i < D; i += 32 * WARPS) centre[i] = origin[i];
    // Beyond F: the constant times itself, summed up and thrown away.
    for (int i = threadIdx.x; i < 8 * TEAM * MY_TILES; i += 32 * WARPS) {
        const unsigned pair = i < F ? pairs[i] : 0;
        places[i] = (pair & 0xffff) * STRIDE | (pair >> 16) * STRIDE << 16;
    }
    if (lane < ROWS) {
        rows[lane] = 1.0;
        rows[(D + 1) * STRIDE + lane] = 0.0;
    }
    __syncthreads();

    double sums[M_TILES][MY_TILES][4];
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int tile = 0; tile < MY_TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][tile][i] = 0.0;
    Tally tally;
    tally.clear();

    const int team = warp / TEAM;
    const double* of_team = shared + COMPONENTS * F + team * TEAM * PER_WARP;
    const unsigned* mine = places + warp % TEAM * 8 * MY_TILES;
    const integer step = (integer)gridDim.x * WARPS * ROWS;
    integer of_first = ((integer)blockIdx.x * WARPS + team * TEAM) * ROWS;
    integer first = of_first + warp % TEAM * ROWS;
    Fetched fetched;
    if (of_first < n) fetched.fetch(x, weights, n, first, lane);
    // As long as the first warp of the team has rows: the others' may have come to an end before.
    for (; of_first < n; of_first += step, first += step) {
        fetched.store(rows, row_weights, centre, lane);
        if (of_first + step < n) fetched.fetch(x, weights, n, first + step, lane);
        double joint[M_TILES][2][4];
        log_joint(joint, coefficients, rows, places, lane);
        responsibilities(joint, row_weights, first, lane, tally);
        share(joint, shares, lane);
        meet_team(team, 32 * TEAM);
#pragma unroll 1
        for (int other = 0; other < TEAM; ++other) {
            const double* theirs = of_team + other * PER_WARP;
            accumulate(sums, theirs + EXTENDED * STRIDE + ROWS, theirs, mine, lane);
        }
        // The next rows take the place of these.
        meet_team(team, 32 * TEAM);
    }
    gather(sums, shared, out, warp, lane);

    __syncthreads();
    Tally* of_warps = (Tally*)shared;
    tally.merge_warp();
    if (lane == 0) of_warps[warp] = tally;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < WARPS; ++i) tally.merge(of_warps[i]);
        tallies[blockIdx.x] = tally;
    }
}

// out (COMPONENTS, F) from the blocks' sums, in the order of the blocks; the tally likewise.
extern "C" __global__ void merge_blocks(const double* __restrict__ sums,
                                        const Tally* __restrict__ tallies, integer blocks,
                                        double* __restrict__ out, Tally* __restrict__ tally) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < COMPONENTS * F) {
        double total = 0.0;
#pragma unroll 8
        for (integer block = 0; block < blocks; ++block) total += sums[block * COMPONENTS * F + i];
        out[i] = total;
    }
    if (i == 0) {
        Tally total = tallies[0];
        for (integer block = 1; block < blocks; ++block) total.merge(tallies[block]);
        *tally = total;
    }
}
