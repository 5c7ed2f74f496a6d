// Gradients through a low-rank addition (CONTRACT.md 5). With u[n,j] = s Σ_k A[j,k] h[n,k] and g[n,j] = s Σ_v dz[n,v]
// B[v,j], neither rounded: dB[v,j] = Σ_n dz[n,v] u[n,j], dA[j,k] = Σ_n g[n,j] h[n,k], and dhidden[n,k] gains Σ_j g[n,j]
// A[j,k].
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "backward/output.hpp"
#include "backward/upstream.hpp"
#include "backward/wide_factor.hpp"
#include "base/parties.hpp"

namespace isologit::detail::backward {

// How sums are made: in f64, in f64 with a proof, or by the definition alone.
enum class Sums : std::uint8_t { fast, certified, defined };

// [row][rank] factors of the rows that contribute.
struct FactorTable {
  std::int64_t rank = 0;
  std::vector<WideFactor> factors;
  std::vector<double> near;            // the same ones' near, side by side
  std::vector<std::uint8_t> plain_of;  // for each j: whether those of all rows are plain

  const WideFactor& at(std::size_t row, std::int64_t j) const {
    return factors[row * static_cast<std::size_t>(rank) + static_cast<std::size_t>(j)];
  }
  void finish();  // near and plain_of, from the factors
};

// dB, for one chunk of the vocabulary after the other, each element written once.
class LoraBSums {
 public:
  // Throws std::bad_alloc.
  LoraBSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows, Sums how, int threads);

  // dz [row][kChunk] of the ids of one chunk. Different chunks may be taken at once.
  void add_chunk(std::int64_t chunk, const float* dz);

  std::int64_t fallbacks() const { return fallbacks_; }

 private:
  void add_fast(std::int64_t first, std::int64_t ids, const float* dz) const;
  void add_certified(std::int64_t first, std::int64_t ids, const float* dz);
  // dz of the first row, the others being kChunk apart.
  void add_by_definition(std::int64_t id, std::int64_t j, const float* dz);

  std::int64_t vocab_;
  std::size_t rows_;
  Sums how_;
  Output output_;
  FactorTable u_;
  std::atomic<std::int64_t> fallbacks_ = 0;
};

// g, and dA once all of the vocabulary was seen.
class LoraASums {
 public:
  // Throws std::bad_alloc.
  LoraASums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows, Sums how, int threads,
            const base::Parties& parties);

  // Adds chunks [first, first + count), as Derivatives::make wrote them.
  void add_strip(std::int64_t first, std::int64_t count, const float* dz);
  // Puts the sums of all parties that share the vocabulary in the place of this one's, before finish().
  void share();
  // Makes g, and writes dA.
  void finish();

  // g after finish(); of rank 0 where there is no addition.
  const FactorTable& g() const { return g_; }
  std::int64_t fallbacks() const { return fallbacks_; }

 private:
  void load_b(std::int64_t first, std::int64_t count);
  void make_columns(std::int64_t column, std::int64_t count);
  void store(std::int64_t j, std::int64_t column, const CertifiedSum& sum);
  void add_by_definition(std::int64_t j, std::int64_t column);
  double hidden(std::size_t row, std::int64_t column) const;

  const Head& head_;
  const MatrixView& hidden_;
  std::span<const ActiveRow> rows_;
  Sums how_;
  int threads_;
  const base::Parties& parties_;
  Output output_;
  bool wanted_;
  std::vector<float> b_;                       // of a strip, [id][rank]
  std::vector<double> fast_;                   // Σ dz B, [row][rank]: of fast sums
  std::vector<exact::LowRankFactor> defined_;  // of the others
  FactorTable g_;
  std::atomic<std::int64_t> fallbacks_ = 0;
};

}  // namespace isologit::detail::backward
