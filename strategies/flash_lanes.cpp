// Flash attention for CPUs with neighbouring queries in the lanes of a vector.
//
// torch's kernel multiplies matrices by a library, which needs many queries a call to run at speed. Here scores lie
// transposed, a row of `LANES` queries for each key: softmax runs over lanes without a reduction across them, and both
// products read keys and values row by row, as they lie. Nothing is packed, so 128 queries are as fast as thousands.
// FlashAttention, arXiv 2205.14135; the running softmax is in powers of two.

#include "flash.h"

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 12;  // rows whose sums, two vectors each, stay in registers
#else
constexpr int ROWS = 6;
#endif
constexpr int LANES = 2 * WIDTH;
constexpr int PADDED = (DIM + LANES - 1) / LANES * LANES;  // a row of whole vectors
// Queries of a task, and keys it visits at once: both with what belongs to them fit into a core's cache.
constexpr int QUERIES = std::clamp(16384 / DIM / LANES, 1, 256 / LANES) * LANES;
constexpr int KEYS = std::clamp(16384 / DIM, 32, 256);
constexpr int BACK_QUERIES = std::max(QUERIES / 2 / LANES, 1) * LANES, BACK_KEYS = KEYS / 4;  // on the way back

// scores (COUNT, LANES) = key (COUNT, PADDED) times query (DIM, LANES).
template <int COUNT>
static __attribute__((noinline)) void score(const float* key, const float* query, float* scores) {
  Vector sums[COUNT][2] = {};
  for (int d = 0; d < DIM; d++) {
    const Vector low = load(query + d * LANES), high = load(query + d * LANES + WIDTH);
    for (int i = 0; i < COUNT; i++) {
      const Vector x = splat(key[i * PADDED + d]);
      sums[i][0] += x * low;
      sums[i][1] += x * high;
    }
  }
  for (int i = 0; i < COUNT; i++) store(scores + i * LANES, sums[i][0]), store(scores + i * LANES + WIDTH, sums[i][1]);
}

// total (COUNT, PADDED) += factors times rows, (`count`, PADDED) in each group: row j of a group has the factors at
// ALONG * j, those for the rows of total ACROSS apart, and those of the groups `apart`.
template <int COUNT, int ACROSS, int ALONG>
static __attribute__((noinline)) void add_up(
    const float* factors, const float* rows, int count, float* total, int groups = 1, int apart = 0) {
  for (int d = 0; d < PADDED; d += LANES) {
    Vector sums[COUNT][2] = {};  // apart from the total: many small terms lose less to rounding
    for (int group = 0; group < groups; group++) {
      const float *its = factors + group * apart, *row = rows + group * count * PADDED + d;
      for (int j = 0; j < count; j++) {
        const Vector low = load(row + j * PADDED), high = load(row + j * PADDED + WIDTH);
        for (int i = 0; i < COUNT; i++) {
          const Vector x = splat(its[i * ACROSS + j * ALONG]);
          sums[i][0] += x * low;
          sums[i][1] += x * high;
        }
      }
    }
    for (int i = 0; i < COUNT; i++) {
      float* its = total + i * PADDED + d;
      store(its, load(its) + sums[i][0]), store(its + WIDTH, load(its + WIDTH) + sums[i][1]);
    }
  }
}

// Calls run(count, i) for blocks of rows from i on that cover from .. until - 1, all of COUNT rows but the last.
template <int COUNT, typename Run>
static void in_blocks(int from, int until, const Run& run) {
  for (; from + COUNT <= until; from += COUNT) run(std::integral_constant<int, COUNT>{}, from);
  if constexpr (COUNT > 1) in_blocks<COUNT - 1>(from, until, run);
}

static void score_all(const float* key, const float* query, int keys, float* scores) {
  in_blocks<ROWS>(0, keys, [&](auto count, int k) { score<count()>(key + k * PADDED, query, scores + k * LANES); });
}

// total (LANES, PADDED) += weights (keys, LANES), transposed, times rows (keys, PADDED).
static void mix(const float* weights, const float* rows, int keys, float* total) {
  in_blocks<ROWS>(0, LANES, [&](auto count, int i) {
    add_up<count(), 1, LANES>(weights + i, rows, keys, total + i * PADDED);
  });
}

