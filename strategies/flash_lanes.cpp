// Flash attention for CPUs with neighbouring queries in the lanes of a vector.
//
// torch's kernel multiplies matrices by a library, which needs many queries a call to run at speed. Here scores lie
// transposed, a row of `LANES` queries for each key: softmax runs over lanes without a reduction across them, and both
// products read keys and values row by row, as they lie. Nothing is packed, so 128 queries are as fast as thousands.
// FlashAttention, arXiv 2205.14135; the running softmax is in powers of two.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__)
constexpr int WIDTH = 16, ROWS = 12;  // floats in a vector; rows whose sums, two vectors each, stay in registers
#elif defined(__AVX2__)
constexpr int WIDTH = 8, ROWS = 6;
#elif defined(__aarch64__)
constexpr int WIDTH = 4, ROWS = 12;
#else
constexpr int WIDTH = 4, ROWS = 6;
#endif
constexpr int LANES = 2 * WIDTH;
constexpr int DIM = HEAD_DIM;
// Queries of a task, and keys it visits at once: both with what belongs to them fit into a core's cache.
constexpr int QUERIES = std::clamp(16384 / DIM / LANES, 1, 256 / LANES) * LANES;
constexpr int KEYS = std::clamp(16384 / DIM, 32, 256);

constexpr float LOG2_E = 1.44269504088896f, LN_2 = 0.693147180559945f;

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Integers __attribute__((vector_size(4 * WIDTH)));

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
static inline Vector larger(Vector x, Vector y) { return x > y ? x : y; }  // y where it is NaN

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

// What a thread works on.
struct Scratch {
  alignas(64) float query[QUERIES * DIM];  // by groups of LANES queries: (DIM, LANES)
  float sums[QUERIES * DIM];               // of values, likewise
  float top[QUERIES], weight[QUERIES];     // largest score, and the sum of 2^(score - top)
  float key[KEYS * DIM], value[KEYS * DIM];
  float scores[KEYS * LANES];
};

// scores (COUNT, LANES) = key (COUNT, DIM) times query (DIM, LANES).
template <int COUNT>
static __attribute__((noinline)) void score(const float* key, const float* query, float* scores) {
  Vector sums[COUNT][2] = {};
  for (int d = 0; d < DIM; d++) {
    const Vector low = load(query + d * LANES), high = load(query + d * LANES + WIDTH);
    for (int i = 0; i < COUNT; i++) {
      const Vector x = splat(key[i * DIM + d]);
      sums[i][0] += x * low;
      sums[i][1] += x * high;
    }
  }
  for (int i = 0; i < COUNT; i++) store(scores + i * LANES, sums[i][0]), store(scores + i * LANES + WIDTH, sums[i][1]);
}

// sums (COUNT, LANES) = sums times (low, high) + the first columns of value (keys, DIM), transposed, times weights.
template <int COUNT>
static __attribute__((noinline)) void mix(
    const float* value, const float* weights, int keys, Vector low_decay, Vector high_decay, float* sums) {
  Vector added[COUNT][2] = {};
  for (int k = 0; k < keys; k++) {
    const Vector low = load(weights + k * LANES), high = load(weights + k * LANES + WIDTH);
    for (int i = 0; i < COUNT; i++) {
      const Vector x = splat(value[k * DIM + i]);
      added[i][0] += x * low;
      added[i][1] += x * high;
    }
  }
  for (int i = 0; i < COUNT; i++) {
    float* row = sums + i * LANES;
    store(row, load(row) * low_decay + added[i][0]);
    store(row + WIDTH, load(row + WIDTH) * high_decay + added[i][1]);
  }
}

template <int COUNT>
static void score_rest(int count, const float* key, const float* query, float* scores) {
  if constexpr (COUNT > 0) {
    if (count == COUNT) score<COUNT>(key, query, scores);
    else score_rest<COUNT - 1>(count, key, query, scores);
  }
}

// LANES queries from `first` on take in `keys` keys; from key `hidden` on, the first lanes do not see it.
static void take_in(Scratch& at, int first, int keys, int hidden) {
  const float* query = at.query + first * DIM;
  float *scores = at.scores, *sums = at.sums + first * DIM, *tops = at.top + first, *weights = at.weight + first;
  int k = 0;
  for (; k + ROWS <= keys; k += ROWS) score<ROWS>(at.key + k * DIM, query, scores + k * LANES);
  score_rest<ROWS - 1>(keys - k, at.key + k * DIM, query, scores + k * LANES);
  for (k = std::max(hidden, 0); k < keys; k++)
    std::fill_n(scores + k * LANES, std::min(k - hidden + 1, LANES), -std::numeric_limits<float>::infinity());

  Vector low_decay = load(tops), high_decay = load(tops + WIDTH), low = low_decay, high = high_decay;
  for (k = 0; k < keys; k++) {
    low = larger(low, load(scores + k * LANES));
    high = larger(high, load(scores + k * LANES + WIDTH));
  }
  store(tops, low), store(tops + WIDTH, high);
  low_decay = power_of_two(low_decay - low), high_decay = power_of_two(high_decay - high);
  Vector low_weight = load(weights) * low_decay, high_weight = load(weights + WIDTH) * high_decay;
  for (k = 0; k < keys; k++) {
    float* row = scores + k * LANES;
    const Vector x = power_of_two(load(row) - low), y = power_of_two(load(row + WIDTH) - high);
    low_weight += x, high_weight += y;
    store(row, x), store(row + WIDTH, y);
  }
  store(weights, low_weight), store(weights + WIDTH, high_weight);

  int d = 0;
  for (; d + ROWS <= DIM; d += ROWS) mix<ROWS>(at.value + d, scores, keys, low_decay, high_decay, sums + d * LANES);
  if constexpr (DIM % ROWS > 0) mix<DIM % ROWS>(at.value + d, scores, keys, low_decay, high_decay, sums + d * LANES);
}

