// What all kernels share. Compiled by NVRTC, which has no standard headers; the tests compile the
// same text for the host, with a header of their own in place of the machine.

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) double name[]
#endif

#define EVERYBODY 0xffffffffu
#define MOST_FINITE 1.7976931348623157e308

typedef long long integer;

#ifndef DGMM_COPIES
// Copies eight bytes to shared memory in the background, or zero if there is nothing valid to copy.
__device__ __forceinline__ void copy_async(double* target, const double* source, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(target)),
                 "l"(source), "r"(valid ? 8 : 0)
                 : "memory");
#else
    *target = valid ? *source : 0.0;
#endif
}

// Waits for all copies that this thread has asked for.
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
#endif

#ifndef DGMM_MEETING
// Waits for `threads` of the block, of which one team after another has a barrier of its own.
__device__ __forceinline__ void meet_team(int team, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(threads) : "memory");
}
#endif

__device__ __forceinline__ double no_density() {
    return __longlong_as_double(0xfff0000000000000LL);
}

__device__ __forceinline__ bool is_finite(double value) { return fabs(value) <= MOST_FINITE; }

// What a pass over rows sums beside the moments, in the order in which hosts read it.
struct Tally {
    double density;     // sum of w log p(x)
    double assignment;  // sum of w log max r
    double weight;      // sum of w
    double rows;        // rows of positive weight
    double peak;        // largest log p(x)
    double bad;         // smallest number of a row without a finite density, or -1

    __device__ void clear() {
        density = assignment = weight = rows = 0.0;
        peak = no_density();
        bad = -1.0;
    }

    __device__ void add(double row, double w, double log_density, double log_assignment) {
        if (w == 0.0) return;
        density += w * log_density;
        assignment += w * log_assignment;
        weight += w;
        rows += 1.0;
        peak = fmax(peak, log_density);
        if (!is_finite(log_density) && (bad < 0.0 || row < bad)) bad = row;
    }

    __device__ void merge(const Tally& other) {
        density += other.density;
        assignment += other.assignment;
        weight += other.weight;
        rows += other.rows;
        peak = fmax(peak, other.peak);
        if (other.bad >= 0.0 && (bad < 0.0 || other.bad < bad)) bad = other.bad;
    }

    // The tally of a warp, in lane 0: always the same tree, so always the same bits.
    __device__ void merge_warp() {
        for (int distance = 16; distance > 0; distance /= 2) {
            Tally other;
            other.density = __shfl_down_sync(EVERYBODY, density, distance);
            other.assignment = __shfl_down_sync(EVERYBODY, assignment, distance);
            other.weight = __shfl_down_sync(EVERYBODY, weight, distance);
            other.rows = __shfl_down_sync(EVERYBODY, rows, distance);
            other.peak = __shfl_down_sync(EVERYBODY, peak, distance);
            other.bad = __shfl_down_sync(EVERYBODY, bad, distance);
            merge(other);
        }
    }
};
