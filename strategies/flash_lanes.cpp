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

// What a thread works on.
struct Scratch {
  alignas(64) float query[QUERIES * DIM];  // by groups of LANES queries: (DIM, LANES)
  float sums[QUERIES * PADDED];            // of values
  float top[QUERIES], weight[QUERIES];     // largest score, and the sum of 2^(score - top)
  float key[KEYS * PADDED], value[KEYS * PADDED];
  float scores[KEYS * LANES];
};

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

// What of `keys` keys from `start` on LANES queries from `first` on see: so many, the first `all` of them all lanes.
struct Visible {
  int some, all;
  Visible(bool causal, int64_t first, int64_t start, int keys) {
    const int64_t before = causal ? first - start + 1 : keys;
    some = std::max<int64_t>(0, std::min<int64_t>(keys, before + LANES - 1));
    all = std::min<int64_t>(before, some);
  }
  void hide_the_others(float* scores) const {
    for (int k = std::max(all, 0); k < some; k++)
      std::fill_n(scores + k * LANES, std::min(k - all + 1, LANES), -std::numeric_limits<float>::infinity());
  }
};

// The group of queries from `first` on takes in what it sees of the keys at hand.
static void take_in(Scratch& at, int first, Visible visible) {
  const int keys = visible.some;
  float *scores = at.scores, *tops = at.top + first, *weights = at.weight + first;
  score_all(at.key, at.query + first * DIM, keys, scores);
  visible.hide_the_others(scores);

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
  float* sums = at.sums + first * PADDED;
  for (int i = 0; i < LANES; i++) {
    const float decay = i < WIDTH ? low_decay[i] : high_decay[i - WIDTH];
    for (int d = 0; d < PADDED; d++) sums[i * PADDED + d] *= decay;
  }
  mix(scores, at.value, keys, sums);
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
      for (int i = 0; i < WIDTH; i++) square[i] = _mm512_loadu_si512(rows + (j + i) * PADDED + d);
      transpose(square);
      for (int i = 0; i < std::min(WIDTH, DIM - d); i++) _mm512_storeu_si512(columns + (d + i) * LANES + j, square[i]);
    }
#else
  for (int d = 0; d < DIM; d++)
    for (int j = 0; j < LANES; j++) columns[d * LANES + j] = rows[j * PADDED + d];
#endif
}

