// Linears against the oracle.
#include "exact/element.hpp"
#include "forward/tensors.hpp"
#include "oracle/logit.hpp"

namespace isologit::test {
namespace {

TEST(Linear, ResultsHaveTheTypeOfX) {
  for (const oracle::DotFamily family : oracle::dot_families) {
    for (const DType dtype : dtypes) {
      const oracle::DotData data = oracle::make_dot({3, 9, 40, dtype, DType::bf16, DType::f32}, family, 1);
      for (const std::string& kernel : exact_kernels()) {
        std::vector<std::uint8_t> y(3 * 11 * dtype_size(dtype), 0xA5);
        forward::LinearRequest request;
        request.x = data.hidden_view();
        request.weight = data.weight_view();
        request.bias = data.bias_view();
        request.y = y.data();
        request.y_row_stride = 11;
        const auto report = forward::linear(request, options_of(1, kernel));
        ASSERT_TRUE(report) << report.error().message;
        EXPECT_EQ(report->kernel, kernel);
        for (std::int64_t n = 0; n < 3; ++n) {
          for (std::int64_t v = 0; v < 9; ++v) {
            const float right = oracle::logit(data.hidden_row(n), data.weight_row(v), 40, data.bias_of(v), dtype);
            const float found = detail::exact::load_element(y.data(), dtype, n * 11 + v);
            ASSERT_TRUE(same(static_cast<double>(found), static_cast<double>(right)))
                << kernel << ' ' << oracle::name_of(family) << ' ' << dtype_name(dtype);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace isologit::test
