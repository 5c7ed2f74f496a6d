// Logits of the CUDA kernels on the host, and those of the oracle.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cuda/logits.cuh"
#include "host_launcher.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"

namespace isologit::detail::cuda {

// Rows that lie `pad` elements further apart than they are long, the first of them `offset` elements past a multiple of
// 16 bytes.
struct Layout {
  std::int64_t pad = 0;
  std::int64_t offset = 0;
};

// A copy of a matrix in such a layout. What lies between rows is NaN, so that reading it would be seen.
class LaidOut {
 public:
  LaidOut(const MatrixView& from, const Layout& layout)
      : stride_(from.cols + layout.pad), type_(from.dtype), offset_(layout.offset) {
    const auto size = static_cast<std::int64_t>(dtype_size(type_));
    bytes_.resize(static_cast<std::size_t>((offset_ + stride_ * from.rows) * size + 15) / 16);
    std::memset(static_cast<void*>(bytes_.data()), 0xFF, bytes_.size() * 16);
    for (std::int64_t row = 0; row < from.rows; ++row) {
      std::memcpy(reinterpret_cast<char*>(bytes_.data()) + (offset_ + row * stride_) * size,
                  static_cast<const char*>(from.data) + row * from.row_stride * size,
                  static_cast<std::size_t>(from.cols * size));
    }
  }
  Operand operand() const {
    return {reinterpret_cast<const char*>(bytes_.data()) + offset_ * static_cast<std::int64_t>(dtype_size(type_)),
            stride_, static_cast<int>(type_)};
  }

 private:
  std::int64_t stride_;
  DType type_;
  std::int64_t offset_;
  std::vector<Sixteen> bytes_;
};

inline HeadOperands operands_of(const oracle::DotData& data, const LaidOut& hidden, const LaidOut& weight) {
  const auto& shape = data.shape;
  return {hidden.operand(),
          weight.operand(),
          data.bias.empty() ? nullptr : data.bias.data(),
          static_cast<int>(shape.bias.value_or(DType::bf16)),
          shape.rows,
          static_cast<int>(shape.vocab),
          static_cast<int>(shape.cols)};
}

// Most of what there is to compile, and so compiled once for all tests (logits_bf16.cpp and its like).
extern template void launch_logits<HostLauncher, Bf16>(HostLauncher&, const LogitsRequest&);
extern template void launch_logits<HostLauncher, F16>(HostLauncher&, const LogitsRequest&);
extern template void launch_logits<HostLauncher, F32>(HostLauncher&, const LogitsRequest&);
extern template void launch_prepared<HostLauncher, Bf16>(HostLauncher&, const Product&, int);
extern template void launch_prepared<HostLauncher, F16>(HostLauncher&, const Product&, int);
extern template void launch_prepared<HostLauncher, F32>(HostLauncher&, const Product&, int);

inline void launch_logits_of(HostLauncher& launcher, const LogitsRequest& request) {
  switch (request.weight.type) {
    case kBf16: launch_logits<HostLauncher, Bf16>(launcher, request); break;
    case kF16: launch_logits<HostLauncher, F16>(launcher, request); break;
    default: launch_logits<HostLauncher, F32>(launcher, request); break;
  }
}
inline void launch_prepared_of(int weight_type, HostLauncher& launcher, const Product& p, int hidden_type) {
  switch (weight_type) {
    case kBf16: launch_prepared<HostLauncher, Bf16>(launcher, p, hidden_type); break;
    case kF16: launch_prepared<HostLauncher, F16>(launcher, p, hidden_type); break;
    default: launch_prepared<HostLauncher, F32>(launcher, p, hidden_type); break;
  }
}

// The logits in a type by the kernels of the device.
inline std::vector<float> logits_by(HostLauncher& launcher, const oracle::DotData& data, const Layout& layout = {},
                                    DType type = DType::f32, bool fast = false, bool wgmma = false) {
  const LaidOut hidden(data.hidden_view(), layout);
  const LaidOut weight(data.weight_view(), layout);
  const auto& shape = data.shape;
  const Workspace space = workspace_of(shape.rows, shape.cols, static_cast<int>(shape.hidden));
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(space.bytes + 15) / 16);
  const auto count = static_cast<std::size_t>(shape.rows * shape.vocab);
  std::vector<float> stored(count, -77.0F);  // room for any type
  LogitsRequest request{
      operands_of(data, hidden, weight), stored.data(), static_cast<int>(type), shape.vocab, fast, workspace.get()};
  request.wgmma = wgmma;
  launch_logits_of(launcher, request);
  if (type == DType::f32) return stored;
  const auto* bits = reinterpret_cast<const std::uint16_t*>(stored.data());
  std::vector<float> logits;
  for (std::size_t i = 0; i < count; ++i) {
    // As f32, whose NaN the oracle has: the one NaN of results alone becomes it.
    const bool nan = bits[i] == (type == DType::bf16 ? 0x7FC0 : 0x7E00);
    logits.push_back(nan ? quiet_nan() : static_cast<float>(oracle::decode(type, bits, i)));
  }
  return logits;
}

inline std::vector<float> logits_of_oracle(const oracle::DotData& data, DType type = DType::f32) {
  std::vector<float> logits;
  for (std::int64_t n = 0; n < data.shape.rows; ++n) {
    for (std::int64_t v = 0; v < data.shape.vocab; ++v) {
      logits.push_back(oracle::logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(data.shape.cols),
                                     data.bias_of(v), type));
    }
  }
  return logits;
}

// How many differ in any bit.
inline std::int64_t count_different(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return -1;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += oracle::bits_of(a[i]) != oracle::bits_of(b[i]) ? 1 : 0;
  return count;
}

inline std::string describe(const oracle::DotShape& s) {
  return "rows " + std::to_string(s.rows) + " vocab " + std::to_string(s.vocab) + " depth " + std::to_string(s.cols) +
         " hidden " + std::to_string(static_cast<int>(s.hidden)) + " weight " +
         std::to_string(static_cast<int>(s.weight)) + (s.bias ? " with bias" : "");
}

}  // namespace isologit::detail::cuda
