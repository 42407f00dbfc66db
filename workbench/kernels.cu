// Products of a few rows with packed weights, as they are stored: of 4 bits in groups of 32, and of 8 bits a row.
//
// Compiled by NVRTC when first needed (workbench.compiled_cuda), for ROWS rows of x and EACH rows of the weight a warp.
// One token needs every weight once, so reading them is all that should take time. A warp goes along its rows of the
// weight together: each lane takes eight neighbouring columns, so that the warp reads whole cache lines, and what it has
// read of x serves all of its rows. A column's place in the sum does not depend on ROWS: each row of x gives, to the
// bit, what it gives alone.
//
// No headers: bfloat16 is the upper half of a float.

typedef unsigned short bfloat16;

__device__ __forceinline__ float lower(unsigned both) { return __uint_as_float(both << 16); }

__device__ __forceinline__ float upper(unsigned both) { return __uint_as_float(both & 0xffff0000u); }

__device__ __forceinline__ bfloat16 rounded(float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // not a number
    return (bfloat16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// 2^23 + n has n in its lowest bits: a whole number becomes a float by an "or" and a subtraction, both quicker than a
// conversion. 8 is taken off as well.
__device__ __forceinline__ float code(unsigned word, int at) {
    return __uint_as_float((word >> 4 * at & 15u) | 0x4b000000u) - 8388616.0f;
}

// The same of a byte of two's complement whose highest bit was turned.
__device__ __forceinline__ float whole(unsigned word, int at) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + at)) - 8388736.0f;
}

struct Four {
    typedef unsigned Word;  // eight codes
    static __device__ __forceinline__ void open(Word word, float (&out)[8]) {
#pragma unroll
        for (int k = 0; k < 8; ++k) out[k] = code(word, k);
    }
};

struct Eight {
    typedef uint2 Word;
    static __device__ __forceinline__ void open(Word word, float (&out)[8]) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            out[k] = whole(word.x ^ 0x80808080u, k);
            out[4 + k] = whole(word.y ^ 0x80808080u, k);
        }
    }
};

#define WARPS 4

// grouped: a scale for each 32 columns; else one for the row, and the sums are multiplied at the end.
template <class Kind, bool grouped>
__device__ __forceinline__ void multiply(
    const typename Kind::Word* packed, const bfloat16* scale, const uint4* x, bfloat16* out, int height, int words
) {
    int lane = threadIdx.x & 31;
    int first = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * EACH;
    if (first >= height) return;
    const typename Kind::Word* rows[EACH];
    const bfloat16* scales[EACH];
#pragma unroll
    for (int r = 0; r < EACH; ++r) {
        size_t row = min(first + r, height - 1);  // those beyond the end are multiplied and not written
        rows[r] = packed + row * words;
        scales[r] = scale + (grouped ? row * (words / 4) : row);
    }
    float sum[ROWS][EACH] = {};
#pragma unroll 4
    for (int at = lane; at < words; at += 32) {
        typename Kind::Word word[EACH];
        float by[EACH];
#pragma unroll
        for (int r = 0; r < EACH; ++r) {
            word[r] = rows[r][at];
            by[r] = grouped ? lower(scales[r][at >> 2]) : 1.0f;
        }
        float value[ROWS][8];
#pragma unroll
        for (int m = 0; m < ROWS; ++m) {
            uint4 given = x[(size_t)m * words + at];
            value[m][0] = lower(given.x), value[m][1] = upper(given.x);
            value[m][2] = lower(given.y), value[m][3] = upper(given.y);
            value[m][4] = lower(given.z), value[m][5] = upper(given.z);
            value[m][6] = lower(given.w), value[m][7] = upper(given.w);
        }
#pragma unroll
        for (int r = 0; r < EACH; ++r) {
            float weight[8];
            Kind::open(word[r], weight);
#pragma unroll
            for (int m = 0; m < ROWS; ++m) {
                float part = value[m][0] * weight[0];
#pragma unroll
                for (int k = 1; k < 8; ++k) part = fmaf(value[m][k], weight[k], part);
                sum[m][r] = fmaf(part, by[r], sum[m][r]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < EACH; ++r) {
#pragma unroll
        for (int m = 0; m < ROWS; ++m) {
            float all = sum[m][r];
#pragma unroll
            for (int step = 16; step; step >>= 1) all += __shfl_xor_sync(0xffffffffu, all, step);
            if (lane == 0 && first + r < height) {
                if (!grouped) all *= lower(*scales[r]);
                out[(size_t)m * height + first + r] = rounded(all);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) multiply4(
    const unsigned* packed, const bfloat16* scale, const uint4* x, bfloat16* out, int height, int words
) {
    multiply<Four, true>(packed, scale, x, out, height, words);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) multiply8(
    const uint2* packed, const bfloat16* scale, const uint4* x, bfloat16* out, int height, int words
) {
    multiply<Eight, false>(packed, scale, x, out, height, words);
}

// Eight weights a thread, times their scale: for many rows, which PyTorch multiplies.
extern "C" __global__ void __launch_bounds__(256) unpack4(
    const unsigned* packed, const bfloat16* scale, uint4* out, long long words
) {
    long long at = (long long)blockIdx.x * 256 + threadIdx.x;
    if (at >= words) return;
    float by = lower(scale[at >> 2]), weight[8];
    Four::open(packed[at], weight);
    unsigned both[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) both[k] = rounded(weight[2 * k] * by) | (unsigned)rounded(weight[2 * k + 1] * by) << 16;
    out[at] = make_uint4(both[0], both[1], both[2], both[3]);
}

// The same of 8 bits, without their scale: exact.
extern "C" __global__ void __launch_bounds__(256) unpack8(
    const uint2* packed, const bfloat16*, uint4* out, long long words
) {
    long long at = (long long)blockIdx.x * 256 + threadIdx.x;
    if (at >= words) return;
    float weight[8];
    Eight::open(packed[at], weight);
    unsigned both[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) both[k] = rounded(weight[2 * k]) | (unsigned)rounded(weight[2 * k + 1]) << 16;
    out[at] = make_uint4(both[0], both[1], both[2], both[3]);
}
