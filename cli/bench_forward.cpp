#include "cli/bench_forward.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <numeric>

#include "cli/bench_data.hpp"
#include "isologit/forward.hpp"

namespace isologit::detail::cli {
namespace {

constexpr std::int64_t kHeadDim = 128, kKeysBefore = 512;
constexpr float kEpsilon = 1e-6F, kTheta = 1e6F;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// [tokens, heads * dim] of bf16 in a row.
forward::TensorView view(const std::vector<std::uint16_t>& data, std::int64_t tokens, std::int64_t heads,
                         std::int64_t dim) {
  return {data.data(), DType::bf16, tokens, heads, dim, heads * dim, dim};
}

// Operands for up to `most` tokens, and where results go.
struct Layer {
  std::int64_t hidden, features, dim, heads, kv_heads;
  std::vector<std::uint16_t> wide_weight, narrow_weight, norm_weight;
  std::vector<std::uint16_t> x, wide, other, q, keys, values;
  std::vector<std::int64_t> positions;
  std::vector<float> frequencies;
  std::vector<std::uint16_t> y;

  Layer(std::int64_t hidden_size, std::int64_t most, int threads)
      : hidden(hidden_size),
        features(3 * hidden_size),
        dim(std::min(kHeadDim, (hidden_size + 1) / 2 * 2)),
        heads(std::max<std::int64_t>(1, hidden_size / dim)),
        kv_heads(heads % 4 == 0 ? heads / 4 : heads) {
    std::uint64_t stream = 10;
    const auto normal = [&](std::int64_t count, float deviation) {
      return normal_bf16(count, deviation, stream++, threads);
    };
    wide_weight = normal(features * hidden, 0.02F);
    narrow_weight = normal(hidden * features, 0.02F);
    norm_weight = normal(hidden, 1);
    x = normal(most * hidden, 1);
    wide = normal(most * features, 1);
    other = normal(most * features, 1);
    q = normal(most * heads * dim, 1);
    keys = normal((kKeysBefore + most) * kv_heads * dim, 1);
    values = normal((kKeysBefore + most) * kv_heads * dim, 1);
    positions.resize(size(most));
    std::iota(positions.begin(), positions.end(), kKeysBefore);
    if (const auto made = forward::rotary_frequencies(kTheta, dim)) frequencies = *made;
    y.resize(size(most * std::max(features, heads * dim)));
  }
};

using Call = std::function<Result<forward::Report>(const forward::Options&)>;

struct Named {
  std::string name;
  Call call;
};

Named linear(Layer& of, std::int64_t rows, bool widens) {
  const std::int64_t from = widens ? of.hidden : of.features;
  const std::int64_t to = widens ? of.features : of.hidden;
  forward::LinearRequest request;
  request.x = {(widens ? of.x : of.wide).data(), DType::bf16, rows, from, from};
  request.weight = {(widens ? of.wide_weight : of.narrow_weight).data(), DType::bf16, to, from, from};
  request.y = of.y.data();
  request.y_row_stride = to;
  return {fmt::format("linear, {} to {}", from, to),
          [request](const forward::Options& with) { return forward::linear(request, with); }};
}

Named attention(Layer& of, std::int64_t rows) {
  return {
      fmt::format("attention, {} heads of {}, {} of keys, {} keys", of.heads, of.dim, of.kv_heads, kKeysBefore + rows),
      [&of, rows](const forward::Options& with) {
        const std::int64_t starts[] = {0, rows}, counts[] = {kKeysBefore + rows}, firsts[] = {0};
        forward::AttentionRequest request;
        request.q = view(of.q, rows, of.heads, of.dim);
        request.kv.keys = view(of.keys, kKeysBefore + rows, of.kv_heads, of.dim);
        request.kv.values = view(of.values, kKeysBefore + rows, of.kv_heads, of.dim);
        request.kv.first_keys = firsts;
        request.query_starts = starts;
        request.key_counts = counts;
        request.scale = 0.09F;  // of heads of 128 elements, about
        request.y = {of.y.data(), of.heads * of.dim, of.dim};
        return forward::attention(request, with);
      }};
}

std::vector<Named> operators(Layer& of, std::int64_t rows) {
  const forward::TensorOutput y{of.y.data(), of.hidden, of.hidden};
  const forward::TensorView x = view(of.x, rows, 1, of.hidden);
  std::vector<Named> all;
  all.push_back({fmt::format("rms_norm of {}", of.hidden), [=, &of](const forward::Options& with) {
                   const VectorView weight{of.norm_weight.data(), DType::bf16, of.hidden};
                   return forward::rms_norm({x, weight, kEpsilon, false, y}, with);
                 }});
  all.push_back({fmt::format("rotary, {} heads of {}", of.heads, of.dim), [=, &of](const forward::Options& with) {
                   forward::RotaryRequest request;
                   request.x = view(of.q, rows, of.heads, of.dim);
                   request.positions = std::span(of.positions).first(size(rows));
                   request.frequencies = of.frequencies;
                   request.y = {of.y.data(), of.heads * of.dim, of.dim};
                   return forward::rotary(request, with);
                 }});
  all.push_back(attention(of, rows));
  all.push_back({fmt::format("residual of {}", of.hidden), [=](const forward::Options& with) {
                   return forward::residual({x, x, {}, 1, y}, with);
                 }});
  all.push_back(linear(of, rows, true));
  all.push_back({fmt::format("gate silu of {}", of.features), [=, &of](const forward::Options& with) {
                   forward::GateRequest request;
                   request.gate = view(of.wide, rows, 1, of.features);
                   request.up = view(of.other, rows, 1, of.features);
                   request.y = {of.y.data(), of.features, of.features};
                   return forward::gate(request, with);
                 }});
  all.push_back(linear(of, rows, false));
  return all;
}

}  // namespace

std::vector<OperatorTimes> measure_forward(std::int64_t hidden_size, std::span<const std::int64_t> rows,
                                           std::span<const kernels::Target* const> kernels, int threads, double enough,
                                           const std::function<void(double)>& told) {
  Layer layer(hidden_size, *std::max_element(rows.begin(), rows.end()), threads);
  std::vector<OperatorTimes> lines;
  std::vector<Timed> calls;
  for (const std::int64_t count : rows) {
    for (const kernels::Target* kernel : kernels) {
      if (kernel->arithmetic() != Arithmetic::exact) continue;
      forward::Options options;
      options.threads = threads;
      options.kernel = kernel->name();
      for (const Named& one : operators(layer, count)) {
        lines.push_back({one.name, count, kernel, {}});
        calls.push_back({[call = one.call, options] {
                           if (!call(options)) throw std::bad_alloc();
                         },
                         {}});
      }
    }
  }
  time_in_turn(calls, enough, told);
  for (std::size_t i = 0; i < lines.size(); ++i) lines[i].timed = std::move(calls[i]);
  return lines;
}

}  // namespace isologit::detail::cli
