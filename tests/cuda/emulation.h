// Enough of CUDA to run its kernels on a host, one block after another: threads are fibers, warps
// and blocks meet at barriers, shuffles and matrix products are done by their definitions. Threads
// that part ways where all of a warp or block have to meet are found out and end the run.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__

struct alignas(16) double2 {
    double x, y;
};

struct Dim {
    int64_t x = 1, y = 1;
};

namespace emulation {

enum Kind { NONE, BLOCK, WARP, SHUFFLE, PRODUCT, TEAM_OF_WARPS };

struct Meeting {
    int arrived = 0, present = 0;
    int64_t turn = 0;
    Kind kind = NONE;
};

struct Warp {
    Meeting meeting;
    uint64_t slots[32];
    double a[16][16], b[16][8];
};

struct Machine {
    Dim grid, shape, block;
    std::vector<ucontext_t> fibers;
    std::vector<char> done;
    std::vector<std::vector<char>> stacks;
    std::vector<Warp> warps;
    Meeting block_meeting;
    // Named barriers, of as many threads as those who come say.
    Meeting team_meetings[16];
    ucontext_t scheduler;
    int current = 0;
    int64_t moves = 0;
    const char* error = nullptr;
    void* kernel = nullptr;
    int64_t arguments[16];
    std::vector<double> shared;
};

static Machine machine;

inline void yield() { swapcontext(&machine.fibers[machine.current], &machine.scheduler); }

inline void fail(const char* what) {
    machine.error = what;
    // Never to be taken up again.
    while (true) yield();
}

inline void meet(Meeting& meeting, Kind kind) {
    if (meeting.arrived && meeting.kind != kind) fail("threads wait for different things");
    meeting.kind = kind;
    ++machine.moves;
    const int64_t turn = meeting.turn;
    if (++meeting.arrived == meeting.present) {
        meeting.arrived = 0;
        ++meeting.turn;
        return;
    }
    while (meeting.turn == turn) yield();
}

inline Warp& warp() { return machine.warps[machine.current / 32]; }
inline int lane() { return machine.current % 32; }

inline double exchange(double value, int source) {
    memcpy(&warp().slots[lane()], &value, 8);
    meet(warp().meeting, SHUFFLE);
    double found;
    memcpy(&found, &warp().slots[source & 31], 8);
    meet(warp().meeting, SHUFFLE);
    return found;
}

inline void run_thread() {
    typedef void (*Kernel)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                           int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
    const int64_t* a = machine.arguments;
    ((Kernel)machine.kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10],
                             a[11], a[12], a[13], a[14], a[15]);
    machine.done[machine.current] = 1;
    ++machine.moves;
    Warp& mine = warp();
    for (Meeting* one : {&mine.meeting, &machine.block_meeting}) {
        --one->present;
        if (one->arrived && one->arrived == one->present) {
            one->arrived = 0;
            ++one->turn;
        }
    }
    yield();
}

// Threads run to where they have to wait, in an order that no result may depend on: what one leaves
// in shared memory for another without a barrier between them is there in one order only.
inline int next_thread(int turn, int threads) {
#ifdef DGMM_REVERSED
    return threads - 1 - turn;
#else
    return turn;
#endif
}

inline void run_block(int threads, size_t shared_bytes) {
    Machine& m = machine;
    m.fibers.resize(threads);
    m.stacks.resize(threads);
    m.done.assign(threads, 0);
    m.warps.assign((threads + 31) / 32, Warp());
    for (size_t w = 0; w < m.warps.size(); ++w) {
        const int rest = threads - 32 * (int)w;
        m.warps[w].meeting.present = rest < 32 ? rest : 32;
    }
    m.block_meeting = Meeting();
    for (Meeting& one : m.team_meetings) one = Meeting();
    m.block_meeting.present = threads;
    // What nobody wrote is not a number.
    m.shared.assign(shared_bytes / 8 + 2, NAN);
    for (int i = 0; i < threads; ++i) {
        m.stacks[i].resize(128 * 1024);
        getcontext(&m.fibers[i]);
        m.fibers[i].uc_stack.ss_sp = m.stacks[i].data();
        m.fibers[i].uc_stack.ss_size = m.stacks[i].size();
        m.fibers[i].uc_link = nullptr;
        makecontext(&m.fibers[i], (void (*)())run_thread, 0);
    }
    int left = threads;
    while (left && !m.error) {
        const int64_t before = m.moves;
        left = 0;
        for (int turn = 0; turn < threads && !m.error; ++turn) {
            const int i = next_thread(turn, threads);
            if (m.done[i]) continue;
            m.current = i;
            swapcontext(&m.scheduler, &m.fibers[i]);
            left += !m.done[i];
        }
        if (left && m.moves == before) m.error = "threads wait for one another for ever";
    }
}

}  // namespace emulation

