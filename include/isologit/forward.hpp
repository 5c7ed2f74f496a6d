// The operators of a forward pass besides the head: each result is a real-number function of the stored operands,
// rounded once to the activations' type. Definitions: CONTRACT.md 10.
//
// Shared by all: an activation is bf16, f16 or f32 and a result has its operand's type; the weights of a norm may have
// any of the three. Results do not depend on batch, threads, kernel or processor. `y` may be `x` itself (the same data
// and strides); otherwise outputs may not overlap each other or an input. Requests are checked, values are not: NaN and
// infinities follow the contract. On an error nothing useful is in the outputs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "isologit/status.hpp"
#include "isologit/view.hpp"

namespace isologit::forward {

// Activations [tokens, heads, dim]; element d of head h of token t is at t * token_stride + h * head_stride + d.
// Strides count elements and may be 0 or negative for what is read. A plain row has one head.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t tokens = 0;
  std::int64_t heads = 1;
  std::int64_t dim = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};

// Where a result goes; it has the shape of its operand.
struct TensorOutput {
  void* data = nullptr;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};

struct Options {
  int threads = 0;                             // 0: as many as there are processors to run on
  std::optional<std::vector<int>> processors;  // as in ScoreOptions
  std::string kernel;  // a name from kernels(): whose loops run; empty: ISOLOGIT_KERNEL if set, else the best here
  std::function<bool(double)> progress;  // as in ScoreOptions, with the share of the rows that are done
};

struct Report {
  std::string kernel;
  int threads = 0;
  int processors = 0;        // how many these could run on
  std::int64_t settled = 0;  // results that f64 could not prove, decided in wider arithmetic
};

// y_v = sum over k of x_k w_vk + b_v: the logits of score.hpp in the type of x.
struct LinearRequest {
  MatrixView x;       // [rows, cols]
  MatrixView weight;  // [features, cols], in any type
  VectorView bias;    // [features], or none
  void* y = nullptr;  // [rows, features]
  std::int64_t y_row_stride = 0;
};
Result<Report> linear(const LinearRequest& request, const Options& options = {});

// y = x w / sqrt(mean(x^2) + epsilon) over each row of dim elements.
struct RmsNormRequest {
  TensorView x;
  VectorView weight;  // [dim], or none: 1
  float epsilon = 0;  // >= 0
  bool one_plus_weight = false;
  TensorOutput y;
};
Result<Report> rms_norm(const RmsNormRequest& request, const Options& options = {});

// y = (x - mean) w / sqrt(variance + epsilon) + b, the variance being the mean of squares about the mean.
struct LayerNormRequest {
  TensorView x;
  VectorView weight;  // [dim], or none: 1
  VectorView bias;    // [dim], or none: 0
  float epsilon = 0;  // >= 0
  TensorOutput y;
};
Result<Report> layer_norm(const LayerNormRequest& request, const Options& options = {});

// y = x + multiplier * a + b; a sum of two where b has no data.
struct ResidualRequest {
  TensorView x;
  TensorView a;
  TensorView b;
  float multiplier = 1;
  TensorOutput y;
};
Result<Report> residual(const ResidualRequest& request, const Options& options = {});

// y = the sum of weights[e] x_e over the experts e of a token.
struct CombineRequest {
  TensorView x;                    // [tokens, experts, dim]
  std::span<const float> weights;  // [tokens, experts]
  TensorOutput y;                  // [tokens, 1, dim]
};
Result<Report> combine(const CombineRequest& request, const Options& options = {});

enum class GateKind {
  silu,           // g / (1 + e^-g)
  gelu_tanh,      // g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))) / 2, 0.044715 as f32
  relu_squared,   // max(g, 0)^2
  clamped_swish,  // g / (1 + e^(-alpha g)) of min(g, limit); with up: (1 + up clamped to [-limit, limit]) times that
};

// y = gate(g) up, or gate(g) where `up` has no data.
struct GateRequest {
  GateKind kind = GateKind::silu;
  TensorView gate;
  TensorView up;
  float alpha = 1.702F;  // of clamped_swish
  float limit = 7;       // likewise
  TensorOutput y;
};
Result<Report> gate(const GateRequest& request, const Options& options = {});

enum class RotaryLayout { halves, pairs };  // element j turns with j + rotary_dim / 2, or 2j with 2j + 1

// Turns pairs of the first 2 * frequencies.size() elements of each head by the angle position * frequency, over the
// reals; the rest is copied. (a, b) -> factor (a cos - b sin), factor (b cos + a sin).
struct RotaryRequest {
  TensorView x;
  std::span<const std::int64_t> positions;  // [tokens], each in [0, 2^31)
  std::span<const float> frequencies;       // each in [0, 1]
  RotaryLayout layout = RotaryLayout::halves;
  float factor = 1;
  TensorOutput y;
};
Result<Report> rotary(const RotaryRequest& request, const Options& options = {});

struct Llama3Scaling {
  float factor;
  float low_freq_factor;
  float high_freq_factor;
  std::int64_t original_max_position;
};
// Of frequency j (1 - r + r / factor), r going from 0 to 1 with j between the places low and high at which a frequency
// makes beta_fast and beta_slow turns over the original context: dim ln(context / (2 pi beta)) / (2 ln theta), at least
// 0 and at most dim - 1, and rounded down and up where `truncate` says so.
struct YarnScaling {
  float factor;
  float beta_fast;
  float beta_slow;
  std::int64_t original_max_position;
  bool truncate;
};
// theta^(-2j / dim) for j in [0, dim / 2), each rounded once to f32. linear: divided by `factor`.
Result<std::vector<float>> rotary_frequencies(float theta, std::int64_t dim, float linear_factor = 1);
Result<std::vector<float>> rotary_frequencies(float theta, std::int64_t dim, const Llama3Scaling& scaling);
Result<std::vector<float>> rotary_frequencies(float theta, std::int64_t dim, const YarnScaling& scaling);

// Keys and values of a batch of sequences. Without a block table key j of sequence s is token first_keys[s] + j; with
// one it is slot j % block_size of block block_table[s * blocks_per_sequence + j / block_size].
struct KeyValues {
  TensorView keys;    // [tokens, kv_heads, dim]; with blocks, `tokens` counts the slots of all blocks
  TensorView values;  // [tokens, kv_heads, value_dim]
  std::span<const std::int64_t> first_keys;
  std::span<const std::int32_t> block_table;
  std::int64_t blocks_per_sequence = 0;
  std::int64_t block_size = 0;
  std::int64_t key_block_stride = 0;
  std::int64_t value_block_stride = 0;
};

// o_i = sum of e^s_ij v_j / (sum of e^s_ij + e^sink) over the keys j that query i sees; s_ij = scale q_i k_j, then
// softcap tanh(s / softcap) where it is not 0. Head h reads kv head h / (heads / kv_heads). A query that sees no key is
// +0. What a query does not see is not read into its result.
struct AttentionRequest {
  TensorView q;  // [tokens, heads, dim]
  KeyValues kv;
  std::span<const std::int64_t> query_starts;  // [sequences + 1], ascending, from 0 to tokens
  std::span<const std::int64_t> key_counts;    // [sequences]; the last query of a sequence is at its last key
  float scale = 1;                             // > 0
  float softcap = 0;
  bool causal = true;
  std::int64_t window = 0;       // how many keys back from its own a query sees, itself included; 0: all
  std::span<const float> sinks;  // [heads], or none
  TensorOutput y;                // [tokens, heads, value_dim]
};
Result<Report> attention(const AttentionRequest& request, const Options& options = {});

}  // namespace isologit::forward
