// Flash attention for CPUs with AMX, which multiplies tiles of 16 rows of bfloat16 and adds up in float32.
//
// The left operand of a product lies as it is, row by row. The right one lies in tiles of 16 rows of 16 pairs, a pair
// being two numbers that are added up: of the dimensions of a key, and of the keys for a dimension of their values.
// FlashAttention, arXiv 2205.14135; the running softmax is in powers of two. Weights are rounded to bfloat16.

#include "flash.h"

#include <sys/syscall.h>
#include <unistd.h>

constexpr int SIDE = 16;        // of a tile
constexpr int BLOCK = 2 * SIDE;  // two by two tiles are multiplied at once; a row of a left tile has as many numbers
constexpr int PADDED = (DIM + BLOCK - 1) / BLOCK * BLOCK;
// Queries of a task, and keys it visits at once: both with what belongs to them fit into a core's cache.
constexpr int QUERIES = std::clamp(16384 / PADDED / BLOCK, 1, 256 / BLOCK) * BLOCK, KEYS = 2 * QUERIES;

typedef uint32_t Tile[SIDE][SIDE];

// What a thread works on.
struct Scratch {
  alignas(64) ELEMENT query[QUERIES * PADDED];
  Tile key[KEYS / SIDE][PADDED / BLOCK], value[PADDED / SIDE][KEYS / BLOCK];
  float scores[BLOCK * KEYS];
  alignas(64) ELEMENT weights[BLOCK * KEYS];
  float sums[QUERIES * PADDED], added[BLOCK * BLOCK];  // of values
  float top[QUERIES], weight[QUERIES];  // largest score, still without its factor, and the sum of 2^(score - top)
};

// All that is to be written before is, and nothing is read too early: GCC does not know what memory instructions for
// tiles read and write. What `at` points to is kept in memory.
static inline void in_memory(const void* at) { asm volatile("" : : "r"(at) : "memory"); }

static_assert(sizeof(Scratch) <= SCRATCH_BYTES);

// Eight tiles of full size, and afterwards those that whoever works on this thread too had set up.
class FullTiles {
  struct alignas(64) Shape {
    uint8_t palette = 0, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } before;

 public:
  FullTiles() {
    in_memory(&before);
    _tile_storeconfig(&before);
    in_memory(&before);
    Shape full;
    full.palette = 1;
    std::fill_n(full.bytes, 8, 64);
    std::fill_n(full.rows, 8, SIDE);
    in_memory(&full);
    _tile_loadconfig(&full);
  }
  ~FullTiles() {
    in_memory(&before);
    before.palette ? _tile_loadconfig(&before) : _tile_release();
  }
};

// out (BLOCK, BLOCK) = left (BLOCK, BLOCK * steps) times two rows of `steps` tiles, `apart` from each other.
static void multiply(const ELEMENT* left, int row, const Tile* right, int apart, int steps, float* out, int out_row) {
  in_memory(left);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int step = 0; step < steps; step++) {
    _tile_loadd(4, left + step * BLOCK, row * 2);
    _tile_loadd(5, left + SIDE * row + step * BLOCK, row * 2);
    _tile_loadd(6, right + step, 64);
    _tile_loadd(7, right + apart + step, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, out_row * 4);
  _tile_stored(1, out + SIDE, out_row * 4);
  _tile_stored(2, out + SIDE * out_row, out_row * 4);
  _tile_stored(3, out + SIDE * out_row + SIDE, out_row * 4);
  in_memory(out);
}

// Which of the BLOCK numbers from `first` on come before `until`.
static __mmask32 up_to(int until, int first) {
  return until - first >= BLOCK ? ~0u : until <= first ? 0u : (1u << (until - first)) - 1;
}

static void take_queries(const ELEMENT* from, int64_t stride, int count, int padded, ELEMENT* to) {
  for (int i = 0; i < padded; i++)
    for (int d = 0; d < PADDED; d += BLOCK) {
      const __mmask32 there = i < count ? up_to(DIM, d) : 0;
      _mm512_store_si512(to + i * PADDED + d, _mm512_maskz_loadu_epi16(there, from + i * stride + d));
    }
}

static void take_keys(const ELEMENT* from, int64_t stride, int count, Tile (*to)[PADDED / BLOCK]) {
  for (int first = 0; first < (count + BLOCK - 1) / BLOCK * BLOCK; first += SIDE)
    for (int d = 0; d < PADDED; d += BLOCK) {
      __m512i rows[SIDE];
      const ELEMENT* its = from + first * stride + d;
      const bool whole = DIM % BLOCK == 0 && first + SIDE <= count;
      for (int i = 0; i < SIDE && whole; i++) rows[i] = _mm512_loadu_si512(its + i * stride);  // faster without masks
      for (int i = 0; i < SIDE && !whole; i++)
        rows[i] = _mm512_maskz_loadu_epi16(first + i < count ? up_to(DIM, d) : 0, its + i * stride);
      transpose(rows);
      for (int i = 0; i < SIDE; i++) _mm512_store_si512(to[first / SIDE][d / BLOCK][i], rows[i]);
    }
}

static void take_values(const ELEMENT* from, int64_t stride, int count, Tile (*to)[KEYS / BLOCK]) {
  for (int k = 0; k < (count + BLOCK - 1) / BLOCK * BLOCK; k += 2)
    for (int d = 0; d < PADDED; d += BLOCK) {
      const __m512i even = _mm512_maskz_loadu_epi16(k < count ? up_to(DIM, d) : 0, from + k * stride + d);
      const __m512i odd = _mm512_maskz_loadu_epi16(k + 1 < count ? up_to(DIM, d) : 0, from + (k + 1) * stride + d);
      const auto pair = [](__m256i low, __m256i high) {
        return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
      };
      const auto half = [&](int tile, __m512i pairs) {
        _mm512_store_si512(to[d / SIDE + tile][k / BLOCK][k % BLOCK / 2], pairs);
      };
      half(0, pair(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd)));
      half(1, pair(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1)));
    }
}

