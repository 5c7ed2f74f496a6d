// What becomes of one row of a sampling call, pass by pass.
//
// The first pass (a Distribution over S, the first kMostListed of the order, and for rows without cuts the contenders
// of the draw) settles nearly every row. The cuts keep a prefix of the order; where its end lies beyond the list, or
// f64 could not prove a result, the row asks for further passes:
//   search  the stretch of the order that is known to hold the end is divided into bins, whose counts and masses leave
//           one or two of them, so that it shrinks by about kBins a pass until it can be listed;
//   split   the stretch is listed, everything before and after it summed, and the draw made among what is before it;
//           first in f64, then in ball arithmetic at doubling precision.
// A row's state is O(kMostListed + kBins), whatever the vocabulary.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "fold/distribution.hpp"
#include "fold/top_k.hpp"
#include "sample/cut.hpp"
#include "sample/gumbel.hpp"

namespace isologit::detail::sample {

inline constexpr std::int64_t kMostListed = 1024;
inline constexpr std::size_t kBins = 1024;

inline constexpr std::int64_t kLastId = std::int64_t{1} << 62;
inline constexpr fold::Candidate kEnd{-std::numeric_limits<float>::max(), kLastId};  // behind every finite logit

struct Cuts {
  float min_p = 0;
  std::int64_t top_k = 0;  // 0: none
  float top_p = 1;

  bool any() const { return min_p > 0 || top_k > 0 || top_p < 1; }
};

// What a further pass does with a row. In the order of candidates: `from` and `to` are the first and the last place of
// the stretch in question, `limit` is the last place that min-p and top-k keep.
struct PassPlan {
  enum class Kind { done, search, split } kind = Kind::done;
  std::size_t limbs = 0;  // 0: f64
  bool lists = false;     // the stretch is to be listed
  bool draws = false;     // among what is before the stretch
  kernels::Draw draw;
  float top = 0;
  fold::Candidate from{};
  fold::Candidate to{};
  fold::Candidate limit{};
};

// What one thread gathers for it.
class SamplePass {
 public:
  explicit SamplePass(const PassPlan& plan);
  void absorb(const kernels::FoldLoops& loops, const float* logits, std::int64_t count, std::int64_t first_id);
  void merge(const SamplePass& other);

  void write(base::ByteWriter& bytes) const;
  // Merges what another one with the same plan wrote. False when the bytes are not that.
  bool merge_read(base::ByteReader& bytes);

 private:
  friend class SampleRow;
  struct Bin {
    FastSum sum;
    fold::Candidate first{};
    fold::Candidate last{};

    void widen(const fold::Candidate& one);
  };

  std::size_t bin_of(const fold::Candidate& candidate) const;
  void add_to_bin(const fold::Candidate& candidate, double term);

  const PassPlan* plan_;
  PartSum inside_;   // before the stretch
  PartSum middle_;   // after it, up to the limit
  PartSum outside_;  // beyond the limit
  Contenders contenders_;
  std::vector<fold::Candidate> list_;
  std::vector<Bin> bins_;
};

struct SampleResults {
  std::int64_t id = -1;
  float logprob = 0;
  float cut_logprob = 0;
  float log_kept_cut = 0;
  fold::Candidate cut_end = kEnd;  // the last place that the cuts keep
};

class SampleRow {
 public:
  struct Wanted {
    bool logprob = false;
    bool cut_logprob = false;
    bool log_kept_cut = false;

    bool any() const { return logprob || cut_logprob || log_kept_cut; }
  };

  SampleRow(const kernels::Draw& draw, const Cuts& cuts, bool greedy, const Wanted& wanted);

  bool draws_at_once() const { return !greedy_ && !cuts_.any(); }
  // Whether the first pass needs the sums of its Distribution.
  bool sums() const { return wanted_.any() || (cuts_.top_p < 1 && cuts_.top_k == 0); }
  // How many of the order the first pass should list; 0: none.
  std::int64_t listed() const;

  // The end of the first pass. The contenders are those of all of S if draws_at_once(), the list is in order.
  void survey(const fold::Distribution& support, const std::vector<fold::Candidate>& list,
              const Contenders& contenders);
  // The end of the pass that plan() asked for.
  void advance(const SamplePass& pass);

  const PassPlan& plan() const { return plan_; }
  bool done() const { return plan_.kind == PassPlan::Kind::done; }
  const SampleResults& results() const { return results_; }
  const Contenders& contenders() const { return contenders_; }

 private:
  struct Parts {
    Part inside;
    Part middle;
    Part outside;
    bool known = false;  // the last two
  };

  bool special(const fold::Distribution& support);
  Parts survey_parts(const fold::RelativeSums* sums) const;
  void settle(const Parts& known);
  bool place_limit(std::int64_t inside);
  bool place_top_p(const Parts& parts, std::size_t limited, bool within, std::size_t& kept);
  void finish(const Parts& parts, std::size_t kept);
  bool finish_floats(const Parts& parts, std::size_t kept);
  void end_search(const SamplePass& pass);
  void narrow(const SamplePass& pass, std::size_t first, std::size_t last);
  void search_after_stretch(bool too_short);
  void search_from_top();
  void split_at_limit();
  void widen();
  Part window_part(std::size_t begin, std::size_t end) const;

  Cuts cuts_;
  bool greedy_;
  Wanted wanted_;
  PassPlan plan_;
  bool surveyed_ = false;   // the sums at hand are those of the first pass
  bool too_short_ = false;  // what is before the stretch has been proven not to reach top-p
  bool picked_ = false;
  std::int64_t rank_ = 0;    // top-k where its end is not known yet, else 0
  std::int64_t finite_ = 0;  // logits above -inf
  float picked_logit_ = 0;
  std::vector<fold::Candidate> window_;  // the stretch in order, once it is listed
  std::vector<Term> terms_;              // their terms at the precision of the plan
  Contenders contenders_;
  SampleResults results_;
};

}  // namespace isologit::detail::sample
