// What kernels for CPUs share: vectors, numbers of 16 bits, powers of two, and the merge of two softmaxes.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int WIDTH = 16;  // floats in a vector
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int DIM = HEAD_DIM;

constexpr float LOG2_E = 1.44269504088896f, LN_2 = 0.693147180559945f;

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Integers __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Signed __attribute__((vector_size(4 * WIDTH)));

struct Float16 { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

static inline float widen(float x) { return x; }
static inline float from_bits(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline float widen(BFloat16 x) { return from_bits(uint32_t(x.bits) << 16); }
static inline float widen(Float16 x) {
  // Exponent and fraction moved into place, then scaled by the difference of the biases; infinity and NaN keep theirs.
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16;
  const float scaled = from_bits(magnitude) * 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &scaled, 4);
  return from_bits((magnitude >= 0x7c00u << 13 ? magnitude | 0x7f800000 : bits) | sign);
}

static inline Vector load(const float* from) { Vector x; std::memcpy(&x, from, sizeof x); return x; }
static inline void store(float* to, Vector x) { std::memcpy(to, &x, sizeof x); }
static inline Vector splat(float x) { return x - Vector{}; }
static inline Vector larger(Vector x, Vector y) {  // y where one is NaN
#if defined(__AVX512F__)
  return (Vector)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX2__)
  return (Vector)_mm256_max_ps((__m256)x, (__m256)y);
#else
  return x > y ? x : y;
#endif
}

// 2 to the power of x, x at most 0, to 2e-7 of it; 0 from -126.5 on.
static inline Vector power_of_two(Vector x) {
  x = larger(splat(-127.f), x);
  const Vector shifted = x + splat(12582912.f + 127.f);  // the nearest integer plus 127 is in its last bits
  const Vector rest = x - (shifted - splat(12582912.f + 127.f));
  Vector power = splat(1.535336188319500e-4f);
  power = power * rest + splat(1.339887440266574e-3f);
  power = power * rest + splat(9.618437357674640e-3f);
  power = power * rest + splat(5.550332471162809e-2f);
  power = power * rest + splat(2.402264791363012e-1f);
  power = power * rest + splat(6.931472028550421e-1f);
  power = power * rest + splat(1.f);
  return power * (Vector)((Integers)shifted << 23);
}

struct Strides { int64_t batch, head, row; };

// The natural logarithm of a sum of weights, which is 0, normal or NaN, to 2e-7.
static inline Vector logarithm(Vector x) {
  const Integers bits = (Integers)x - 0x3f3504f3;  // those of sqrt(1/2), where the fraction begins
  const Vector rest = (Vector)((bits & 0x7fffff) + 0x3f3504f3) - splat(1.f);
  Vector log = splat(-1.010689672e-1f);
  log = log * rest + splat(1.622258537e-1f);
  log = log * rest + splat(-1.725083126e-1f);
  log = log * rest + splat(1.990016499e-1f);
  log = log * rest + splat(-2.496990891e-1f);
  log = log * rest + splat(3.333505896e-1f);
  log = log * rest + splat(-5.000036513e-1f);
  log = log * rest + splat(9.999999453e-1f);
  log = log * rest + __builtin_convertvector((Signed)bits >> 23, Vector) * splat(LN_2);
  return x > 0.f ? log : x == 0.f ? splat(-std::numeric_limits<float>::infinity()) : x;
}

#if defined(__AVX512F__)
// Of 16 rows of 16 numbers.
static inline void transpose(__m512i* rows) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int width = 1; width < 16; width *= 2) {  // quarters of squares of twice the width change places
    const __m512i by = _mm512_set1_epi32(width);
    const __mmask16 right = _mm512_test_epi32_mask(lane, by);
    const __m512i upper = _mm512_mask_add_epi32(lane, right, lane, _mm512_set1_epi32(16 - width));
    const __m512i lower = _mm512_mask_add_epi32(_mm512_add_epi32(lane, by), right, lane, _mm512_set1_epi32(16));
    for (int i = 0; i < 16; i++) {
      if (i & width) continue;
      const __m512i above = rows[i], below = rows[i + width];
      rows[i] = _mm512_permutex2var_epi32(above, upper, below);
      rows[i + width] = _mm512_permutex2var_epi32(above, lower, below);
    }
  }
}
#endif

// Turns the largest scores of some rows, to the base of two, into the log-sum-exp of their keys, of which each counts
// e^log_multiplicity times.
static inline void finish(float* top, const float* weight, int rows, float log_multiplicity) {
  for (int i = 0; i < rows; i += WIDTH)
    store(top + i, load(top + i) * LN_2 + logarithm(load(weight + i)) + log_multiplicity);
}

static inline void narrow(float x, float& to) { to = x; }
static inline void narrow(float x, BFloat16& to) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to.bits = x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}
static inline void narrow(float x, Float16& to) {
  uint32_t bits, small;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  const float raised = from_bits(magnitude) + 0.5f;  // by which what is below 2^-14 is rounded to multiples of 2^-24
  std::memcpy(&small, &raised, 4);
  const uint32_t rounded = magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1);
  const uint32_t finite = magnitude < 113u << 23 ? small - 0x3f000000 : std::min(rounded >> 13, 0x7c00u);
  to.bits = sign | (magnitude > 0x7f800000 ? 0x7e00 : finite);
}

// Writes a row of sums of values, (DIM), over the weight of their keys.
template <typename Row>
static inline void put(const float* sums, float weight, Row* row) {
  const float factor = weight == 0 ? 0.f : 1.f / weight;
  for (int d = 0; d < DIM; d++) narrow(sums[d] * factor, row[d]);
}

// Merges sums of values, (DIM), and the weight and the log-sum-exp of their keys into a row and its log-sum-exp.
static inline void merge(const float* sums, float weight, float own_lse, float* row, float* row_lse) {
  const float ahead = own_lse == *row_lse ? 0.f : own_lse - *row_lse;  // also where no key was seen at all
  const float smaller = std::exp(-std::abs(ahead)), share = (ahead < 0 ? smaller : 1.f) / (1.f + smaller);
  const float factor = weight == 0 ? 0.f : share / weight;
  for (int d = 0; d < DIM; d++) row[d] = row[d] * (1.f - share) + sums[d] * factor;
  *row_lse = std::max(*row_lse, own_lse) + std::log1p(smaller);
}

// What a softmax finds in its rows: another one that it merges with, nothing, or rows of 16 bits for it alone.
enum Found { ANOTHER, NOTHING, NARROW };

// Rows of results, and their log-sum-exps.
struct Results {
  void* rows;
  float* lse;
  Strides rows_by, lse_by;
  Found found;

  // Takes those of `count` queries from `first` on: their sums of values, `apart`, with the weights of their keys and
  // the log-sum-exps.
  void take(
      int64_t b, int64_t h, int64_t first, int count, const float* sums, int apart, const float* weight,
      const float* own_lse) const {
    for (int i = 0; i < count; i++, sums += apart) {
      const int64_t at = b * rows_by.batch + h * rows_by.head + (first + i) * rows_by.row;
      float* row_lse = lse + b * lse_by.batch + h * lse_by.head + (first + i) * lse_by.row;
      if (found == ANOTHER) {
        merge(sums, weight[i], own_lse[i], (float*)rows + at, row_lse);
        continue;
      }
      *row_lse = own_lse[i];
      found == NARROW ? put(sums, weight[i], (ELEMENT*)rows + at) : put(sums, weight[i], (float*)rows + at);
    }
  }
};