// What queries do not see of the keys at hand scores -inf.
static void hide(Visible<LANES> visible, float* scores) {
  for (int k = std::max(visible.all, 0); k < visible.some; k++)
    std::fill_n(scores + k * LANES, k - visible.all + 1, -std::numeric_limits<float>::infinity());
}

template <typename Element>
static void widen_rows(const Element* from, int64_t stride, int rows, float* to) {
  for (int i = 0; i < rows; i++) {
    for (int d = 0; d < DIM; d++) to[i * PADDED + d] = widen(from[i * stride + d]);
    for (int d = DIM; d < PADDED; d++) to[i * PADDED + d] = 0.f;
  }
}

// columns (DIM, LANES) = rows (LANES, PADDED), transposed.
static void to_columns(const float* rows, float* columns) {
#if defined(__AVX512F__)
  for (int j = 0; j < LANES; j += WIDTH)
    for (int d = 0; d < DIM; d += WIDTH) {
      __m512i square[WIDTH];
      transpose(rows + j * PADDED + d, PADDED * 4, square);
      for (int i = 0; i < std::min(WIDTH, DIM - d); i++) _mm512_storeu_si512(columns + (d + i) * LANES + j, square[i]);
    }
#else
  for (int d = 0; d < DIM; d++)
    for (int j = 0; j < LANES; j++) columns[d * LANES + j] = rows[j * PADDED + d];
#endif
}

// What a thread works on.
struct Scratch {
  alignas(64) float query[QUERIES * DIM];  // by groups of LANES queries: (DIM, LANES)
  float sums[QUERIES * PADDED];            // of values
  float top[QUERIES], weight[QUERIES];     // largest score, to the base of two, and the sum of 2^(score - top)
  float key[KEYS * PADDED], value[KEYS * PADDED];
  float scores[KEYS * LANES];

  void take_queries(const ELEMENT* from, int64_t stride, int count, int padded, float scale) {
    for (int i = 0; i < padded; i += LANES) {
      const int some = std::min(LANES, count - i);
      widen_rows(from + i * stride, stride, some, key);
      std::fill_n(key + some * PADDED, (LANES - some) * PADDED, 0.f);
      for (int j = 0; j < some * PADDED; j++) key[j] = key[j] * scale * LOG2_E;
      to_columns(key, query + i * DIM);
    }
  }
  void take_keys(const ELEMENT* from, int64_t stride, int count) { widen_rows(from, stride, count, key); }
  void take_values(const ELEMENT* from, int64_t stride, int count) { widen_rows(from, stride, count, value); }
  void take_in(int first, Visible<LANES> visible, float scale);
};

void Scratch::take_in(int first, Visible<LANES> visible, float) {
  const int keys = visible.some;
  if (keys == 0) return;
  float *tops = top + first, *weights = weight + first;
  score_all(key, query + first * DIM, keys, scores);
  hide(visible, scores);

  Vector low_decay = load(tops), high_decay = load(tops + WIDTH), low = low_decay, high = high_decay;
  for (int k = 0; k < keys; k++) {
    low = larger(low, load(scores + k * LANES));
    high = larger(high, load(scores + k * LANES + WIDTH));
  }
  store(tops, low), store(tops + WIDTH, high);
  low_decay = power_of_two(low_decay - low), high_decay = power_of_two(high_decay - high);
  Vector low_weight = load(weights) * low_decay, high_weight = load(weights + WIDTH) * high_decay;
  for (int k = 0; k < keys; k++) {
    float* row = scores + k * LANES;
    const Vector x = power_of_two(load(row) - low), y = power_of_two(load(row + WIDTH) - high);
    low_weight += x, high_weight += y;
    store(row, x), store(row + WIDTH, y);
  }
  store(weights, low_weight), store(weights + WIDTH, high_weight);
  float* its = sums + first * PADDED;
  for (int i = 0; i < LANES; i++) {
    const float decay = i < WIDTH ? low_decay[i] : high_decay[i - WIDTH];
    for (int d = 0; d < PADDED; d++) its[i * PADDED + d] *= decay;
  }
  mix(scores, value, keys, its);
}

