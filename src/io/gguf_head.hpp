// The head of a GGUF file, by what llama.cpp does with the files of its architecture.
#pragma once

#include <string>

#include "io/gguf.hpp"
#include "io/given_head.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct GgufHead {
  const Tensor* weight = nullptr;
  const Tensor* bias = nullptr;  // null: none
  bool tied = false;             // weight is the embedding
  std::string architecture;      // or empty, where the head is given
  Transforms transforms;
  std::int64_t vocab_size = 0;
};

// source names the file in messages; given is null where the architecture is to say what the head is. The weight is a
// matrix with at least vocab_size rows; its type is still to be looked at.
Result<GgufHead> find_gguf_head(const GgufContents& contents, const std::string& source, const GivenHead* given);

}  // namespace isologit::detail::io