#define gridDim (emulation::machine.grid)
#define blockDim (emulation::machine.shape)
#define blockIdx (emulation::machine.block)
#define threadIdx (Dim{emulation::machine.current, 0})
#define DYNAMIC_SHARED(name) \
    double* name = (double*)(((uintptr_t)emulation::machine.shared.data() + 15) & ~(uintptr_t)15)

inline void __syncthreads() { emulation::meet(emulation::machine.block_meeting, emulation::BLOCK); }
inline void __syncwarp() { emulation::meet(emulation::warp().meeting, emulation::WARP); }
#define DGMM_COPIES
inline void copy_async(double* target, const double* source, bool valid) {
    *target = valid ? *source : 0.0;
}
inline void wait_for_copies() {}
#define DGMM_MEETING
inline void meet_team(int team, int threads) {
    emulation::Meeting& meeting = emulation::machine.team_meetings[team + 1];
    if (meeting.arrived && meeting.present != threads) emulation::fail("a team of two sizes");
    meeting.present = threads;
    emulation::meet(meeting, emulation::TEAM_OF_WARPS);
}
inline double __shfl_sync(unsigned, double v, int source) { return emulation::exchange(v, source); }
inline double __shfl_xor_sync(unsigned, double v, int mask) {
    return emulation::exchange(v, emulation::lane() ^ mask);
}
inline double __shfl_down_sync(unsigned, double v, int distance) {
    const int source = emulation::lane() + distance;
    return emulation::exchange(v, source < 32 ? source : emulation::lane());
}
inline double __longlong_as_double(long long bits) {
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

#ifndef DGMM_DIVIDED_PRODUCT
// The product itself, from where the PTX manual says that lanes hold the matrices.
#define DGMM_MULTIPLY
inline void multiply(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
    emulation::Warp& warp = emulation::warp();
    const int g = emulation::lane() >> 2, t = emulation::lane() & 3;
    for (int i = 0; i < 8; ++i) warp.a[i % 2 == 0 ? g : g + 8][i * 2 - (i * 2) % 4 + t] = a[i];
    for (int i = 0; i < 4; ++i) warp.b[i * 4 + t][g] = b[i];
    emulation::meet(warp.meeting, emulation::PRODUCT);
    for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? g : g + 8, column = 2 * t + (i & 1);
        for (int k = 0; k < 16; ++k) c[i] = fma(warp.a[row][k], warp.b[k][column], c[i]);
    }
    emulation::meet(warp.meeting, emulation::PRODUCT);
}
#endif

// Runs a kernel whose arguments are pointers and 64-bit integers. Returns null, or what went wrong.
extern "C" const char* emulate(void* kernel, int64_t grid_x, int64_t grid_y, int64_t threads,
                               int64_t shared_bytes, const int64_t* arguments, int64_t count) {
    emulation::Machine& m = emulation::machine;
    m.kernel = kernel;
    m.error = nullptr;
    m.grid = Dim{grid_x, grid_y};
    m.shape = Dim{threads, 1};
    memset(m.arguments, 0, sizeof m.arguments);
    memcpy(m.arguments, arguments, 8 * count);
    for (int64_t y = 0; y < grid_y && !m.error; ++y)
        for (int64_t x = 0; x < grid_x && !m.error; ++x) {
            m.block = Dim{x, y};
            emulation::run_block((int)threads, (size_t)shared_bytes);
        }
    return m.error;
}
