// A call of the C interface that is right in every way, for tests to spoil: its structures, its arrays, and guards
// around what it writes.
#pragma once

#include <isologit/isologit.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace isologit::capi_test {

constexpr std::int64_t kRows = 3;
constexpr std::int64_t kHidden = 2;
constexpr std::int64_t kRank = 2;
constexpr std::int64_t kVocab = 5;
constexpr std::int64_t kIds = 2;  // a row
constexpr std::int64_t kTopK = 2;

// An array of exactly its size on the heap, so that sanitizers see what lies beside it, as does intact().
class Array {
 public:
  Array(std::string type, std::size_t size, const void* values);
  void* data() { return bytes_.data() + kGuard; }
  const std::string& type() const { return type_; }  // as the header calls its elements
  std::size_t size() const { return size_; }         // in bytes
  bool intact() const;

 private:
  static constexpr std::size_t kGuard = 64;
  std::string type_;
  std::size_t size_;
  std::vector<unsigned char> bytes_;
};

struct Outcome {
  isologit_status status = ISOLOGIT_OK;
  std::string message;
};

struct Scenario {
  std::string name;
  std::map<std::string, void*> structures;  // by the header's names
  std::vector<std::unique_ptr<Array>> arrays;
  std::function<Outcome()> call;

  Array* array_at(const void* data) const;

  isologit_head head = {};
  isologit_score_request score = {};
  isologit_sample_request sample = {};
  isologit_logits_sample_request logits_sample = {};
  isologit_backward_request backward = {};
  isologit_logits_request logits = {};
  isologit_logits_backward_request logits_backward = {};
  isologit_score_options options = {};
  isologit_peers peers = {};
  isologit_backward_options backward_options = {};
  isologit_score_report report = {};
  isologit_sample_report sample_report = {};
  isologit_backward_report backward_report = {};
  isologit_kernel_info kernel_info = {};
};

// A fresh one of each of them.
std::vector<std::function<std::unique_ptr<Scenario>()>> scenarios();

}  // namespace isologit::capi_test
