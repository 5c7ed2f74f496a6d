// isologit info: what head a checkpoint has.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/cpu.hpp"
#include "cli/row_options.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"
#include "exact/encoded.hpp"
#include "io/checkpoint.hpp"
#include "kernels/target.hpp"
#include "tiles/encoded_tiles.hpp"

namespace isologit::detail::cli {
namespace {

struct Memory {
  std::uint64_t mapped = 0;   // bytes of the head in the checkpoint's files, read in place
  std::uint64_t working = 0;  // bytes that scoring takes besides, but for about 1 kB a row
  std::string kernel;
  int threads = 0;
};

std::string_view weight_dtype(const Head& head) {
  return head.encoded.encoding == Encoding::none ? dtype_name(head.weight.dtype) : encoding_name(head.encoded.encoding);
}

bool has_scales(const Head& head) { return head.encoded.scales.values.data != nullptr; }

std::string_view product_name(const Head& head) { return head.encoded.product == F8Product::bf16 ? "bf16" : "real"; }

std::uint64_t bytes_of(const MatrixView& matrix, std::size_t element) {
  return static_cast<std::uint64_t>(matrix.rows) * static_cast<std::uint64_t>(matrix.cols) * element;
}

Outcome<Memory> memory_of(const Head& head) {
  const Result<const kernels::Target*> chosen = kernels::choose("", Arithmetic::exact);
  if (!chosen) return failure(chosen.error());
  const kernels::Target& kernel = **chosen;
  Memory memory{0, 0, std::string(kernel.name()), base::available_threads()};
  const bool encoded = head.encoded.encoding != Encoding::none;
  const MatrixView& scales = head.encoded.scales.values;
  memory.mapped =
      bytes_of(head.weight, encoded ? exact::encoded_size(head.encoded.encoding) : dtype_size(head.weight.dtype)) +
      static_cast<std::uint64_t>(head.bias.size) * dtype_size(head.bias.dtype) +
      (has_scales(head) ? bytes_of(scales, dtype_size(scales.dtype)) : 0);
  const std::int64_t rows = kernel.block_rows();
  const std::int64_t cols = tiles::kernel_columns(head);
  const std::int64_t tile_bytes = rows * kernel.tile_vocab() * static_cast<std::int64_t>(sizeof(float));
  const std::uint64_t decoded =
      encoded ? static_cast<std::uint64_t>(kernel.tile_vocab() * cols) * dtype_size(tiles::kernel_dtype(head)) : 0;
  memory.working = kernel.prepared_bytes(rows, cols) +
                   static_cast<std::uint64_t>(memory.threads) *
                       (kernel.scratch_bytes(rows, cols) + decoded + static_cast<std::uint64_t>(tile_bytes));
  return memory;
}

nlohmann::ordered_json transforms_json(const Transforms& transforms) {
  nlohmann::ordered_json json = {{"softcap", nullptr}, {"scale", nullptr}, {"divisor", nullptr}, {"order", nullptr}};
  if (transforms.has_softcap) json["softcap"] = transforms.softcap;
  if (transforms.scale_kind == ScaleKind::multiply) json["scale"] = transforms.scale;
  if (transforms.scale_kind == ScaleKind::divide) json["divisor"] = transforms.scale;
  if (transforms.has_softcap && transforms.scale_kind != ScaleKind::none) {
    json["order"] = transforms.order == TransformOrder::softcap_first ? "softcap_first" : "scale_first";
  }
  return json;
}

nlohmann::ordered_json scales_json(const io::Checkpoint& checkpoint) {
  if (!has_scales(checkpoint.head)) return nullptr;
  const F8Scales& scales = checkpoint.head.encoded.scales;
  return {{"tensor", checkpoint.scales_name},
          {"dtype", dtype_name(scales.values.dtype)},
          {"shape", {scales.values.rows, scales.values.cols}},
          {"block", {scales.block_rows, scales.block_cols}},
          {"product", product_name(checkpoint.head)}};
}

std::string scales_text(const io::Checkpoint& checkpoint) {
  const F8Scales& scales = checkpoint.head.encoded.scales;
  const std::string each = scales.block_rows == 0 ? std::string("one for all")
                           : scales.block_cols == 0
                               ? std::string("one a row")
                               : fmt::format("one a block of [{}, {}]", scales.block_rows, scales.block_cols);
  return fmt::format("{}  {}, {}; products {}", checkpoint.scales_name, dtype_name(scales.values.dtype), each,
                     checkpoint.head.encoded.product == F8Product::bf16 ? "rounded to bf16" : "of real numbers");
}

std::string as_json(const std::string& model, const io::Checkpoint& checkpoint, const Memory& memory) {
  const Head& head = checkpoint.head;
  nlohmann::ordered_json json = {{"model", model},
                                 {"directory", checkpoint.directory},
                                 {"model_type", checkpoint.config.model_type},
                                 {"tensor", checkpoint.weight_name},
                                 {"file", checkpoint.weight_path},
                                 {"dtype", weight_dtype(head)},
                                 {"scales", scales_json(checkpoint)},
                                 {"shape", {head.weight.rows, head.weight.cols}},
                                 {"tied", checkpoint.tied},
                                 {"bias", nullptr},
                                 {"bias_dtype", nullptr},
                                 {"vocab_size", head.vocab_size},
                                 {"hidden_size", head.weight.cols},
                                 {"padded_rows", head.weight.rows - head.vocab_size},
                                 {"transforms", transforms_json(head.transforms)},
                                 {"takes_last_hidden_state", nullptr},
                                 {"memory", {{"mapped_bytes", memory.mapped}, {"working_bytes", memory.working}}},
                                 {"kernel", memory.kernel},
                                 {"threads", memory.threads}};
  if (const io::Family* family = checkpoint.config.family) json["takes_last_hidden_state"] = family->takes_last_hidden;
  if (checkpoint.adapter) {
    json["adapter"] = {{"tensor", nullptr}, {"rank", head.lora.a.rows}, {"scale", nullptr}};
    if (head.lora.a.rows > 0) {
      json["adapter"]["tensor"] = checkpoint.adapter->name;
      json["adapter"]["scale"] = head.lora.scale;
    }
  }
  if (head.bias.data != nullptr) {
    json["bias"] = checkpoint.bias_name;
    json["bias_dtype"] = dtype_name(head.bias.dtype);
  }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string as_table(const std::string& model, const io::Checkpoint& checkpoint, const Memory& memory) {
  const Head& head = checkpoint.head;
  std::vector<std::pair<std::string, std::string>> fields = {{"model", model}};
  if (checkpoint.directory != model) fields.emplace_back("directory", checkpoint.directory);
  fields.emplace_back("tensor", checkpoint.weight_name);
  fields.emplace_back("file", checkpoint.weight_path);
  fields.emplace_back("dtype", weight_dtype(head));
  if (has_scales(head)) fields.emplace_back("scales", scales_text(checkpoint));
  fields.emplace_back("shape", fmt::format("[{}, {}]", head.weight.rows, head.weight.cols));
  fields.emplace_back("tied", checkpoint.tied ? "yes, the head is the embedding" : "no");
  fields.emplace_back("bias", head.bias.data == nullptr ? std::string("none")
                                                        : fmt::format("{}  {} [{}]", checkpoint.bias_name,
                                                                      dtype_name(head.bias.dtype), head.bias.size));
  if (checkpoint.adapter && head.lora.a.rows == 0) fields.emplace_back("adapter", "leaves the head as it is");
  if (head.lora.a.rows > 0) {
    fields.emplace_back(
        "adapter", fmt::format("{}  rank {}, scale {}", checkpoint.adapter->name, head.lora.a.rows, head.lora.scale));
  }
  const std::int64_t padded = head.weight.rows - head.vocab_size;
  fields.emplace_back("vocabulary",
                      padded == 0 ? fmt::format("{}", head.vocab_size)
                                  : fmt::format("{}, and {} padded rows that are never read", head.vocab_size, padded));
  fields.emplace_back("transforms", transforms_text(head.transforms));
  if (checkpoint.config.family != nullptr && !checkpoint.config.family->takes_last_hidden) {
    fields.emplace_back("rows", "what the head's module is given, which is not the last hidden state of the body");
  }
  fields.emplace_back("memory", fmt::format("{} of the file, mapped and read in place", bytes_text(memory.mapped)));
  fields.emplace_back("", fmt::format("{} more to score, and about 1 kB a row (kernel {}, threads {})",
                                      bytes_text(memory.working), memory.kernel, memory.threads));
  return field_table(fields);
}

Outcome<Ending> run(const ModelArguments& arguments, bool json) {
  const std::string& model = arguments.model;
  const Outcome<io::Checkpoint> checkpoint = open_model(arguments);
  if (!checkpoint) return tl::unexpected(checkpoint.error());
  const Outcome<Memory> memory = memory_of(checkpoint->head);
  if (!memory) return tl::unexpected(memory.error());
  return Ending{json ? as_json(model, *checkpoint, *memory) : as_table(model, *checkpoint, *memory), {}};
}

}  // namespace

VerbRun info_verb(Options& options) {
  struct Arguments : ModelArguments {
    bool json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  options.about("Tell what head a model has: tensor, dtype, shape, tied, transforms, memory");
  arguments->declare_model(options);
  declare_json(options, arguments->json);
  return [arguments] { return run(*arguments, arguments->json); };
}

}  // namespace isologit::detail::cli
