#include "io/gguf_head.hpp"

#include <cmath>
#include <optional>
#include <string_view>

#include "base/text.hpp"
#include "io/gguf_architectures.hpp"
#include "io/head_names.hpp"

namespace isologit::detail::io {
namespace {

constexpr std::string_view k_output = "output.weight";
constexpr std::string_view k_embedding = "token_embd.weight";
constexpr std::string_view k_bias = "output.bias";

class Finder {
 public:
  Finder(const GgufContents& contents, const std::string& source) : contents_(contents), source_(source) {}

  Result<GgufHead> find(const GivenHead* given) {
    if (auto done = check_whole(); !done) return tl::unexpected(done.error());
    GgufHead head;
    auto done = given != nullptr ? take_given(*given, head) : find_by_architecture(head);
    if (done) done = check_shape(head);
    if (done) done = read_vocabulary(given, head);
    if (!done) return tl::unexpected(done.error());
    return head;
  }

 private:
  template <class... Parts>
  tl::unexpected<Error> refuse(StatusCode code, const Parts&... parts) const {
    return fail(code, base::concat(base::in_quotes(source_), ": ", parts...));
  }

  // A part of a model may lack the head and have the embedding; an adapter has neither.
  Result<void> check_whole() const {
    if (const auto* parts = contents_.value<std::uint64_t>("split.count"); parts != nullptr && *parts > 1) {
      return refuse(StatusCode::unsupported, "is one of ", *parts,
                    " parts of a model; put them together: llama-gguf-split --merge");
    }
    const auto* type = contents_.value<std::string>("general.type");
    if (type == nullptr || *type == "model") return {};
    return refuse(StatusCode::unsupported, "general.type is ", base::in_quotes(*type), ", expected \"model\"");
  }

  Result<void> take_given(const GivenHead& given, GgufHead& head) const {
    head.weight = contents_.find(given.tensor);
    if (head.weight == nullptr) {
      return refuse(StatusCode::not_found, "--head: no tensor ", base::in_quotes(given.tensor));
    }
    head.bias = contents_.find(base::concat(module_of(given.tensor), ".bias"));
    head.transforms = given.transforms;
    if (const auto* name = contents_.value<std::string>("general.architecture")) head.architecture = *name;
    return {};
  }

  Result<void> find_by_architecture(GgufHead& head) const {
    const auto* name = contents_.value<std::string>("general.architecture");
    if (name == nullptr) return refuse(StatusCode::not_found, "general.architecture is missing, expected a text");
    const auto known = find_gguf_architecture(*name);
    if (!known) {
      return refuse(StatusCode::unsupported, "the head of architecture ", base::in_quotes(*name), " is not known. ",
                    how_to_name_a_head());
    }
    head.architecture = *name;
    if (auto done = find_tensors(*known, head); !done) return done;
    return read_steps(*known, head.transforms);
  }

  Result<void> find_tensors(const GgufArchitecture& known, GgufHead& head) const {
    for (const Tensor& tensor : contents_.tensors) {
      const bool is_bias = tensor.name == k_bias && known.has_bias;
      if (!tensor.name.starts_with("output.") || tensor.name == k_output || is_bias) continue;
      return refuse(StatusCode::unsupported, "tensor ", base::in_quotes(tensor.name), " is not one that ", known.name,
                    " has, and may change what the head does. ", how_to_name_a_head());
    }
    head.bias = contents_.find(k_bias);
    head.weight = contents_.find(k_output);
    const Tensor* embedding = contents_.find(k_embedding);
    if (head.weight != nullptr) {
      // llama.cpp knows one vocabulary; where they differ it moves the ids of logits, or takes the file for damaged.
      const bool differ = embedding != nullptr && !embedding->shape.empty() && !head.weight->shape.empty() &&
                          embedding->shape.front() != head.weight->shape.front();
      if (!differ) return {};
      return refuse(StatusCode::unsupported, k_output, " has shape ", base::shape_text(head.weight->shape), " and ",
                    k_embedding, " ", base::shape_text(embedding->shape), ", expected as many rows");
    }
    if (!known.ties) {
      return refuse(StatusCode::not_found, "no tensor ", k_output, ", and the embedding is not the head of ",
                    known.name);
    }
    if (embedding == nullptr) {
      return refuse(StatusCode::not_found, "no tensor ", k_output, " and, for a tied head, no ", k_embedding);
    }
    head.weight = embedding;
    head.tied = true;
    return {};
  }

