#include "io/checkpoint.hpp"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "base/text.hpp"
#include "io/adapter.hpp"
#include "io/encoded_head.hpp"
#include "io/gguf_head.hpp"
#include "io/guard.hpp"
#include "io/head_names.hpp"
#include "io/hf_cache.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

// "model.safetensors": tensor "lm_head.weight"
std::string place(const CheckpointFiles::Found& found) {
  return base::concat(base::in_quotes(found.path), ": tensor ", base::in_quotes(found.tensor->name));
}

Result<void> check_weight(const CheckpointFiles::Found& found, const HfConfig& config) {
  const Tensor& tensor = *found.tensor;
  if (!is_weight_dtype(tensor.dtype)) {
    return tl::unexpected(quantised_head(
        base::in_quotes(found.path), module_of(tensor.name),
        base::concat("dtype ", base::printable(tensor.dtype), " in ", base::in_quotes(tensor.name)), config));
  }
  if (tensor.shape.size() != 2) {
    return fail(StatusCode::invalid_argument, base::concat(place(found), " has shape ", base::shape_text(tensor.shape),
                                                           ", expected [vocabulary, hidden]"));
  }
  const std::int64_t rows = tensor.shape[0];
  const std::int64_t cols = tensor.shape[1];
  if (config.hidden_size > 0 && cols != config.hidden_size) {
    return fail(StatusCode::invalid_argument, base::concat(place(found), " has shape ", base::shape_text(tensor.shape),
                                                           ", but ", config.family->hidden, " in config.json is ",
                                                           config.hidden_size, "; expected that many columns"));
  }
  if (rows < config.vocab_size) {
    return fail(StatusCode::invalid_argument,
                base::concat(place(found), " has shape ", base::shape_text(tensor.shape), ", but the vocabulary has ",
                             config.vocab_size, " ids", "; expected at least that many rows"));
  }
  return {};
}

// The scales of a weight of f8, which must have some, and any other none.
Result<void> fill_scales(Checkpoint& checkpoint, const HeadNames& names) {
  Head& head = checkpoint.head;
  const std::string source = base::in_quotes(checkpoint.weight_path);
  const std::string_view module = module_of(names.weight);
  const bool is_f8 = head.encoded.encoding != Encoding::none && head.encoded.encoding != Encoding::f64;
  if (!is_f8) {
    if (names.scales.empty()) return {};
    return tl::unexpected(quantised_head(source, module, base::in_quotes(names.scales), checkpoint.config));
  }
  if (names.scales.empty()) {
    return fail(StatusCode::not_found,
                base::concat(source, ": ", names.weight, " is ", encoding_name(head.encoded.encoding),
                             ", and there are no scales; looked for ", module, ".weight_scale_inv and ", module,
                             ".weight_scale"));
  }
  auto scales = checkpoint.files.load(names.scales);
  if (!scales) return tl::unexpected(scales.error());
  checkpoint.scales_name = names.scales;
  return set_scales(*scales, module, checkpoint.config, head, checkpoint.decoded_scales);
}

Result<VectorView> view_bias(const CheckpointFiles::Found& found, std::int64_t weight_rows) {
  const Tensor& tensor = *found.tensor;
  const std::optional<DType> dtype = core_dtype(tensor.dtype);
  if (!dtype) {
    return fail(StatusCode::unsupported, base::concat(place(found), " has dtype ", base::printable(tensor.dtype),
                                                      ", expected BF16, F16 or F32"));
  }
  // final_logits_bias is [1, V].
  const bool is_vector = tensor.shape.size() == 1 || (tensor.shape.size() == 2 && tensor.shape[0] == 1);
  if (!is_vector || tensor.shape.back() != weight_rows) {
    return fail(StatusCode::invalid_argument,
                base::concat(place(found), " has shape ", base::shape_text(tensor.shape), ", expected [", weight_rows,
                             "], one element per weight row"));
  }
  return VectorView{tensor.data, *dtype, weight_rows};
}

