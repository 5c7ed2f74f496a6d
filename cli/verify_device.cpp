#include "cli/verify_device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "cli/python_verbs.hpp"
#include "cli/signals.hpp"
#include "isologit/version.hpp"

namespace isologit::detail::cli {
namespace {

using nlohmann::json;

// Requests and answers are a line of JSON each, and then the bytes of matrices or results one after the other. What
// else prints goes to standard error.
constexpr const char* kScript = R"(
import json, os, sys
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
sys.stdout = sys.stderr  # which does not wait for a full buffer
try:
    from isologit.testing import _device
except ModuleNotFoundError as error:
    told = (f"--device: it needs the Python package isologit with torch, and {sys.executable} has no module "
            f"{error.name!r}: pip install 'isologit[torch]' in it, or name another Python by ISOLOGIT_PYTHON")
    answers.write(json.dumps({"error": told}).encode() + b"\n")
else:
    _device.serve(sys.argv[1], sys.stdin.buffer, answers)
)";

constexpr std::uint64_t kMostElements = 1U << 24U;  // of results
constexpr std::size_t kShown = 60;                  // of an answer that is none, in characters

struct Type {
  const char* name;
  std::size_t bytes;
};
constexpr Type kTypes[] = {{"i64", 8}, {"f32", 4}, {"bf16", 2}, {"f16", 2}};

std::size_t bytes_of(const std::string& type) {
  for (const Type& known : kTypes) {
    if (type == known.name) return known.bytes;
  }
  return 0;
}

json numbers_of(const HeadCase& one) {
  json made = {{"last_id", one.last_id},     {"top_k_ids", kTopK},           {"temperatures", one.temperatures},
               {"token_ids", one.token_ids}, {"seeds", one.seeds},           {"sequence_ids", one.sequence_ids},
               {"positions", one.positions}, {"min_p", one.min_p},           {"top_k", one.top_k},
               {"top_p", one.top_p},         {"d_logprobs", one.d_logprobs}, {"d_lse", one.d_lse},
               {"d_entropy", one.d_entropy}, {"transforms", json::object()}};
  const Transforms& transforms = one.transforms;
  if (transforms.has_softcap) made["transforms"]["softcap"] = transforms.softcap;
  if (transforms.scale_kind == ScaleKind::multiply) made["transforms"]["scale"] = transforms.scale;
  if (transforms.scale_kind == ScaleKind::divide) made["transforms"]["divide"] = transforms.scale;
  return made;
}

json forward_numbers() {
  json gates = json::array();
  for (const GateName& gate : kGates) gates.push_back(gate.name);
  return {{"heads", kHeads},          {"kv_heads", kKvHeads},
          {"epsilon", kEpsilon},      {"multiplier", kMultiplier},
          {"gates", gates},           {"theta", kTheta},
          {"rotary_dim", kDim - 4},   {"factor", kFactor},
          {"positions", kPositions},  {"scale", kScale},
          {"softcap", kSoftcap},      {"window", kWindow},
          {"sinks", kSinks},          {"query_starts", kQueryStarts},
          {"key_counts", kKeyCounts}, {"first_keys", kFirstKeys}};
}

}  // namespace

Outcome<Device> Device::start(const std::string& name, std::chrono::seconds patience) {
  Outcome<ChildProcess> child = ChildProcess::start({chosen_python(), "-c", kScript, name}, patience);
  if (!child) {
    return failure(
        fmt::format("--device: {}; expected a Python with isologit and torch: pip install "
                    "'isologit[torch]', or name one by ISOLOGIT_PYTHON",
                    child.error().message));
  }
  Device device(std::move(*child), name);
  const auto answer = device.read_answer();
  if (!answer) return tl::unexpected(answer.error());
  if (answer->contains("error")) {
    const bool of_usage = answer->value("usage", false);
    return tl::unexpected(Failure{of_usage ? kExitUsage : kExitFailure, answer->value("error", "")});
  }
  device.title_ = answer->value("title", name);
  return device;
}