struct Strides { int64_t batch, head, row; };

template <typename Element>
static void widen_rows(const Element* from, int64_t stride, int rows, float* to) {
  for (int i = 0; i < rows; i++)
    for (int d = 0; d < DIM; d++) to[i * DIM + d] = widen(from[i * stride + d]);
}

// Folds softmax(query key^T * scale) value, each key counted `multiplicity` times, into `total` and its log-sum-exp:
// query (batch, heads, rows, DIM), key and value (batch, heads, keys, DIM), total (batch, heads, rows, DIM), lse
// (batch, heads, rows). Where `fresh`, there is nothing in `total` yet. Causal: query i sees the keys 0 .. i.
extern "C" void fold(
    const ELEMENT* query, const ELEMENT* key, const ELEMENT* value, float* total, float* lse, const int64_t* sizes,
    const Strides* strides, float scale, float log_multiplicity, int causal, int fresh, int threads) {
  const int64_t batch = sizes[0], heads = sizes[1], rows = sizes[2], keys = sizes[3];
  const int64_t blocks = (rows + QUERIES - 1) / QUERIES;
  const Strides q = strides[0], k = strides[1], v = strides[2], t = strides[3], l = strides[4];
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch at;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < batch * heads * blocks; task++) {
      const int64_t b = task / (heads * blocks), h = task / blocks % heads;
      const int64_t first = (blocks - 1 - task % blocks) * QUERIES;  // the last see the most keys where it is causal
      const int count = std::min<int64_t>(QUERIES, rows - first);
      const ELEMENT *queries = query + b * q.batch + h * q.head + first * q.row;
      const ELEMENT *its_keys = key + b * k.batch + h * k.head, *its_values = value + b * v.batch + h * v.head;
      const int padded = (count + LANES - 1) / LANES * LANES;
      for (int i = 0; i < padded; i++)
        for (int d = 0; d < DIM; d++) {
          const float x = i < count ? widen(queries[i * q.row + d]) * scale * LOG2_E : 0.f;
          at.query[i / LANES * LANES * DIM + d * LANES + i % LANES] = x;
        }
      std::fill_n(at.sums, padded * DIM, 0.f);
      std::fill_n(at.weight, padded, 0.f);
      std::fill_n(at.top, padded, std::numeric_limits<float>::lowest());  // above -inf, from which -inf cannot be taken
      const int64_t seen = causal ? std::min<int64_t>(keys, first + count) : keys;
      for (int64_t start = 0; start < seen; start += KEYS) {
        const int together = std::min<int64_t>(KEYS, seen - start);
        widen_rows(its_keys + start * k.row, k.row, together, at.key);
        widen_rows(its_values + start * v.row, v.row, together, at.value);
        for (int i = 0; i < padded; i += LANES) {
          const int64_t before = causal ? first + i - start + 1 : together;  // keys that all lanes see
          const int visible = std::min<int64_t>(together, before + LANES - 1);
          if (visible > 0) take_in(at, i, visible, std::min<int64_t>(before, visible));
        }
      }
      for (int i = 0; i < count; i++) {
        const float own = at.top[i] * LN_2 + std::log(at.weight[i]) + log_multiplicity;
        float* row = total + b * t.batch + h * t.head + (first + i) * t.row;
        float* row_lse = lse + b * l.batch + h * l.head + (first + i) * l.row;
        const float share = fresh ? 1.f : 1.f / (1.f + std::exp(*row_lse - own));
        const float factor = at.weight[i] == 0 ? 0.f : share / at.weight[i];
        const float* sums = at.sums + i / LANES * LANES * DIM + i % LANES;
        for (int d = 0; d < DIM; d++) row[d] = (fresh ? 0.f : row[d] * (1.f - share)) + sums[d * LANES] * factor;
        *row_lse = fresh ? own : std::max(*row_lse, own) + std::log1p(std::exp(-std::abs(*row_lse - own)));
      }
    }
  }
}
