// The safetensors files of a checkpoint directory: one, or shards by index. A shard is mapped when first needed.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "io/safetensors.hpp"
#include "io/weight_index.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

class CheckpointFiles {
 public:
  // model.safetensors where it exists, else model.safetensors.index.json.
  static Result<CheckpointFiles> open(const std::string& directory);

  // Of all tensors.
  std::set<std::string, std::less<>> names() const;

  struct Found {
    const Tensor* tensor;
    std::string path;
  };
  // Valid while this object lives; the data stays where it is when this object is moved.
  Result<Found> load(std::string_view name);

 private:
  std::string directory_;
  WeightIndex index_;
  std::map<std::string, SafetensorsFile, std::less<>> mapped_;
};

}  // namespace isologit::detail::io