// Row i of the block takes in the first `visible` of `columns` scores: they become weights. Returns the decay of what
// the row had taken in before.
static float take_in(Scratch& at, int row, int i, int visible, int columns, float factor) {
  float* scores = at.scores + i * KEYS;
  std::fill_n(scores + visible, columns - visible, -std::numeric_limits<float>::infinity());
  Vector largest = load(scores);
  for (int k = SIDE; k < columns; k += SIDE) largest = larger(largest, load(scores + k));
  const float before = at.top[row], top = std::max(before, _mm512_reduce_max_ps((__m512)largest));
  Vector weight = {};
  for (int k = 0; k < columns; k += BLOCK) {
    const Vector low = power_of_two((load(scores + k) - top) * factor);  // never above 0, however it is rounded
    const Vector high = power_of_two((load(scores + k + SIDE) - top) * factor);
    weight += low + high;
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    _mm512_store_si512(at.weights + i * KEYS + k, (__m512i)both);
  }
  const float decay = power_of_two(splat((before - top) * factor))[0];
  at.top[row] = top, at.weight[row] = at.weight[row] * decay + _mm512_reduce_add_ps((__m512)weight);
  return decay;
}

// The BLOCK queries from `first` on, of which the first sees `visible` keys of `keys`, and if causal each one more.
static void take_in_block(Scratch& at, int first, int64_t visible, int keys, bool causal, float factor) {
  const int most = causal ? std::min<int64_t>(keys, visible + BLOCK - 1) : keys;
  if (most <= 0) return;
  const int columns = (most + BLOCK - 1) / BLOCK * BLOCK;
  for (int k = 0; k < columns; k += BLOCK)
    multiply(at.query + first * PADDED, PADDED, at.key[k / SIDE], PADDED / BLOCK, PADDED / BLOCK, at.scores + k, KEYS);
  float decays[BLOCK];
  for (int i = 0; i < BLOCK; i++) {
    const int its = causal ? std::clamp<int64_t>(visible + i, 0, keys) : keys;
    decays[i] = take_in(at, first + i, i, its, columns, factor);
  }
  for (int d = 0; d < PADDED; d += BLOCK) {
    multiply(at.weights, KEYS, at.value[d / SIDE], KEYS / BLOCK, columns / BLOCK, at.added, BLOCK);
    for (int i = 0; i < BLOCK; i++) {
      float *sums = at.sums + (first + i) * PADDED + d, *added = at.added + i * BLOCK;
      for (int half = 0; half < BLOCK; half += SIDE)
        store(sums + half, load(sums + half) * decays[i] + load(added + half));
    }
  }
}

// As that of flash_lanes.cpp.
extern "C" void fold(
    const ELEMENT* query, const ELEMENT* key, const ELEMENT* value, void* total, float* lse, const int64_t* sizes,
    const Strides* strides, float scale, float log_multiplicity, int causal, Found found, int threads) {
  const int64_t batch = sizes[0], heads = sizes[1], rows = sizes[2], keys = sizes[3];
  const int64_t blocks = (rows + QUERIES - 1) / QUERIES;
  const Strides q = strides[0], k = strides[1], v = strides[2];
  const Results results = {total, lse, strides[3], strides[4], found};
#pragma omp parallel num_threads(threads)
  {
    const FullTiles tiles;
    static thread_local Scratch own;
    Scratch& at = own;  // found once, and not at every access
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < batch * heads * blocks; task++) {
      const int64_t b = task / (heads * blocks), h = task / blocks % heads;
      const int64_t first = (blocks - 1 - task % blocks) * QUERIES;  // the last see the most keys where it is causal
      const int count = std::min<int64_t>(QUERIES, rows - first), padded = (count + BLOCK - 1) / BLOCK * BLOCK;
      const ELEMENT *its_keys = key + b * k.batch + h * k.head, *its_values = value + b * v.batch + h * v.head;
      take_queries(query + b * q.batch + h * q.head + first * q.row, q.row, count, padded, at.query);
      std::fill_n(at.sums, padded * PADDED, 0.f);
      std::fill_n(at.weight, padded, 0.f);
      std::fill_n(at.top, padded, std::numeric_limits<float>::lowest());  // above -inf, from which -inf cannot be taken
      const int64_t seen = causal ? std::min<int64_t>(keys, first + count) : keys;
      for (int64_t start = 0; start < seen; start += KEYS) {
        const int together = std::min<int64_t>(KEYS, seen - start);
        take_keys(its_keys + start * k.row, k.row, together, at.key);
        take_values(its_values + start * v.row, v.row, together, at.value);
        for (int i = 0; i < padded; i += BLOCK)
          take_in_block(at, i, first + i - start + 1, together, causal, scale * LOG2_E);
      }
      for (int i = 0; i < padded; i++) at.top[i] *= scale * LOG2_E;
      finish(at.top, at.weight, padded, log_multiplicity);
      results.take(b, h, first, count, at.sums, PADDED, at.weight, at.top);
    }
  }
}

// Asks the system for the registers of tiles, once for the process; whether they may be used.
extern "C" int permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }  // ARCH_REQ_XCOMP_PERM, of tile data
