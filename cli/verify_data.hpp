// What `isologit verify` computes on: operands made of Philox words by integer arithmetic and one rounding to their
// type, so that every machine has the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "isologit/head.hpp"
#include "isologit/view.hpp"

namespace isologit::detail::cli {

// Each provokes one kind of mistake.
enum class DataFamily {
  normal,
  outliers,      // a channel of sixteen is 64 times as large
  wide,          // exponents over 24 binades, and zeros
  ties,          // small integers times powers of two: sums on a midpoint of two results
  cancellation,  // the second half of a row takes back the first, but for a last small term
  specials,      // infinities, NaN, subnormals, large numbers, -0
};
inline constexpr DataFamily kDataFamilies[] = {DataFamily::normal, DataFamily::outliers,     DataFamily::wide,
                                               DataFamily::ties,   DataFamily::cancellation, DataFamily::specials};
const char* name_of(DataFamily family);

inline constexpr DType kDataTypes[] = {DType::bf16, DType::f16, DType::f32};

// The stream of one use of the data of a family and type.
std::uint32_t stream_of(DataFamily family, DType dtype, std::uint32_t use);
// Word i of a stream.
std::uint32_t random_word(std::uint32_t stream, std::uint64_t i);

// A matrix of adjacent elements that it owns.
struct Elements {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::uint8_t> bytes;

  MatrixView matrix() const { return {bytes.data(), dtype, rows, cols, cols}; }
  VectorView vector() const { return {bytes.data(), dtype, rows * cols}; }
};

// Of a dot product: what the cancellation takes back, and the infinities and NaN, are on the side of `hidden` alone.
enum class Side { hidden, weight };
Elements make_elements(DataFamily family, Side side, DType dtype, std::int64_t rows, std::int64_t cols,
                       std::uint32_t stream);

struct HeadShape {
  std::int64_t rows, vocab, cols;
};

// A head, rows, and all that the verbs take beside them. Transforms, support, temperatures and cuts differ by type.
struct HeadCase {
  Elements hidden, weight, bias;
  Elements given;  // logits in the place of those that these make
  Transforms transforms;
  std::int64_t last_id = -1;  // of the support
  std::vector<float> temperatures, min_p, top_p, d_logprobs, d_lse, d_entropy;
  std::vector<std::int64_t> token_ids, top_k;
  std::vector<std::uint64_t> seeds, sequence_ids;
  std::vector<std::uint32_t> positions;

  std::int64_t rows() const { return hidden.rows; }
  Head head() const { return {weight.matrix(), bias.vector(), weight.rows, transforms}; }
};
HeadCase make_head_case(DataFamily family, DType dtype, const HeadShape& shape);

// The same head with these of its rows, in this order.
HeadCase select_rows(const HeadCase& one, std::span<const std::int64_t> rows);

}  // namespace isologit::detail::cli