extern "C" void fold(const Fold& call, int threads) {
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch own;
    fold_share<LANES, QUERIES, KEYS, PADDED>(call, looked_up(own), LN_2);
  }
}

// What a thread works on, on the way back.
struct BackScratch {
  alignas(64) float query[BACK_QUERIES * DIM], gradient[BACK_QUERIES * DIM];  // by groups of queries: (DIM, LANES)
  float query_rows[BACK_QUERIES * PADDED], gradient_rows[BACK_QUERIES * PADDED];
  float sums[BACK_QUERIES * PADDED];             // the gradient of the query
  float lse[BACK_QUERIES], inner[BACK_QUERIES];  // to the base of two; gradient times output
  float key[BACK_KEYS * PADDED], value[BACK_KEYS * PADDED], d_key[BACK_KEYS * PADDED], d_value[BACK_KEYS * PADDED];
  float weights[BACK_QUERIES * BACK_KEYS], slopes[BACK_QUERIES * BACK_KEYS];  // by groups: (BACK_KEYS, LANES)
};

static_assert(sizeof(Scratch) + sizeof(BackScratch) <= SCRATCH_BYTES);

template <typename Element>
struct Rows { const Element* from; int64_t stride; };

// Lays out `count` queries with what belongs to them, and zeros up to `padded`.
static void take_up(
    BackScratch& at, int count, int padded, float scale, Rows<ELEMENT> gradient, Rows<ELEMENT> query, Rows<ELEMENT> out,
    Rows<float> lse) {
  widen_rows(query.from, query.stride, count, at.query_rows);
  widen_rows(gradient.from, gradient.stride, count, at.gradient_rows);
  std::fill_n(at.query_rows + count * PADDED, (padded - count) * PADDED, 0.f);
  std::fill_n(at.gradient_rows + count * PADDED, (padded - count) * PADDED, 0.f);
  for (int i = 0; i < padded; i++) {
    at.inner[i] = 0.f, at.lse[i] = i < count ? lse.from[i * lse.stride] * LOG2_E : 0.f;
    for (int d = 0; d < DIM; d++) {
      at.query_rows[i * PADDED + d] *= scale;
      if (i < count) at.inner[i] += at.gradient_rows[i * PADDED + d] * widen(out.from[i * out.stride + d]);
    }
  }
  for (int i = 0; i < padded; i += LANES) {
    to_columns(at.query_rows + i * PADDED, at.query + i * DIM);
    to_columns(at.gradient_rows + i * PADDED, at.gradient + i * DIM);
  }
  for (int i = 0; i < padded * DIM; i++) at.query[i] *= LOG2_E;  // rounded as on the way there
  std::fill_n(at.sums, padded * PADDED, 0.f);
}

// The group of queries from `first` on: its weights of the keys at hand, the gradient of its scores, and its own.
static void go_back(BackScratch& at, int first, int keys, Visible<LANES> visible) {
  float *weights = at.weights + first * BACK_KEYS, *slopes = at.slopes + first * BACK_KEYS;
  score_all(at.key, at.query + first * DIM, visible.some, weights);
  hide(visible, weights);
  score_all(at.value, at.gradient + first * DIM, visible.some, slopes);
  const float *lse = at.lse + first, *inner = at.inner + first;
  for (int k = 0; k < visible.some; k++)
    for (int half = 0; half < LANES; half += WIDTH) {
      float *weight = weights + k * LANES + half, *slope = slopes + k * LANES + half;
      const Vector x = power_of_two(load(weight) - load(lse + half));
      store(weight, x), store(slope, x * (load(slope) - load(inner + half)));
    }
  std::fill_n(weights + visible.some * LANES, (keys - visible.some) * LANES, 0.f);
  std::fill_n(slopes + visible.some * LANES, (keys - visible.some) * LANES, 0.f);
  mix(slopes, at.key, visible.some, at.sums + first * PADDED);
}

// Adds the first DIM numbers of each row of `from`, times a factor.
static void add_rows(const float* from, int rows, float factor, float* to, int64_t stride) {
  for (int i = 0; i < rows; i++)
    for (int d = 0; d < DIM; d++) to[i * stride + d] += from[i * PADDED + d] * factor;
}

