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

// All that is to be written before is, and nothing is read too early: GCC does not know what memory instructions for
// tiles read and write. What `at` points to is kept in memory.
static inline void in_memory(const void* at) { asm volatile("" : : "r"(at) : "memory"); }

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

// What a thread works on.
struct Scratch {
  alignas(64) ELEMENT query[QUERIES * PADDED];
  Tile key[KEYS / SIDE][PADDED / BLOCK], value[PADDED / SIDE][KEYS / BLOCK];
  float scores[BLOCK * KEYS];
  alignas(64) ELEMENT weights[BLOCK * KEYS];
  float sums[QUERIES * PADDED], added[BLOCK * BLOCK];  // of values
  float top[QUERIES], weight[QUERIES];  // largest score, still without its factor, and the sum of weights

  void take_queries(const ELEMENT* from, int64_t stride, int count, int padded, float scale);
  void take_keys(const ELEMENT* from, int64_t stride, int count);
  void take_values(const ELEMENT* from, int64_t stride, int count);
  void take_in(int first, Visible<BLOCK> visible, float scale);
  float top_of(int i, int visible, int columns);
  float weigh(int i, float largest, int columns, float factor);
};

static_assert(sizeof(Scratch) <= SCRATCH_BYTES);

void Scratch::take_queries(const ELEMENT* from, int64_t stride, int count, int padded, float) {
  for (int i = 0; i < padded; i++)
    for (int d = 0; d < PADDED; d += BLOCK) {
      const __mmask32 there = i < count ? up_to(DIM, d) : 0;
      _mm512_store_si512(query + i * PADDED + d, _mm512_maskz_loadu_epi16(there, from + i * stride + d));
    }
}

void Scratch::take_keys(const ELEMENT* from, int64_t stride, int count) {
  for (int first = 0; first < (count + BLOCK - 1) / BLOCK * BLOCK; first += SIDE)
    for (int d = 0; d < PADDED; d += BLOCK) {
      const ELEMENT* its = from + first * stride + d;
      Tile padded;
      __m512i columns[SIDE];
      if (DIM % BLOCK == 0 && first + SIDE <= count) {
        transpose(its, stride * sizeof(ELEMENT), columns);
      } else {
        for (int i = 0; i < SIDE; i++)
          _mm512_storeu_si512(padded[i], _mm512_maskz_loadu_epi16(first + i < count ? up_to(DIM, d) : 0, its + i * stride));
        transpose(padded, sizeof padded[0], columns);
      }
      for (int i = 0; i < SIDE; i++) _mm512_store_si512(key[first / SIDE][d / BLOCK][i], columns[i]);
    }
}

void Scratch::take_values(const ELEMENT* from, int64_t stride, int count) {
  for (int k = 0; k < (count + BLOCK - 1) / BLOCK * BLOCK; k += 2)
    for (int d = 0; d < PADDED; d += BLOCK) {
      const __m512i even = _mm512_maskz_loadu_epi16(k < count ? up_to(DIM, d) : 0, from + k * stride + d);
      const __m512i odd = _mm512_maskz_loadu_epi16(k + 1 < count ? up_to(DIM, d) : 0, from + (k + 1) * stride + d);
      const auto pair = [](__m256i low, __m256i high) {
        return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
      };
      const auto half = [&](int tile, __m512i pairs) {
        _mm512_store_si512(value[d / SIDE + tile][k / BLOCK][k % BLOCK / 2], pairs);
      };
      half(0, pair(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd)));
      half(1, pair(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1)));
    }
}

// The largest score in row i, of whose `columns` the first are `visible`; the others become -inf.
float Scratch::top_of(int i, int visible, int columns) {
  float* its = scores + i * KEYS;
  std::fill_n(its + visible, columns - visible, -std::numeric_limits<float>::infinity());
  Vector low = load(its), high = load(its + SIDE);
  for (int k = BLOCK; k < columns; k += BLOCK)
    low = larger(low, load(its + k)), high = larger(high, load(its + k + SIDE));
  return _mm512_reduce_max_ps((__m512)larger(low, high));
}

// Makes weights of row i of the scores, and returns their sum.
float Scratch::weigh(int i, float largest, int columns, float factor) {
  const float* its = scores + i * KEYS;
  Vector sum = {};
  for (int k = 0; k < columns; k += BLOCK) {
    const Vector low = power_of_two((load(its + k) - largest) * factor);  // never above 0, however it is rounded
    const Vector high = power_of_two((load(its + k + SIDE) - largest) * factor);
    sum += low + high;
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    _mm512_store_si512(weights + i * KEYS + k, (__m512i)both);
  }
  return _mm512_reduce_add_ps((__m512)sum);
}

void Scratch::take_in(int first, Visible<BLOCK> visible, float scale) {
  if (visible.some == 0) return;
  const int columns = (visible.some + BLOCK - 1) / BLOCK * BLOCK;
  for (int k = 0; k < columns; k += BLOCK)
    multiply(query + first * PADDED, PADDED, key[k / SIDE], PADDED / BLOCK, PADDED / BLOCK, scores + k, KEYS);
  float tops[BLOCK], decays[BLOCK];
  for (int i = 0; i < BLOCK; i++) tops[i] = top_of(i, visible.by(i), columns);
  for (int i = 0; i < BLOCK; i += SIDE) {
    const Vector before = load(top + first + i), now = larger(load(tops + i), before);
    store(top + first + i, now);
    store(decays + i, power_of_two((before - now) * (scale * LOG2_E)));
  }
  for (int i = 0; i < BLOCK; i++) {
    float& its = weight[first + i];
    its = its * decays[i] + weigh(i, top[first + i], columns, scale * LOG2_E);
  }
  for (int d = 0; d < PADDED; d += BLOCK) {
    multiply(weights, KEYS, value[d / SIDE], KEYS / BLOCK, columns / BLOCK, added, BLOCK);
    for (int i = 0; i < BLOCK; i++)
      for (int half = 0; half < BLOCK; half += SIDE) {
        float* its = sums + (first + i) * PADDED + d + half;
        store(its, load(its) * decays[i] + load(added + i * BLOCK + half));
      }
  }
}

extern "C" void fold(const Fold& call, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const FullTiles tiles;
    static thread_local Scratch own;
    fold_share<BLOCK, QUERIES, KEYS, PADDED>(call, looked_up(own), call.scale);
  }
}

// Asks the system for the registers of tiles, once for the process; whether they may be used.
extern "C" int permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }  // ARCH_REQ_XCOMP_PERM, of tile data
