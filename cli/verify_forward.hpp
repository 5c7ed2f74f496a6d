// The operators of a forward pass in `isologit verify`: operands and requests.
#pragma once

#include <array>
#include <cstdint>

#include "cli/verify_results.hpp"
#include "isologit/forward.hpp"

namespace isologit::detail::cli {

inline constexpr std::int64_t kTokens = 5, kHeads = 4, kKvHeads = 2, kDim = 20, kFeatures = 37, kKeys = 14;
inline constexpr float kEpsilon = 1e-6F, kMultiplier = 0.22F, kTheta = 10000, kFactor = 1.2079F, kScale = 0.25F,
                       kSoftcap = 2;
inline constexpr std::int64_t kWindow = 3;
inline constexpr std::array<float, kHeads> kSinks = {0.5F, -3, 20, 0};
inline constexpr std::array<std::int64_t, kTokens> kPositions = {0, 1, 4095, 1048576, 2147483647};
// Two sequences: one of three tokens from its start, one of two tokens behind nine.
inline constexpr std::array<std::int64_t, 3> kQueryStarts = {0, 3, 5};
inline constexpr std::array<std::int64_t, 2> kKeyCounts = {3, 11}, kFirstKeys = {0, 3};

struct GateName {
  const char* name;
  forward::GateKind kind;
};
inline constexpr GateName kGates[] = {{"silu", forward::GateKind::silu},
                                      {"gelu_tanh", forward::GateKind::gelu_tanh},
                                      {"relu_squared", forward::GateKind::relu_squared},
                                      {"clamped_swish", forward::GateKind::clamped_swish}};

struct ForwardCase {
  Elements x, a, b;       // [kTokens, kHeads * kDim]
  Elements weight, bias;  // [kDim]
  Elements projection;    // [kFeatures, kHeads * kDim]
  Elements keys, values;  // [kKeys, kKvHeads * kDim]
};
ForwardCase make_forward_case(DataFamily family, DType dtype);

Result<Results> linear_results(const ForwardCase& one, const ScoreOptions& options);
Result<Results> norm_results(const ForwardCase& one, const ScoreOptions& options);
Result<Results> residual_results(const ForwardCase& one, const ScoreOptions& options);
Result<Results> gate_results(const ForwardCase& one, const ScoreOptions& options);
Result<Results> rotary_results(const ForwardCase& one, const ScoreOptions& options);
Result<Results> attention_results(const ForwardCase& one, const ScoreOptions& options);  // the first: causal
// The causal one token by token, with the keys in pages.
Result<Results> decode_results(const ForwardCase& one, const ScoreOptions& options);

}  // namespace isologit::detail::cli