// How many neighbours of a batch element share rows with it, itself included, by the strides of what is written.
static int64_t neighbours(Strides strides, int64_t batch, int64_t rows) {
  if (batch == 1 || strides.batch == 0) return batch;
  const int64_t reach = (rows - 1) * strides.row + DIM;
  return std::min(batch, (reach + strides.batch - 1) / strides.batch);
}

// Adds to d_query (batch, heads, rows, DIM), d_key and d_value (batch, heads, keys, DIM) the gradients that follow from
// that of the output and the log-sum-exp of a softmax over these keys and maybe others (FlashAttention, algorithm 4).
// Batch elements may share keys.
struct Unfold {
  const ELEMENT *gradient, *query, *key, *value, *out;
  const float* lse;
  float *d_query, *d_key, *d_value;
  int64_t batch, heads, rows, keys;
  Strides gradient_by, query_by, key_by, value_by, out_by, lse_by, d_query_by, d_key_by, d_value_by;
  float scale;
  int causal;
};

// A thread's share of the batch elements from `turn` on that are `apart`, and have no key in common.
static void unfold_share(const Unfold& call, int64_t turn, int64_t apart, BackScratch& at) {
  const int64_t some = (call.batch - turn + apart - 1) / apart;
#pragma omp for schedule(dynamic)
  for (int64_t task = 0; task < some * call.heads; task++) {
    const int64_t b = turn + task / call.heads * apart, h = task % call.heads;
    for (int64_t first = 0; first < call.rows; first += BACK_QUERIES) {
      const int count = std::min<int64_t>(BACK_QUERIES, call.rows - first);
      const int padded = (count + LANES - 1) / LANES * LANES;
      take_up(at, count, padded, call.scale, {call.gradient + call.gradient_by.at(b, h, first), call.gradient_by.row},
              {call.query + call.query_by.at(b, h, first), call.query_by.row},
              {call.out + call.out_by.at(b, h, first), call.out_by.row},
              {call.lse + call.lse_by.at(b, h, first), call.lse_by.row});
      const int64_t seen = call.causal ? std::min<int64_t>(call.keys, first + count) : call.keys;
      for (int64_t start = 0; start < seen; start += BACK_KEYS) {
        const int together = std::min<int64_t>(BACK_KEYS, seen - start);
        widen_rows(call.key + call.key_by.at(b, h, start), call.key_by.row, together, at.key);
        widen_rows(call.value + call.value_by.at(b, h, start), call.value_by.row, together, at.value);
        for (int i = 0; i < padded; i += LANES)
          go_back(at, i, together, Visible<LANES>(call.causal, first + i - start, together));
        std::fill_n(at.d_key, together * PADDED, 0.f);
        std::fill_n(at.d_value, together * PADDED, 0.f);
        in_blocks<ROWS>(0, together, [&](auto count, int i) {
          const int groups = padded / LANES, size = BACK_KEYS * LANES;
          const float *weights = at.weights + i * LANES, *slopes = at.slopes + i * LANES;
          add_up<count(), LANES, 1>(weights, at.gradient_rows, LANES, at.d_value + i * PADDED, groups, size);
          add_up<count(), LANES, 1>(slopes, at.query_rows, LANES, at.d_key + i * PADDED, groups, size);
        });
        add_rows(at.d_key, together, 1.f, call.d_key + call.d_key_by.at(b, h, start), call.d_key_by.row);
        add_rows(at.d_value, together, 1.f, call.d_value + call.d_value_by.at(b, h, start), call.d_value_by.row);
      }
      add_rows(at.sums, count, call.scale, call.d_query + call.d_query_by.at(b, h, first), call.d_query_by.row);
    }
  }
}

extern "C" void unfold(const Unfold& call, int threads) {
  const int64_t apart = std::max(neighbours(call.d_key_by, call.batch, call.keys),
                                 neighbours(call.d_value_by, call.batch, call.keys));
#pragma omp parallel num_threads(threads)
  {
    static thread_local BackScratch own;
    BackScratch& at = looked_up(own);
    for (int64_t turn = 0; turn < apart; turn++) unfold_share(call, turn, apart, at);
  }
}