std::vector<Operation> Device::operations() {
  std::vector<Operation> made(cli::operations().begin(), cli::operations().end());
  for (Operation& one : made) {
    const char* name = one.name;
    if (one.head) {
      one.head = [this, name](const HeadCase& data, const ScoreOptions& with) { return head(name, data, with); };
    } else {
      one.forward = [this, name](const ForwardCase& data, const ScoreOptions& with) {
        return forward(name, data, with);
      };
    }
  }
  return made;
}

ForwardResults Device::decode() {
  return [this](const ForwardCase& data, const ScoreOptions& with) { return forward("decode", data, with); };
}

Result<Results> Device::head(const char* operation, const HeadCase& one, const ScoreOptions& options) {
  return ask(operation, numbers_of(one),
             {{"hidden", &one.hidden}, {"weight", &one.weight}, {"bias", &one.bias}, {"given", &one.given}}, options);
}

Result<Results> Device::forward(const char* operation, const ForwardCase& one, const ScoreOptions& options) {
  return ask(operation, forward_numbers(),
             {{"x", &one.x},
              {"a", &one.a},
              {"b", &one.b},
              {"weight", &one.weight},
              {"bias", &one.bias},
              {"projection", &one.projection},
              {"keys", &one.keys},
              {"values", &one.values}},
             options);
}

Result<Results> Device::ask(const char* operation, json request, const Operands& operands,
                            const ScoreOptions& options) {
  const auto fails = [&](const Failure& why) {
    lost_ = why;
    return fail(StatusCode::cancelled, why.message);
  };
  if (lost_) return fails(*lost_);
  request["operation"] = operation;
  request["threads"] = options.threads;
  request["matrices"] = json::array();
  std::string bytes;
  for (const auto& [name, elements] : operands) {
    request["matrices"].push_back({name, dtype_name(elements->dtype), elements->rows, elements->cols});
    bytes.append(reinterpret_cast<const char*>(elements->bytes.data()), elements->bytes.size());
  }
  if (const auto written = child_.write(request.dump() + "\n" + bytes); !written) return fails(written.error());
  const auto answer = read_answer();
  if (!answer) return fails(answer.error());
  if (answer->contains("error")) {
    return fail(StatusCode::unsupported, answer->value("error", ""));
  }
  auto results = read_results(*answer);
  if (!results) return fails(results.error());
  return std::move(*results);
}

Failure Device::told(const Failure& failure) const {
  if (noted_signal() != 0) return failure;
  return {failure.exit_code, fmt::format("--device {}: {}", name_, failure.message)};
}

Failure Device::not_understood(const std::string& answer) const {
  return told({kExitFailure, fmt::format("'{}' has answered {}; expected what the package isologit {} answers: is it "
                                         "of this version, and ISOLOGIT_PYTHON a Python?",
                                         chosen_python(), base::in_quotes(std::string_view(answer).substr(0, kShown)),
                                         ISOLOGIT_VERSION)});
}

Outcome<json> Device::read_answer() {
  const auto line = child_.read_line();
  if (!line) return tl::unexpected(told(line.error()));
  json answer = json::parse(*line, nullptr, false);
  if (!answer.is_object()) return tl::unexpected(not_understood(*line));
  return answer;
}

// The answer: {"results": [[name, type, elements, elements a row], ...]}.
Outcome<Results> Device::read_results(const json& answer) {
  Results results;
  std::uint64_t total = 0;
  try {
    for (const json& one : answer.at("results")) {
      const std::size_t size = bytes_of(one.at(1).get<std::string>());
      const auto count = one.at(2).get<std::uint64_t>();
      total += std::min(count, kMostElements);
      if (size == 0 || total >= kMostElements) return tl::unexpected(not_understood(answer.dump()));
      const auto bytes = child_.read(count * size);
      if (!bytes) return tl::unexpected(told(bytes.error()));
      Bits bits{one.at(0).get<std::string>(), one.at(3).get<std::int64_t>(), {}, size};
      for (std::size_t i = 0; i < count; ++i) {
        std::uint64_t value = 0;  // of this machine's byte order, which is little-endian
        std::memcpy(&value, bytes->data() + i * size, size);
        bits.values.push_back(value);
      }
      results.push_back(std::move(bits));
    }
  } catch (const json::exception&) {
    return tl::unexpected(not_understood(answer.dump()));
  }
  return results;
}

}  // namespace isologit::detail::cli
