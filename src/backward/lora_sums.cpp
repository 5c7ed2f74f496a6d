#include "backward/lora_sums.hpp"

#include <algorithm>

#include "base/asking.hpp"
#include "base/thread_pool.hpp"
#include "exact/ball.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::backward {
namespace {

constexpr std::int64_t kColumns = 64;  // of hidden, for a unit of work

std::size_t size(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

void FactorTable::finish() {
  near.resize(factors.size());
  plain_of.assign(size(rank), 1);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    near[i] = factors[i].near;
    if (!factors[i].plain) plain_of[i % size(rank)] = 0;
  }
}

LoraBSums::LoraBSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows, Sums how,
                     int threads)
    : vocab_(head.vocab_size), rows_(rows.size()), how_(how), output_(request.dlora_b) {
  if (!output_.wanted()) return;
  u_.rank = head.lora.a.rows;
  u_.factors.resize(rows_ * size(u_.rank));
  base::parallel_for(threads, static_cast<std::int64_t>(rows_), [&](int, std::int64_t n) {
    std::vector<exact::LowRankFactor> own =
        exact::low_rank_factors(head.lora, exact::row_data(request.hidden, rows[size(n)].index), request.hidden.dtype);
    for (std::int64_t j = 0; j < u_.rank; ++j) u_.factors[size(n * u_.rank + j)] = wide_factor(std::move(own[size(j)]));
  });
  u_.finish();
}

void LoraBSums::add_chunk(std::int64_t chunk, const float* dz) {
  if (!output_.wanted()) return;
  const std::int64_t first = chunk * kChunk;
  const std::int64_t ids = std::min(kChunk, vocab_ - first);
  if (how_ == Sums::fast) {
    add_fast(first, ids, dz);
  } else if (how_ == Sums::certified) {
    add_certified(first, ids, dz);
  }
  for (std::int64_t j = 0; j < u_.rank; ++j) {
    if (how_ != Sums::defined && u_.plain_of[size(j)] != 0) continue;
    for (std::int64_t v = 0; v < ids; ++v) add_by_definition(first + v, j, dz + v);
  }
}

void LoraBSums::add_fast(std::int64_t first, std::int64_t ids, const float* dz) const {
  std::vector<double> sums(size(ids * u_.rank), 0.0);
  for (std::size_t n = 0; n < rows_; ++n) {
    const double* u = &u_.near[n * size(u_.rank)];
    for (std::int64_t v = 0; v < ids; ++v) {
      const auto d = static_cast<double>(dz[n * kChunk + size(v)]);
      double* sum = &sums[size(v * u_.rank)];
      for (std::int64_t j = 0; j < u_.rank; ++j) sum[j] += d * u[j];
    }
  }
  for (std::int64_t v = 0; v < ids; ++v) {
    for (std::int64_t j = 0; j < u_.rank; ++j) {
      if (u_.plain_of[size(j)] == 0) continue;
      const double sum = output_.before(first + v, j) + sums[size(v * u_.rank + j)];
      output_.store(first + v, j, exact::narrow(sum, output_.dtype()));
    }
  }
}

void LoraBSums::add_certified(std::int64_t first, std::int64_t ids, const float* dz) {
  for (std::int64_t j = 0; j < u_.rank; ++j) {
    if (u_.plain_of[size(j)] == 0) continue;
    std::vector<CertifiedSum> sums(size(ids));
    for (std::size_t n = 0; n < rows_; ++n) {
      const WideFactor& u = u_.at(n, j);
      for (std::int64_t v = 0; v < ids; ++v) sums[size(v)].add(u, static_cast<double>(dz[n * kChunk + size(v)]));
    }
    for (std::int64_t v = 0; v < ids; ++v) {
      const CertifiedSum& sum = sums[size(v)];
      if (!std::isfinite(sum.high) || !output_.store_certified(first + v, j, sum.high, sum.low, sum.error())) {
        add_by_definition(first + v, j, dz + v);
      }
    }
  }
}

void LoraBSums::add_by_definition(std::int64_t id, std::int64_t j, const float* dz) {
  DefinedSum sum;
  for (std::size_t n = 0; n < rows_; ++n) sum.add(u_.at(n, j).exact, static_cast<double>(dz[n * kChunk]));
  output_.store(id, j, sum.round(output_.before(id, j), exact::format_of(output_.dtype())));
  ++fallbacks_;
}

LoraASums::LoraASums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows, Sums how,
                     int threads, const base::Parties& parties)
    : head_(head),
      hidden_(request.hidden),
      rows_(rows),
      how_(how),
      threads_(threads),
      parties_(parties),
      output_(request.dlora_a),
      wanted_(head.lora.a.rows > 0 && (output_.wanted() || request.dhidden.data != nullptr)) {
  if (!wanted_) return;
  g_.rank = head.lora.a.rows;
  const std::size_t count = rows.size() * size(g_.rank);
  if (how == Sums::fast) {
    fast_.assign(count, 0);
  } else {
    defined_.resize(count);
  }
}

void LoraASums::load_b(std::int64_t first, std::int64_t count) {
  const MatrixView& b = head_.lora.b;
  b_.resize(size(count * g_.rank));
  for (std::int64_t v = 0; v < count; ++v) {
    const void* row = exact::row_data(b, first + v);
    for (std::int64_t j = 0; j < g_.rank; ++j) b_[size(v * g_.rank + j)] = exact::load_element(row, b.dtype, j);
  }
}

