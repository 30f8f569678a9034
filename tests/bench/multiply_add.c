// What one core's units for multiplication and addition can do in f32, in GFLOP/s: with AVX2 and with AVX-512, where the
// processor has it. No product of matrices can be faster.
//
//     cc -O2 -o multiply_add tests/bench/multiply_add.c && ./multiply_add
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { CHAINS = 12 };  // Enough to hide the latency of a unit.
static const long ROUNDS = 20 * 1000 * 1000;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

#define MEASURE(name, instructions, vector, set1, multiply_add)                                                      \
    __attribute__((target(instructions))) static double name(void) {                                                \
        vector sums[CHAINS], factor = set1(0.999f);                                                                  \
        for (int i = 0; i < CHAINS; i++) sums[i] = set1((float)i);                                                    \
        double start = now();                                                                                        \
        for (long round = 0; round < ROUNDS; round++) {                                                              \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) sums[i] = multiply_add(sums[i], factor, factor); \
        }                                                                                                            \
        double seconds = now() - start;                                                                              \
        volatile float used = 0;                                                                                     \
        for (int i = 0; i < CHAINS; i++) used += ((float *)&sums[i])[0];                                              \
        return 2.0 * ROUNDS * CHAINS * (sizeof(vector) / 4) / seconds / 1e9;                                         \
    }

MEASURE(avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
MEASURE(avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)

int main(void) {
    printf("avx2 %.0f\n", avx2());
    if (__builtin_cpu_supports("avx512f")) printf("avx512 %.0f\n", avx512());
    return 0;
}