// Folds softmax(query key^T * scale) value, each key counted `multiplicity` times, into `total` and its log-sum-exp:
// query (batch, heads, rows, DIM), key and value (batch, heads, keys, DIM), total (batch, heads, rows, DIM), lse
// (batch, heads, rows). `total` is of ELEMENTs where `found` is NARROW. Causal: query i sees the keys 0 .. i.
extern "C" void fold(
    const ELEMENT* query, const ELEMENT* key, const ELEMENT* value, void* total, float* lse, const int64_t* sizes,
    const Strides* strides, float scale, float log_multiplicity, int causal, Found found, int threads) {
  const int64_t batch = sizes[0], heads = sizes[1], rows = sizes[2], keys = sizes[3];
  const int64_t blocks = (rows + QUERIES - 1) / QUERIES;
  const Strides q = strides[0], k = strides[1], v = strides[2];
  const Results results = {total, lse, strides[3], strides[4], found};
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch own;
    Scratch& at = own;  // found once, and not at every access
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < batch * heads * blocks; task++) {
      const int64_t b = task / (heads * blocks), h = task / blocks % heads;
      const int64_t first = (blocks - 1 - task % blocks) * QUERIES;  // the last see the most keys where it is causal
      const int count = std::min<int64_t>(QUERIES, rows - first);
      const ELEMENT *queries = query + b * q.batch + h * q.head + first * q.row;
      const ELEMENT *its_keys = key + b * k.batch + h * k.head, *its_values = value + b * v.batch + h * v.head;
      const int padded = (count + LANES - 1) / LANES * LANES;
      for (int i = 0; i < padded; i += LANES) {
        const int some = std::min(LANES, count - i);
        widen_rows(queries + i * q.row, q.row, some, at.key);
        std::fill_n(at.key + some * PADDED, (LANES - some) * PADDED, 0.f);
        for (int j = 0; j < some * PADDED; j++) at.key[j] = at.key[j] * scale * LOG2_E;
        to_columns(at.key, at.query + i * DIM);
      }
      std::fill_n(at.sums, padded * PADDED, 0.f);
      std::fill_n(at.weight, padded, 0.f);
      std::fill_n(at.top, padded, std::numeric_limits<float>::lowest());  // above -inf, from which -inf cannot be taken
      const int64_t seen = causal ? std::min<int64_t>(keys, first + count) : keys;
      for (int64_t start = 0; start < seen; start += KEYS) {
        const int together = std::min<int64_t>(KEYS, seen - start);
        widen_rows(its_keys + start * k.row, k.row, together, at.key);
        widen_rows(its_values + start * v.row, v.row, together, at.value);
        for (int i = 0; i < padded; i += LANES) {
          const Visible visible(causal, first + i, start, together);
          if (visible.some > 0) take_in(at, i, visible);
        }
      }
      finish(at.top, at.weight, padded, log_multiplicity);
      results.take(b, h, first, count, at.sums, PADDED, at.weight, at.top);
    }
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
static void go_back(BackScratch& at, int first, int keys, Visible visible) {
  float *weights = at.weights + first * BACK_KEYS, *slopes = at.slopes + first * BACK_KEYS;
  score_all(at.key, at.query + first * DIM, visible.some, weights);
  visible.hide_the_others(weights);
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
// Batch elements may share keys. Strides: of gradient, query, key, value, out, lse, d_query, d_key and d_value.
extern "C" void unfold(
    const ELEMENT* gradient, const ELEMENT* query, const ELEMENT* key, const ELEMENT* value, const ELEMENT* out,
    const float* lse, float* d_query, float* d_key, float* d_value, const int64_t* sizes, const Strides* strides,
    float scale, int causal, int threads) {
  const int64_t batch = sizes[0], heads = sizes[1], rows = sizes[2], keys = sizes[3];
  const Strides g = strides[0], q = strides[1], k = strides[2], v = strides[3], o = strides[4], l = strides[5];
  const Strides dq = strides[6], dk = strides[7], dv = strides[8];
  const int64_t apart = std::max(neighbours(dk, batch, keys), neighbours(dv, batch, keys));
#pragma omp parallel num_threads(threads)
  for (int64_t turn = 0; turn < apart; turn++) {  // in each, batch elements that share nothing
    static thread_local BackScratch own;
    BackScratch& at = own;
    const int64_t some = (batch - turn + apart - 1) / apart;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < some * heads; task++) {
      const int64_t b = turn + task / heads * apart, h = task % heads;
      const ELEMENT *its_keys = key + b * k.batch + h * k.head, *its_values = value + b * v.batch + h * v.head;
      float *to_keys = d_key + b * dk.batch + h * dk.head, *to_values = d_value + b * dv.batch + h * dv.head;
      for (int64_t first = 0; first < rows; first += BACK_QUERIES) {
        const int count = std::min<int64_t>(BACK_QUERIES, rows - first), padded = (count + LANES - 1) / LANES * LANES;
        take_up(at, count, padded, scale, {gradient + b * g.batch + h * g.head + first * g.row, g.row},
                {query + b * q.batch + h * q.head + first * q.row, q.row},
                {out + b * o.batch + h * o.head + first * o.row, o.row},
                {lse + b * l.batch + h * l.head + first * l.row, l.row});
        const int64_t seen = causal ? std::min<int64_t>(keys, first + count) : keys;
        for (int64_t start = 0; start < seen; start += BACK_KEYS) {
          const int together = std::min<int64_t>(BACK_KEYS, seen - start);
          widen_rows(its_keys + start * k.row, k.row, together, at.key);
          widen_rows(its_values + start * v.row, v.row, together, at.value);
          for (int i = 0; i < padded; i += LANES) go_back(at, i, together, Visible(causal, first + i, start, together));
          std::fill_n(at.d_key, together * PADDED, 0.f);
          std::fill_n(at.d_value, together * PADDED, 0.f);
          in_blocks<ROWS>(0, together, [&](auto count, int i) {
            const int groups = padded / LANES, size = BACK_KEYS * LANES;
            const float *weights = at.weights + i * LANES, *slopes = at.slopes + i * LANES;
            add_up<count(), LANES, 1>(weights, at.gradient_rows, LANES, at.d_value + i * PADDED, groups, size);
            add_up<count(), LANES, 1>(slopes, at.query_rows, LANES, at.d_key + i * PADDED, groups, size);
          });
          add_rows(at.d_key, together, 1.f, to_keys + start * dk.row, dk.row);
          add_rows(at.d_value, together, 1.f, to_values + start * dv.row, dv.row);
        }
        add_rows(at.sums, count, scale, d_query + b * dq.batch + h * dq.head + first * dq.row, dq.row);
      }
    }
  }
}
