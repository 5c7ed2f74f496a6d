#include "cli/model_options.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "cli/parse.hpp"

namespace isologit::detail::cli {
namespace {

bool above_zero(float value) { return value > 0 && std::isfinite(value); }
bool not_zero(float value) { return value != 0 && std::isfinite(value); }

Outcome<Transforms> parse_transforms(const ModelArguments& arguments) {
  Transforms transforms;
  if (arguments.softcap) {
    const auto softcap = parse_f32("--softcap", *arguments.softcap, "a finite number above 0, such as 30", above_zero);
    if (!softcap) return tl::unexpected(softcap.error());
    transforms.has_softcap = true;
    transforms.softcap = *softcap;
  }
  if (arguments.scale && arguments.divide) return usage_error("--divide: not with --scale; a head has one of them");
  if (arguments.scale || arguments.divide) {
    const auto number = arguments.scale
                            ? parse_f32("--scale", *arguments.scale, "a finite number other than 0", not_zero)
                            : parse_f32("--divide", *arguments.divide, "a finite number above 0", above_zero);
    if (!number) return tl::unexpected(number.error());
    transforms.scale_kind = arguments.scale ? ScaleKind::multiply : ScaleKind::divide;
    transforms.scale = *number;
  }
  return transforms;
}

// Nothing if the model's own family says what its head is.
Outcome<std::optional<io::GivenHead>> parse_head(const ModelArguments& arguments) {
  const char* step = arguments.softcap ? "--softcap" : arguments.scale ? "--scale" : arguments.divide ? "--divide" : "";
  if (arguments.head.empty()) {
    const char* needs = *step != 0                    ? step
                        : arguments.vocab_size > 0    ? "--vocab-size"
                        : arguments.assume_plain_head ? "--assume-plain-head"
                                                      : "";
    if (*needs != 0) return usage_error(fmt::format("{}: needs --head, which names the head's tensor", needs));
    return std::optional<io::GivenHead>();
  }
  if (arguments.assume_plain_head && *step != 0) {
    return usage_error(fmt::format("--assume-plain-head: not with {}; a plain head has no transforms", step));
  }
  if (!arguments.assume_plain_head && *step == 0) {
    return usage_error(
        "--head: say what the model does to the logits of this head: --softcap C, --scale S or --divide D, or "
        "--assume-plain-head if it does nothing");
  }
  Outcome<Transforms> transforms = parse_transforms(arguments);
  if (!transforms) return tl::unexpected(transforms.error());
  io::GivenHead given{arguments.head, *transforms, std::nullopt};
  if (arguments.vocab_size > 0) given.vocab_size = arguments.vocab_size;
  return std::optional(std::move(given));
}

}  // namespace

void ModelArguments::declare_model(Options& options) {
  options.required("MODEL", "", model,
                   "A checkpoint's directory, a model id in the Hugging Face cache, or a GGUF file");
  options.text("--head", "TENSOR", head, "The head's weight, where the model's family is not known");
  options.text("--softcap", "C", softcap, "With --head: the model's logits are C * tanh(z / C)");
  options.text("--scale", "S", scale, "With --head: the model multiplies its logits by S, after the softcap");
  options.text("--divide", "D", divide, "With --head: the model divides its logits by D, after the softcap");
  options.integer("--vocab-size", "N", vocab_size, 1, std::numeric_limits<std::int64_t>::max(),
                  "With --head: ids 0 to N - 1 are real; vocab_size of config.json, if it is not given");
  options.text("--adapter", "DIR", adapter, "The folder of a LoRA adapter of PEFT; of it what is added to the head");
  options.flag("--assume-plain-head", assume_plain_head, "With --head: the model does nothing to its logits");
  options.choice(
      "--f8", "real|bf16", f8, {"real", "bf16"},
      "What a head of f8 stands for: real products of values and scales, the default, or these rounded to bf16");
}

Outcome<io::Checkpoint> open_model(const ModelArguments& arguments) {
  const auto given = parse_head(arguments);
  if (!given) return tl::unexpected(given.error());
  Result<io::Checkpoint> checkpoint = io::open_checkpoint(arguments.model, *given, arguments.adapter);
  if (!checkpoint) return failure(checkpoint.error());
  EncodedWeight& weight = checkpoint->head.encoded;
  weight.product = arguments.f8 == "bf16" ? F8Product::bf16 : F8Product::real;
  if (weight.product == F8Product::bf16 && weight.scales.values.data == nullptr) {
    return usage_error(fmt::format("--f8: the head of '{}' is not f8", arguments.model));
  }
  return std::move(*checkpoint);
}

}  // namespace isologit::detail::cli
