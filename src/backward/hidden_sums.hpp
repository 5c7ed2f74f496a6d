// dhidden: sums over the vocabulary for all rows, kept in f64 (fast) or in two f64 (exact) from strip to strip. Each
// element belongs to one thread at a time and its terms come in ascending id, kDepth of them a piece, whatever
// the strips are. An encoded weight enters as f32 numbers, of which each element is a sum; a low-rank addition as
// further terms at the end. What neither fits is left open.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backward/lora_sums.hpp"
#include "backward/output.hpp"
#include "backward/products.hpp"
#include "backward/upstream.hpp"
#include "base/aligned.hpp"
#include "base/parties.hpp"
#include "exact/superaccumulator.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::backward {

class HiddenSums {
 public:
  // A target without loops leaves every element open. Throws std::bad_alloc.
  HiddenSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows,
             const kernels::Target& target, bool exact, int threads, const base::Parties& parties);

  // Adds chunks [first, first + count), as Derivatives::make wrote them.
  void add_strip(std::int64_t first, std::int64_t count, const float* dz);

  // Puts the sums of all parties that share the vocabulary in the place of this one's, before finish(). Where parties
  // have rows of their own, those of this one's rows alone: only these are finished here.
  void share();

  // Adds the terms of the head's low-rank addition, if it has one, after share(). g must outlive the object.
  void add_low_rank(const FactorTable& g);

  // An element that is not written yet.
  struct Open {
    std::size_t row;
    std::int64_t column;
    exact::Sum sum;
    exact::BigFloat wide;  // terms that the sum does not hold
  };
  // Writes what is proven; the rest, of all parties' rows and ordered by row, goes on with add_strip(open, ...),
  // share(open) and finish(open).
  std::vector<Open> finish();
  void add_strip(std::vector<Open>& open, std::span<const std::size_t> strip_rows, std::int64_t first,
                 std::int64_t count, const float* strip) const;
  void share(std::vector<Open>& open) const;
  void finish(std::vector<Open>& open) const;

 private:
  struct Packing {
    base::AlignedBuffer panels;
    base::AlignedBuffer rows;  // of the weight, [kernels::kDepth][kBlockColumns]
    std::vector<float> greatest;
    std::vector<double> squares;  // of each column of the panels, exact only
  };

  // Of the active rows, [first, last).
  struct Rows {
    std::size_t first;
    std::size_t last;
  };
  void find_owners();
  void share_sums();
  void scatter_sums();
  void write_sums(Rows rows, base::ByteWriter& bytes) const;
  // Calls exchange(read), where read adds a party's sums to those of rows, which are cleared before.
  template <class Exchange>
  void merge_sums(Rows rows, Exchange exchange);
  bool add_sums(Rows rows, base::ByteReader& bytes);
  // Joins the numbers of all parties, which are not below 0.
  void share(std::vector<double>& numbers, double (*join)(double, double)) const;
  void share_what_is_open();
  void share_list(std::vector<Open>& open) const;
  void add_low_rank(const FactorTable& g, const std::vector<float>& a, std::size_t row);
  // Whether an element is to be made by the definition, whatever was summed.
  bool is_open(std::size_t row, std::int64_t column) const {
    return open_rows_[row] != 0 || open_columns_[static_cast<std::size_t>(column)] != 0;
  }
  void finish_by_element(std::size_t row, std::vector<Open>& open) const;
  // Columns [column, column + count).
  void finish_certified(std::size_t row, std::int64_t column, std::int64_t count, std::vector<Open>& open) const;
  // Adds dz times the encoded weight's element.
  static void add_wide(Open& element, float dz, double weight);

  // A strip's dz, pieces of kDepth ids.
  struct Strip {
    const float* dz;
    std::int64_t first_id;
    std::int64_t pieces;
  };
  // dz of a row block's first row and a piece's first id; the rows are kChunk apart.
  const float* dz_of(const Strip& strip, std::int64_t piece, std::int64_t row_block) const;
  std::int64_t depth_of(const Strip& strip, std::int64_t piece) const;
  std::int64_t rows_of(std::int64_t row_block) const;
  void pack_dz(const Strip& strip, std::int64_t piece, std::int64_t row_block);
  void add_block(Packing& own, const Strip& strip, std::int64_t row_block, std::int64_t first_column);
  // Packs ids [first, first + depth) of the weight, columns [column, column + count), as panels. `part` of an encoded
  // one; columns that the parts do not make up are left open.
  void pack_weight(Packing& own, std::int64_t part, std::int64_t first, std::int64_t depth, std::int64_t column,
                   std::int64_t count);
  void decode_part(std::int64_t part, std::int64_t id, std::int64_t column, std::int64_t count, float* to);
  void add_row_reaches(const Strip& strip, std::int64_t row_block);

  const Head& head_;
  std::span<const ActiveRow> rows_;
  const kernels::BackwardLoops* loops_;
  const kernels::PartLoops* part_loops_;  // of fast sums
  bool exact_;
  int threads_;
  const base::Parties& parties_;
  Output output_;
  std::int64_t hidden_rows_;            // all, the inactive ones too
  std::int64_t columns_;                // H
  std::int64_t stride_;                 // of the sums
  std::vector<double> high_;            // [row][stride_]
  std::vector<double> low_;             // the same, exact only
  std::vector<double> row_reaches_;     // of dz, the sum of all pieces' norms, exact only
  std::vector<double> column_squares_;  // of the weight, the greatest piece's sum of squares, exact only
  std::int64_t parts_;                  // f32 numbers that stand for an element of the weight
  std::int64_t merged_ = 0;             // sums of other parties that entered each of these
  std::vector<Rows> owners_;            // the rows of each party; none where all have all
  Rows own_;                            // that are finished here
  const FactorTable* g_ = nullptr;
  std::vector<std::uint8_t> open_rows_, open_columns_;
  std::int64_t row_blocks_;
  std::int64_t block_rows_;
  std::vector<PackedRows> packed_dz_;  // a strip's dz packed, [piece][row block]
  std::vector<Packing> workers_;
};

}  // namespace isologit::detail::backward
