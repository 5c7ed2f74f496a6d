// Logits after softcap, scale and temperature by the CUDA kernels, compiled for the host, against the oracle: bits.
#include "cuda/transform_rows.cuh"
#include "scores.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;

struct Made {
  std::vector<float> logits;
  Status status;
};

// Rows lie `pad` elements further apart than they are long; what is between stays as it is.
Made transformed_by(const oracle::DotData& data, const Asked& asked, std::int64_t pad = 0) {
  HostLauncher launcher;
  const LaidOut hidden(data.hidden_view(), {}), weight(data.weight_view(), {});
  const auto& shape = data.shape;
  const std::int64_t stride = shape.vocab + pad;
  const Workspace space = workspace_of(shape.rows, shape.cols, static_cast<int>(shape.hidden));
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(space.bytes + 15) / 16);
  std::vector<float> stored(static_cast<std::size_t>(shape.rows * stride), -77.0F);
  Made made = {{}, {0, 0}};
  LogitsRequest request{
      operands_of(data, hidden, weight), stored.data(), kF32, stride, !asked.fast.empty(), workspace.get(),
      kernels_transforms(asked),         &made.status};
  launch_logits_of(launcher, request);
  launch_transforms(launcher, request);
  for (std::int64_t n = 0; n < shape.rows; ++n) {
    const auto row = stored.begin() + static_cast<std::ptrdiff_t>(n * stride);
    made.logits.insert(made.logits.end(), row, row + static_cast<std::ptrdiff_t>(shape.vocab));
    for (std::int64_t i = shape.vocab; i < stride; ++i) EXPECT_EQ(row[static_cast<std::ptrdiff_t>(i)], -77.0F);
  }
  return made;
}

void expect_transformed(const oracle::DotData& data, const Asked& asked, const std::string& what,
                        std::int64_t pad = 0) {
  const Made made = transformed_by(data, asked, pad);
  std::vector<float> want;
  for (std::int64_t n = 0; n < data.shape.rows; ++n) {
    const std::vector<float> row = last_logits(data, asked, n);
    want.insert(want.end(), row.begin(), row.end());
  }
  EXPECT_EQ(count_different(made.logits, want), 0) << what;
  EXPECT_EQ(made.status.open, 0U) << what;
}

const isologit::Transforms kSteps[] = {{true, 30.0F, ScaleKind::none, 1.0F},
                                       {false, 0.0F, ScaleKind::multiply, -0.37F},
                                       {false, 0.0F, ScaleKind::divide, 3.3F},
                                       {true, 1.5F, ScaleKind::divide, 3.3F},
                                       {true, 1.5F, ScaleKind::multiply, 7.1F, TransformOrder::scale_first},
                                       {}};

TEST(CudaTransformed, EveryFamilyAndStep) {
  for (const auto family : oracle::dot_families) {
    const auto data = oracle::make_dot({6, 70, 40, DType::bf16, DType::bf16, DType::f32}, family, 31);
    for (std::size_t i = 0; i < std::size(kSteps); ++i) {
      Asked asked;
      asked.transforms = kSteps[i];
      const std::string what = std::string(oracle::name_of(family)) + ", step " + std::to_string(i);
      expect_transformed(data, asked, what);
      asked.temperatures = {0.7F};
      expect_transformed(data, asked, what + ", one temperature");
      asked.temperatures = {1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
      expect_transformed(data, asked, what + ", temperatures", 3);
    }
  }
}

// Several blocks of a row, and more rows than are made ready at once.
TEST(CudaTransformed, EveryPlace) {
  Asked asked;
  asked.transforms = kSteps[3];
  expect_transformed(oracle::make_dot({2, 4500, 8, DType::f32, DType::f32, {}}, DotFamily::normal, 32), asked, "ids",
                     1);
  const std::int64_t rows = kRowsAtOnce + 3;
  for (std::int64_t n = 0; n < rows; ++n) asked.temperatures.push_back(static_cast<float>(1 + n % 7));
  expect_transformed(oracle::make_dot({rows, 5, 8, DType::f16, DType::f16, {}}, DotFamily::normal, 33), asked, "rows");
}

TEST(CudaTransformed, OfFastLogits) {
  const auto data = oracle::make_dot({5, 90, 72, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 34);
  HostLauncher launcher;
  Asked asked;
  asked.fast = logits_by(launcher, data, {}, DType::f32, true);
  asked.transforms = kSteps[0];
  asked.temperatures = {0.7F};
  expect_transformed(data, asked, "fast");
}

TEST(CudaTransformed, NoStepIsNoPass) {
  HostLauncher launcher;
  int launches = 0;
  launcher.before = [&](const std::type_info&, const void*) { return ++launches == 0; };
  LogitsRequest request = {};
  request.rows = request.vocab = 3;
  launch_transforms(launcher, request);
  EXPECT_EQ(launches, 0);
  request.transforms.softcap = 1.0F;
  launch_transforms(launcher, request);
  EXPECT_EQ(launches, 1);
}

}  // namespace
}  // namespace isologit::detail::cuda
