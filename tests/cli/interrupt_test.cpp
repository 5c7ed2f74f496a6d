// Ctrl-C while a long call runs on a terminal.
#include <gtest/gtest.h>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

class Interrupt : public Workspace {};

TEST_F(Interrupt, EndsTheRunAndLeavesNothing) {
  // Minutes of work for the slowest kernel; the first progress is shown after a second.
  constexpr std::int64_t kManyIds = 4096;
  constexpr std::int64_t kWide = 256;
  constexpr std::int64_t kManyRows = 8192;
  const std::string model = write_model("model", some_values(kManyIds * kWide, 1), kManyIds, kWide);
  Input input;
  input.hidden = some_values(kManyRows * kWide, 2);
  input.token_ids.assign(kManyRows, 7);
  const std::string file = write_input("in.safetensors", input, kWide);
  for (const char* verb : {"score", "logits"}) {
    const Finished finished = interrupt_command(
        {verb, model, "--input", file, "--output", path("out.safetensors"), "--kernel", "reference"}, "scoring");
    EXPECT_EQ(finished.exit_code, 130) << finished.err;
    EXPECT_EQ(finished.out, "");
    const std::size_t cleared = finished.err.rfind("\r\x1b[K");
    ASSERT_NE(cleared, std::string::npos);
    EXPECT_EQ(finished.err.substr(cleared), "\r\x1b[Kisologit: interrupted; nothing was written\r\n");
    EXPECT_EQ(files(), (std::vector<std::string>{"in.safetensors", "model"})) << verb;
  }
}

}  // namespace
}  // namespace isologit::test
