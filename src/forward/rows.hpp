// How every operator of the forward pass runs: rows are independent, widened to f32, computed in f64, rounded where
// that is proven, settled where it is not, and stored.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "exact/rounding.hpp"
#include "isologit/forward.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::forward {

using isologit::forward::Options;
using isologit::forward::Report;
using isologit::forward::TensorOutput;
using isologit::forward::TensorView;

std::int64_t offset_of(const TensorView& x, std::int64_t token, std::int64_t head);
const void* row_of(const TensorView& x, std::int64_t token, std::int64_t head);
void* row_of(const TensorOutput& y, DType dtype, std::int64_t token, std::int64_t head);

// A row as f32, with zeros to a multiple of kLaneGroup; `to` holds kernels::padded(dim) numbers.
void load_row(const TensorView& x, std::int64_t token, std::int64_t head, float* to);
// A vector likewise; empty where there is none.
std::vector<float> load_vector(const VectorView& vector);

// What lies within `error` of `value`, rounded to dtype, if that is one number.
std::optional<float> proven(double value, double error, DType dtype);

// The elements of a row of bf16 that a first pass in f32 has left open (kernels/forward_loops.hpp). They become a short
// row of their own, are finished as any other, and are put in their places.
class OpenElements {
 public:
  explicit OpenElements(std::int64_t dim);
  std::int32_t* list() { return list_.data(); }
  std::int64_t operator[](std::int64_t k) const { return list_[static_cast<std::size_t>(k)]; }
  // Those of a row; `to` holds as many as a whole row.
  void gather(const float* row, std::int64_t opened, float* to) const;

 private:
  std::vector<std::int32_t> list_;
};

// One thread's memory for a row of results.
class Row {
 public:
  explicit Row(std::int64_t dim);
  double* values() { return values_.data(); }
  double* errors() { return errors_.data(); }

  // Rounds values ± errors, settle(i) where that proves nothing, and stores them. Returns how many were settled.
  // Without loops all are settled.
  std::int64_t finish(const kernels::ForwardLoops* loops, std::int64_t count, DType dtype, void* to,
                      const std::function<float(std::int64_t)>& settle);

  // The same of results in bf16 of elements that are open, whose values were made for them alone; settle(i) is of an
  // element of the row.
  std::int64_t finish_open(const kernels::ForwardLoops* loops, const OpenElements& open, std::int64_t opened, void* to,
                           const std::function<float(std::int64_t)>& settle);

  // Rounds the values as they are, whatever their errors, and stores them.
  void store(const kernels::ForwardLoops& loops, std::int64_t count, DType dtype, void* to);

 private:
  std::vector<double> values_;
  std::vector<double> errors_;
  std::vector<float> rounded_;
  std::vector<std::int32_t> open_;
  std::vector<std::uint16_t> short_;
};

// The sums of the columns of `terms`, rows of `dim` numbers, in the order of the rows, each rounded once.
void store_sums(const std::vector<double>& terms, std::int64_t dim, DType dtype, void* to);

// The loops and threads of a call.
struct Setting {
  const kernels::Target* target;
  const kernels::ForwardLoops* loops;  // null: settle everything
  int threads;
  std::function<bool(double)> progress;
};
Result<Setting> setting_of(const Options& options);
// The same for what settles nothing: the loops are never null, of a target without loops they are those of "portable".
Result<Setting> setting_with_loops(const Options& options);

// A worker's part of the rows [begin, end) of `rows`; returns how many results were settled.
using Piece = std::function<std::int64_t(int worker, std::int64_t begin, std::int64_t end)>;
// Runs `piece` over all rows, `rows_a_piece` of them at a time.
Result<Report> run(const Setting& setting, std::int64_t rows, std::int64_t rows_a_piece, const Piece& piece);

}  // namespace isologit::detail::forward
