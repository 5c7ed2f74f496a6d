#include "io/head_names.hpp"

#include <array>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

// Modules by the name that their tensors begin with.
constexpr std::array<std::string_view, 4> heads{"lm_head", "language_model.lm_head", "embed_out", "output"};
constexpr std::array<std::string_view, 6> embeddings{"model.embed_tokens",
                                                     "model.language_model.embed_tokens",
                                                     "language_model.model.embed_tokens",
                                                     "transformer.wte",
                                                     "wte",
                                                     "language_model.embed_tokens"};

// Tensors that come with a quantised weight: block-wise f8, GPTQ and AWQ, compressed-tensors, bitsandbytes.
constexpr std::array<std::string_view, 8> quantised_parts{
    "weight_scale_inv", "weight_scale", "qweight", "scales", "weight_packed", "weight.absmax", "weight_scale_2", "SCB"};

using Has = std::function<bool(std::string_view)>;

std::string part(std::string_view module, std::string_view suffix) { return base::concat(module, ".", suffix); }

// The first module that has a weight, quantised or not; empty when there is none.
template <std::size_t N>
std::string_view first_present(const std::array<std::string_view, N>& modules, const Has& has) {
  for (std::string_view module : modules) {
    if (has(part(module, "weight")) || has(part(module, "qweight")) || has(part(module, "weight_packed"))) {
      return module;
    }
  }
  return {};
}

template <std::size_t N>
std::string weight_list(const std::array<std::string_view, N>& modules) {
  return base::concat(base::join(modules, ".weight, "), ".weight");
}

}  // namespace

Error quantised_head(const std::string& source, std::string_view module, const std::string& found,
                     const HfConfig& config) {
  std::string said;
  if (config.quantization) {
    said = base::concat(
        " (quantization_config: quant_method ", base::in_quotes(config.quantization->method), ", ", module, " ",
        config.quantization->leaves_out(module) ? "listed as not converted" : "not listed as left out", ")");
  }
  return {StatusCode::unsupported,
          base::concat(source, ": the head ", module, " is quantised: found ", found, said,
                       ". Quantised heads are not supported yet; use a checkpoint whose head is bf16, f16 or f32")};
}

Result<HeadNames> choose_head(const Has& has, const HfConfig& config, const std::string& source) {
  HeadNames names;
  std::string_view module = first_present(heads, has);
  if (module.empty()) {
    module = first_present(embeddings, has);
    names.tied = true;
    if (module.empty()) {
      return fail(StatusCode::not_found, base::concat(source, ": no head found; looked for ", weight_list(heads),
                                                      " and the embeddings ", weight_list(embeddings)));
    }
    if (config.tie_word_embeddings == false) {
      return fail(StatusCode::not_found, base::concat(source, ": no head found; looked for ", weight_list(heads),
                                                      ", and as tie_word_embeddings is false the embedding ", module,
                                                      ".weight is not the head"));
    }
  }
  for (std::string_view suffix : quantised_parts) {
    if (has(part(module, suffix))) {
      return tl::unexpected(quantised_head(source, module, base::in_quotes(part(module, suffix)), config));
    }
  }
  names.weight = part(module, "weight");
  if (!names.tied) {
    if (std::string bias = part(module, "bias"); has(bias)) names.bias = std::move(bias);
    return names;
  }
  // A tied head has no weight of its own to tell its name from, but may still have a bias.
  for (std::string_view head : heads) {
    if (std::string bias = part(head, "bias"); has(bias)) {
      names.bias = std::move(bias);
      break;
    }
  }
  return names;
}

}  // namespace isologit::detail::io