  Result<void> read_steps(const GgufArchitecture& known, Transforms& transforms) const {
    const std::string scale_key = base::concat(known.name, ".logit_scale");
    const std::string softcap_key = base::concat(known.name, ".final_logit_softcapping");
    const bool has_scale = known.scale_kind != ScaleKind::none;
    const auto scale = read_step(scale_key, has_scale ? std::optional(known.scale) : std::nullopt,
                                 known.scale_kind == ScaleKind::multiply);
    if (!scale) return tl::unexpected(scale.error());
    if (*scale && **scale != 1.0F) {
      transforms.scale_kind = known.scale_kind;
      transforms.scale = **scale;
    }
    const auto softcap = read_step(softcap_key, known.softcap, false);
    if (!softcap) return tl::unexpected(softcap.error());
    if (*softcap) {
      transforms.has_softcap = true;
      transforms.softcap = **softcap;
      if (transforms.scale_kind != ScaleKind::none) transforms.order = known.order;
    }
    return {};
  }

  // Nothing where there is no step.
  Result<std::optional<float>> read_step(const std::string& key, const std::optional<GgufStep>& step,
                                         bool sign_is_free) const {
    const auto found = contents_.metadata.find(key);
    if (found == contents_.metadata.end()) {
      if (!step || !step->required) return step ? step->when_absent : std::nullopt;
      return refuse(StatusCode::not_found, key, " is missing, expected a number. ", how_to_name_a_head());
    }
    if (!step) {
      return refuse(StatusCode::unsupported, key, " is ", describe(found->second),
                    ", and llama.cpp does nothing with it for this architecture. ", how_to_name_a_head());
    }
    const auto* number = std::get_if<float>(&found->second);
    if (number != nullptr && *number == 0.0F && step->zero_is_none) return std::nullopt;
    if (number == nullptr || !std::isfinite(*number) || *number == 0.0F || (!sign_is_free && *number < 0.0F)) {
      return refuse(StatusCode::invalid_argument, key, " is ", describe(found->second), ", expected an f32 ",
                    sign_is_free ? "other than 0" : "above 0");
    }
    return *number;
  }

  Result<void> check_shape(const GgufHead& head) const {
    const Tensor& weight = *head.weight;
    if (weight.shape.size() != 2 || weight.shape[0] < 1 || weight.shape[1] < 1) {
      return refuse(StatusCode::invalid_argument, "tensor ", base::in_quotes(weight.name), " has shape ",
                    base::shape_text(weight.shape), ", expected [vocabulary, hidden]");
    }
    const std::string key = base::concat(head.architecture, ".embedding_length");
    const auto* hidden = contents_.value<std::uint64_t>(key);
    if (hidden == nullptr || *hidden == static_cast<std::uint64_t>(weight.shape[1])) return {};
    return refuse(StatusCode::invalid_argument, "tensor ", base::in_quotes(weight.name), " has shape ",
                  base::shape_text(weight.shape), ", but ", base::printable(key), " is ", *hidden,
                  "; expected that many columns");
  }

  // The tokens are counted by the tokenizer, else by a key, else by the weight's rows.
  Result<void> read_vocabulary(const GivenHead* given, GgufHead& head) const {
    const std::int64_t rows = head.weight->shape[0];
    std::uint64_t size = static_cast<std::uint64_t>(rows);
    const auto* tokens = contents_.value<GgufArray>("tokenizer.ggml.tokens");
    const auto* key = contents_.value<std::uint64_t>(base::concat(head.architecture, ".vocab_size"));
    if (given != nullptr && given->vocab_size) {
      size = static_cast<std::uint64_t>(*given->vocab_size);
    } else if (tokens != nullptr) {
      size = tokens->length;
    } else if (key != nullptr) {
      size = *key;
    }
    if (size < 1 || size > static_cast<std::uint64_t>(rows)) {
      return refuse(StatusCode::invalid_argument, "tensor ", base::in_quotes(head.weight->name), " has shape ",
                    base::shape_text(head.weight->shape), ", but the vocabulary has ", size,
                    " ids; expected at least that many rows, and one id");
    }
    head.vocab_size = static_cast<std::int64_t>(size);
    return {};
  }

  const GgufContents& contents_;
  const std::string& source_;
};

}  // namespace

Result<GgufHead> find_gguf_head(const GgufContents& contents, const std::string& source, const GivenHead* given) {
  return Finder(contents, source).find(given);
}

}  // namespace isologit::detail::io