Result<void> fill(Checkpoint& checkpoint, const HeadNames& names) {
  auto weight = checkpoint.files.load(names.weight);
  if (!weight) return tl::unexpected(weight.error());
  if (auto done = check_weight(*weight, checkpoint.config); !done) return done;
  set_weight(*weight->tensor, checkpoint.head);
  checkpoint.weight_path = weight->path;
  if (auto done = fill_scales(checkpoint, names); !done) return done;
  if (!names.bias.empty()) {
    auto bias = checkpoint.files.load(names.bias);
    if (!bias) return tl::unexpected(bias.error());
    auto bias_view = view_bias(*bias, checkpoint.head.weight.rows);
    if (!bias_view) return tl::unexpected(bias_view.error());
    checkpoint.head.bias = *bias_view;
  }
  checkpoint.head.vocab_size = checkpoint.config.vocab_size;
  checkpoint.head.transforms = checkpoint.config.transforms;
  checkpoint.weight_name = names.weight;
  checkpoint.bias_name = names.bias;
  checkpoint.tied = names.tied;
  return {};
}

bool is_gguf(const std::string& model) {
  std::error_code ignored;
  return model.ends_with(".gguf") && !std::filesystem::is_directory(model, ignored);
}

Result<Checkpoint> open_gguf(const std::string& path, const GivenHead* given) {
  auto file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  const auto contents = parse_gguf(file->bytes(), path);
  if (!contents) return tl::unexpected(contents.error());
  const auto head = find_gguf_head(*contents, path, given);
  if (!head) return tl::unexpected(head.error());
  const Tensor& weight = *head->weight;
  if (!is_weight_dtype(weight.dtype)) {
    return fail(StatusCode::unsupported,
                base::concat(base::in_quotes(path), ": ", base::printable(weight.name), " is ", weight.dtype,
                             "; isologit takes F16, BF16, F32 and F64. Convert the model with the head left out: "
                             "llama-quantize ",
                             head->tied ? "--token-embedding-type" : "--output-tensor-type", " BF16"));
  }
  Checkpoint checkpoint{.head = {},
                        .config = {},
                        .directory = path,
                        .weight_name = weight.name,
                        .weight_path = path,
                        .bias_name = {},
                        .scales_name = {},
                        .decoded_scales = {},
                        .tied = head->tied,
                        .files = {},
                        .gguf = std::move(*file)};
  set_weight(weight, checkpoint.head);
  if (head->bias != nullptr) {
    auto bias = view_bias({head->bias, path}, weight.shape[0]);
    if (!bias) return tl::unexpected(bias.error());
    checkpoint.head.bias = *bias;
    checkpoint.bias_name = head->bias->name;
  }
  checkpoint.head.vocab_size = checkpoint.config.vocab_size = head->vocab_size;
  checkpoint.head.transforms = checkpoint.config.transforms = head->transforms;
  checkpoint.config.model_type = head->architecture;
  return checkpoint;
}

}  // namespace

Result<Checkpoint> open_checkpoint(const std::string& model, const std::optional<GivenHead>& given,
                                   const std::string& adapter) {
  return guarded("opening a checkpoint", [&]() -> Result<Checkpoint> {
    if (is_gguf(model)) {
      if (adapter.empty()) return open_gguf(model, given ? &*given : nullptr);
      return fail(StatusCode::unsupported, base::concat(base::in_quotes(model),
                                                        ": --adapter takes a model folder; the "
                                                        "names in a GGUF file are not those of an adapter of PEFT"));
    }
    auto directory = find_model(model);
    if (!directory) return tl::unexpected(directory.error());
    auto config = read_hf_config(*directory + "/config.json", given ? &*given : nullptr);
    if (!config) return tl::unexpected(config.error());
    auto files = CheckpointFiles::open(*directory);
    if (!files) return tl::unexpected(files.error());
    const std::string source = base::in_quotes(*directory);
    auto names = given ? given_head(files->names(), *given, source) : choose_head(files->names(), *config, source);
    if (!names) return tl::unexpected(names.error());
    if (auto done = check_adapter(*directory, *names); !done) return tl::unexpected(done.error());
    Checkpoint checkpoint{.head = {},
                          .config = std::move(*config),
                          .directory = std::move(*directory),
                          .weight_name = {},
                          .weight_path = {},
                          .bias_name = {},
                          .scales_name = {},
                          .decoded_scales = {},
                          .tied = false,
                          .files = std::move(*files),
                          .gguf = std::nullopt,
                          .adapter = {}};
    if (auto done = fill(checkpoint, *names); !done) return tl::unexpected(done.error());
    if (!adapter.empty()) {
      auto opened = open_peft_adapter(adapter, *names, checkpoint.config);
      if (!opened) return tl::unexpected(opened.error());
      checkpoint.head.lora = opened->lora;
      checkpoint.adapter = std::move(*opened);
    }
    return checkpoint;
  });
}

}  // namespace isologit::detail::io
