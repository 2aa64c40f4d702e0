// What kernels for CPUs share: vectors, numbers of 16 bits, powers of two, and a call's way from task to task.

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

// What a thread has of its own, looked up once: compilers would do so at every access.
template <typename T>
static inline T& looked_up(T& own) {
  T* at = &own;
  asm("" : "+r"(at));
  return *at;
}

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
// The columns of 16 rows of 16 numbers that lie `apart` bytes from each other.
static inline void transpose(const void* rows, int64_t apart, __m512i* columns) {
  for (int part = 0; part < 4; part++) {  // of a row, four columns; rows 4 j to 4 j + 3 are part j of each of them
    const auto its = [&](int row) { return _mm_loadu_si128((const __m128i*)((const char*)rows + row * apart) + part); };
    __m512i at[4];
    for (int i = 0; i < 4; i++) {
      at[i] = _mm512_inserti32x4(_mm512_castsi128_si512(its(i)), its(i + 4), 1);
      at[i] = _mm512_inserti32x4(_mm512_inserti32x4(at[i], its(i + 8), 2), its(i + 12), 3);
    }
    const __m512i low = _mm512_unpacklo_epi32(at[0], at[1]), other_low = _mm512_unpacklo_epi32(at[2], at[3]);
    const __m512i high = _mm512_unpackhi_epi32(at[0], at[1]), other_high = _mm512_unpackhi_epi32(at[2], at[3]);
    columns[part * 4] = _mm512_unpacklo_epi64(low, other_low);
    columns[part * 4 + 1] = _mm512_unpackhi_epi64(low, other_low);
    columns[part * 4 + 2] = _mm512_unpacklo_epi64(high, other_high);
    columns[part * 4 + 3] = _mm512_unpackhi_epi64(high, other_high);
  }
}
#endif

// Turns the largest scores of some rows, each by `unit` a natural exponent, into the log-sum-exp of their keys, each of
// which counts e^log_multiplicity times.
static inline void finish(float* top, float unit, const float* weight, int rows, float log_multiplicity) {
  for (int i = 0; i < rows; i += WIDTH)
    store(top + i, load(top + i) * unit + logarithm(load(weight + i)) + log_multiplicity);
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

// How many of the keys at hand GROUP queries see, the first of which is as far along as key `ahead`: `some` of them do,
// and `all` of them, 0 or less where the first sees none.
template <int GROUP>
struct Visible {
  int some, all;
  Visible(bool causal, int64_t ahead, int keys) {
    some = causal ? std::clamp<int64_t>(ahead + GROUP, 0, keys) : keys;
    all = causal ? std::min<int64_t>(ahead + 1, some) : keys;
  }
  int by(int i) const { return std::clamp(all + i, 0, some); }  // query i
};

struct Strides {
  int64_t batch, head, row;
  int64_t at(int64_t b, int64_t h, int64_t i) const { return b * batch + h * head + i * row; }
};

// What a softmax finds in its rows: another one that it merges with, nothing, or rows of 16 bits for it alone.
enum Found { ANOTHER, NOTHING, NARROW };

// Folds softmax(query key^T * scale) value, each key counted e^log_multiplicity times, into `total` and its log-sum-exp:
// query (batch, heads, rows, DIM), key and value (batch, heads, keys, DIM), total (batch, heads, rows, DIM), lse
// (batch, heads, rows). `total` is of ELEMENTs where `found` is NARROW. Causal: query i sees the keys 0 .. i.
struct Fold {
  const ELEMENT *query, *key, *value;
  void* total;
  float* lse;
  int64_t batch, heads, rows, keys;
  Strides query_by, key_by, value_by, total_by, lse_by;
  float scale, log_multiplicity;
  int causal;
  Found found;
};

// A thread's share of a call. A task is QUERIES queries of a head, which visit KEYS keys at a time; GROUP after GROUP they
// take in what they see of them. `at` is what the thread works on: its sums are PADDED long, and one in its `top` is
// `unit` of the log-sum-exp.
template <int GROUP, int QUERIES, int KEYS, int PADDED, typename Scratch>
static void fold_share(const Fold& call, Scratch& at, float unit) {
  const int64_t blocks = (call.rows + QUERIES - 1) / QUERIES;
#pragma omp for schedule(dynamic)
  for (int64_t task = 0; task < call.batch * call.heads * blocks; task++) {
    const int64_t b = task / (call.heads * blocks), h = task / blocks % call.heads;
    const int64_t first = (blocks - 1 - task % blocks) * QUERIES;  // the last see the most where it is causal
    const int count = std::min<int64_t>(QUERIES, call.rows - first);
    const int padded = (count + GROUP - 1) / GROUP * GROUP;
    at.take_queries(call.query + call.query_by.at(b, h, first), call.query_by.row, count, padded, call.scale);
    std::fill_n(at.sums, padded * PADDED, 0.f);
    std::fill_n(at.weight, padded, 0.f);
    std::fill_n(at.top, padded, std::numeric_limits<float>::lowest());  // above -inf, from which -inf cannot be taken
    const int64_t seen = call.causal ? std::min<int64_t>(call.keys, first + count) : call.keys;
    for (int64_t start = 0; start < seen; start += KEYS) {
      const int together = std::min<int64_t>(KEYS, seen - start);
      at.take_keys(call.key + call.key_by.at(b, h, start), call.key_by.row, together);
      at.take_values(call.value + call.value_by.at(b, h, start), call.value_by.row, together);
      for (int i = 0; i < padded; i += GROUP)
        at.take_in(i, Visible<GROUP>(call.causal, first + i - start, together), call.scale);
    }
    finish(at.top, unit, at.weight, padded, call.log_multiplicity);
    for (int i = 0; i < count; i++) {
      const float* sums = at.sums + i * PADDED;
      const int64_t row = call.total_by.at(b, h, first + i);
      float* lse = call.lse + call.lse_by.at(b, h, first + i);
      if (call.found == ANOTHER) {
        merge(sums, at.weight[i], at.top[i], (float*)call.total + row, lse);
        continue;
      }
      *lse = at.top[i];
      if (call.found == NARROW) put(sums, at.weight[i], (ELEMENT*)call.total + row);
      else put(sums, at.weight[i], (float*)call.total + row);
    }
  }
}