void LoraASums::add_strip(std::int64_t first, std::int64_t count, const float* dz) {
  if (!wanted_) return;
  const std::int64_t begin = first * kChunk;
  const std::int64_t ids = std::min(count * kChunk, head_.vocab_size - begin);
  const auto rows = static_cast<std::int64_t>(rows_.size());
  load_b(begin, ids);
  base::parallel_for(threads_, rows, [&](int, std::int64_t n) {
    const auto dz_of = [&](std::int64_t v) {
      return static_cast<double>(dz[size((v / kChunk * rows + n) * kChunk + v % kChunk)]);
    };
    if (how_ == Sums::fast) {
      double* sum = &fast_[size(n * g_.rank)];
      for (std::int64_t v = 0; v < ids; ++v) {
        const double d = dz_of(v);
        const float* b = &b_[size(v * g_.rank)];
        for (std::int64_t j = 0; j < g_.rank; ++j) sum[j] += d * static_cast<double>(b[j]);
      }
      return;
    }
    for (std::int64_t j = 0; j < g_.rank; ++j) {
      exact::Sum sum;
      for (std::int64_t v = 0; v < ids; ++v) sum.add(dz_of(v) * static_cast<double>(b_[size(v * g_.rank + j)]));
      exact::LowRankFactor& whole = defined_[size(n * g_.rank + j)];
      whole.value = exact::add(whole.value, sum.finite());
      whole.special += sum.special();
    }
  });
}

void LoraASums::share() {
  if (!wanted_ || !parties_.several()) return;
  base::ByteWriter own;
  for (double& sum : fast_) {
    own.put(sum);
    sum = 0;
  }
  for (exact::LowRankFactor& sum : defined_) {
    exact::write({sum.value, {}}, own);
    own.put(sum.special);
    sum = {};
  }
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    double other = 0;
    for (double& sum : fast_) {
      if (!bytes.get(other)) return false;
      sum += other;
    }
    exact::Ball value;
    for (exact::LowRankFactor& sum : defined_) {
      if (!exact::read(bytes, value) || !bytes.get(other)) return false;
      sum.value = exact::add(sum.value, value.middle);
      sum.special += other;
    }
    return true;
  });
}

void LoraASums::finish() {
  if (!wanted_) return;
  const exact::BigFloat scale = exact::BigFloat::from_double(head_.lora.scale);
  g_.factors.resize(rows_.size() * size(g_.rank));
  base::parallel_for(threads_, static_cast<std::int64_t>(g_.factors.size()), [&](int, std::int64_t i) {
    exact::LowRankFactor sum;
    if (how_ != Sums::fast) {
      sum = std::move(defined_[size(i)]);
    } else if (std::isfinite(fast_[size(i)])) {
      sum.value = exact::BigFloat::from_double(fast_[size(i)]);
    } else {
      sum.special = fast_[size(i)];
    }
    if (sum.special != 0) {  // NaN too
      sum.special *= head_.lora.scale;
    } else {
      sum.value = exact::multiply(sum.value, scale);
    }
    g_.factors[size(i)] = wide_factor(std::move(sum));
  });
  g_.finish();
  if (!output_.wanted()) return;
  base::parallel_for(threads_, (head_.lora.a.cols + kColumns - 1) / kColumns, [&](int, std::int64_t i) {
    make_columns(i * kColumns, std::min(kColumns, head_.lora.a.cols - i * kColumns));
  });
}

double LoraASums::hidden(std::size_t row, std::int64_t column) const {
  return static_cast<double>(exact::load_element(exact::row_data(hidden_, rows_[row].index), hidden_.dtype, column));
}

void LoraASums::make_columns(std::int64_t column, std::int64_t count) {
  double h[kColumns];
  std::vector<double> fast(size(how_ == Sums::fast ? g_.rank * kColumns : 0), 0.0);
  std::vector<CertifiedSum> certified(size(how_ == Sums::certified ? g_.rank * kColumns : 0));
  for (std::size_t n = 0; how_ != Sums::defined && n < rows_.size(); ++n) {
    for (std::int64_t k = 0; k < count; ++k) h[k] = hidden(n, column + k);
    for (std::int64_t j = 0; j < g_.rank; ++j) {
      if (g_.plain_of[size(j)] == 0) continue;
      const WideFactor& g = g_.at(n, j);
      for (std::int64_t k = 0; k < count; ++k) {
        const std::size_t cell = size(j * kColumns + k);
        if (how_ == Sums::fast) {
          fast[cell] += g.near * h[k];
        } else {
          certified[cell].add(g, h[k]);
        }
      }
    }
  }
  for (std::int64_t j = 0; j < g_.rank; ++j) {
    for (std::int64_t k = 0; k < count; ++k) {
      const std::size_t cell = size(j * kColumns + k);
      if (how_ == Sums::defined || g_.plain_of[size(j)] == 0) {
        add_by_definition(j, column + k);
      } else if (how_ == Sums::fast) {
        const double sum = output_.before(j, column + k) + fast[cell];
        output_.store(j, column + k, exact::narrow(sum, output_.dtype()));
      } else {
        store(j, column + k, certified[cell]);
      }
    }
  }
}

void LoraASums::store(std::int64_t j, std::int64_t column, const CertifiedSum& sum) {
  if (!std::isfinite(sum.high) || !output_.store_certified(j, column, sum.high, sum.low, sum.error())) {
    add_by_definition(j, column);
  }
}

void LoraASums::add_by_definition(std::int64_t j, std::int64_t column) {
  DefinedSum sum;
  for (std::size_t n = 0; n < rows_.size(); ++n) sum.add(g_.at(n, j).exact, hidden(n, column));
  output_.store(j, column, sum.round(output_.before(j, column), exact::format_of(output_.dtype())));
  ++fallbacks_;
}

}  // namespace isologit::detail::backward
