// Supports, more ids and more outputs at the command line, held against the library on the same numbers.
#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <nlohmann/json.hpp>

#include "fixture.hpp"
#include "isologit/sample.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

class RowSupports : public Workspace {
 protected:
  RowSupports() : model_(usual_model()), weight_(usual_weight()), input_(usual_input()) {
    head_.weight = {weight_.data(), DType::f32, kVocab, kHidden, kHidden};
    head_.vocab_size = kVocab;
    input_.kept_offsets = input_.banned_offsets = {0};
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (std::int64_t id = row % 3; id < kVocab; id += 1 + row % 4) input_.kept_ids.push_back(id);
      for (std::int64_t id = row % 5; id < kVocab; id += 6) input_.banned_ids.push_back(id);
      input_.kept_offsets.push_back(static_cast<std::int64_t>(input_.kept_ids.size()));
      input_.banned_offsets.push_back(static_cast<std::int64_t>(input_.banned_ids.size()));
      for (std::int64_t j = 0; j < 3; ++j) input_.ids.push_back((row + j) % 7 == 0 ? -100 : (row * 11 + j) % kVocab);
    }
  }

  Finished run(const std::string& verb, const std::string& input, std::vector<std::string> more) const {
    std::vector<std::string> arguments = {verb, model_, "--input", input};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments);
  }

  MatrixView hidden() const { return {input_.hidden.data(), DType::f32, kRows, kHidden, kHidden}; }
  Support support() const {
    return {4, 45, {input_.kept_offsets, input_.kept_ids}, {input_.banned_offsets, input_.banned_ids}};
  }

  // Rows [7, 19) of values, `per_row` each.
  template <class T>
  static std::vector<T> slice(const std::vector<T>& values, std::size_t per_row = 1) {
    return {values.begin() + static_cast<std::ptrdiff_t>(7 * per_row),
            values.begin() + static_cast<std::ptrdiff_t>(19 * per_row)};
  }
  static std::vector<std::uint32_t> bits(const std::vector<float>& values) {
    std::vector<std::uint32_t> result;
    for (const float value : values) result.push_back(std::bit_cast<std::uint32_t>(value));
    return result;
  }

  std::string model_;
  std::vector<float> weight_;
  Input input_;
  Head head_;
};

TEST_F(RowSupports, ScoreWritesEverythingOfASlice) {
  constexpr std::size_t kTop = 5;
  std::vector<float> logprobs(kRows), lse(kRows), entropy(kRows), raw(kRows), sum_p2(kRows), log_kept(kRows);
  std::vector<float> ids_logprobs(3 * kRows), top_k_logprobs(kTop * kRows);
  std::vector<std::int64_t> argmax(kRows), rank(kRows), top_k_ids(kTop * kRows);
  const float temperature = 0.5F;
  ScoreRequest request;
  request.hidden = hidden();
  request.token_ids = input_.token_ids;
  request.temperatures = {&temperature, 1};
  request.support = support();
  request.logprobs = logprobs.data();
  request.lse = lse.data();
  request.entropy = entropy.data();
  request.raw_logprobs = raw.data();
  request.sum_p2 = sum_p2.data();
  request.log_kept = log_kept.data();
  request.argmax = argmax.data();
  request.rank = rank.data();
  request.ids_per_row = 3;
  request.ids = input_.ids;
  request.ids_logprobs = ids_logprobs.data();
  request.top_k = kTop;
  request.top_k_ids = top_k_ids.data();
  request.top_k_logprobs = top_k_logprobs.data();
  ASSERT_TRUE(score(head_, request));

  const std::string out = path("out.safetensors");
  for (const bool narrow : {false, true}) {
    input_.narrow_ids = narrow;
    const Finished finished = run("score", write_input("in.safetensors", input_, kHidden),
                                  {"--output", out, "--top-k", "5", "--with", "sum_p2,raw_logprobs", "--with",
                                   "log_kept", "--vocab", "4:45", "--temperature", "0.5", "--rows", "7:19", "--json"});
    ASSERT_EQ(finished.exit_code, 0) << finished.err;
    const auto floats = [&](const char* name) { return bits(read_tensor<float>(out, name, "F32")); };
    const auto ids = [&](const char* name) { return read_tensor<std::int64_t>(out, name, "I64"); };
    EXPECT_EQ(floats("logprobs"), bits(slice(logprobs)));
    EXPECT_EQ(floats("lse"), bits(slice(lse)));
    EXPECT_EQ(floats("entropy"), bits(slice(entropy)));
    EXPECT_EQ(floats("raw_logprobs"), bits(slice(raw)));
    EXPECT_EQ(floats("sum_p2"), bits(slice(sum_p2)));
    EXPECT_EQ(floats("log_kept"), bits(slice(log_kept)));
    EXPECT_EQ(floats("ids_logprobs"), bits(slice(ids_logprobs, 3)));
    EXPECT_EQ(floats("top_k_logprobs"), bits(slice(top_k_logprobs, kTop)));
    EXPECT_EQ(ids("argmax"), slice(argmax));
    EXPECT_EQ(ids("rank"), slice(rank));
    EXPECT_EQ(ids("top_k_ids"), slice(top_k_ids, kTop));
    const auto file = detail::io::SafetensorsFile::open(out);
    EXPECT_EQ(file->find("top_k_ids")->shape, (std::vector<std::int64_t>{12, 5}));
    EXPECT_EQ(file->find("ids_logprobs")->shape, (std::vector<std::int64_t>{12, 3}));
    const json told = json::parse(finished.out);
    EXPECT_EQ(told["support"], "ids 4 to 44, kept ids of the input, less banned ids of the input");
  }
}

TEST_F(RowSupports, OutputsThatAreNotAskedForAreNotWritten) {
  input_.ids.clear();
  const std::string out = path("out.safetensors");
  ASSERT_EQ(run("score", write_input("in.safetensors", input_, kHidden), {"--output", out}).exit_code, 0);
  const auto file = detail::io::SafetensorsFile::open(out);
  ASSERT_TRUE(file);
  std::vector<std::string> names;
  for (const detail::io::Tensor& tensor : file->tensors()) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"argmax", "rank", "entropy", "logprobs", "lse"}));
  const Finished plain = run("score", write_input("plain.safetensors", usual_input(), kHidden), {"--json"});
  EXPECT_FALSE(json::parse(plain.out).contains("support"));
  const Finished table = run("score", write_input("in.safetensors", input_, kHidden), {});
  EXPECT_NE(table.out.find("support        kept ids of the input, less banned ids of the input\n"), std::string::npos);
}

TEST_F(RowSupports, SampleDrawsFromThem) {
  std::vector<std::int64_t> ids(kRows);
  std::vector<float> logprobs(kRows), cut(kRows);
  std::vector<std::uint32_t> positions;
  for (std::uint32_t i = 0; i < kRows; ++i) positions.push_back(i);
  const std::uint64_t seed = 9, sequence = 0;
  const std::int64_t top_k = 6;
  SampleRequest request;
  request.hidden = hidden();
  request.seeds = {&seed, 1};
  request.sequence_ids = {&sequence, 1};
  request.positions = positions;
  request.top_k = {&top_k, 1};
  request.support = support();
  request.ids = ids.data();
  request.logprobs = logprobs.data();
  request.cut_logprobs = cut.data();
  ASSERT_TRUE(sample(head_, request));
  const std::string out = path("out.safetensors");
  const Finished finished = run("sample", write_input("in.safetensors", input_, kHidden),
                                {"--output", out, "--seed", "9", "--top-k", "6", "--vocab", "4:45", "--rows", "7:19"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(read_tensor<std::int64_t>(out, "ids", "I64"), slice(ids));
  EXPECT_EQ(bits(read_tensor<float>(out, "logprobs", "F32")), bits(slice(logprobs)));
  EXPECT_EQ(bits(read_tensor<float>(out, "cut_logprobs", "F32")), bits(slice(cut)));
  EXPECT_NE(finished.out.find("support        ids 4 to 44, kept ids"), std::string::npos) << finished.out;
}

TEST_F(RowSupports, WrongOnesNameTheRowOfTheFile) {
  const auto refused = [&](const std::function<void(Input&)>& spoil, const std::string& words,
                           bool with_output = true) {
    Input input = input_;
    spoil(input);
    std::vector<std::string> more = {"--rows", "7:19"};
    if (with_output) more.insert(more.end(), {"--output", path("out.safetensors")});
    const Finished finished = run("score", write_input("bad.safetensors", input, kHidden), more);
    EXPECT_EQ(finished.exit_code, words.empty() ? 0 : 1) << words << finished.err;
    EXPECT_NE(finished.err.find(words), std::string::npos) << finished.err;
  };
  const auto kept_at = [&](std::int64_t row) {
    return static_cast<std::size_t>(input_.kept_offsets[static_cast<std::size_t>(row)]);
  };
  refused([](Input&) {}, "");
  refused([&](Input& input) { input.kept_ids[kept_at(9)] = 50; },
          "kept_ids of row 9 have 50 after -1; expected ascending ids, each once, 0 to 49");
  refused([&](Input& input) { input.kept_ids[kept_at(9) + 1] = 0; }, "kept_ids of row 9 have 0 after 0;");
  refused([&](Input& input) { input.kept_ids[kept_at(19)] = 50; }, "");  // of a row that is not asked for
  refused([](Input& input) { input.banned_offsets[11] = input.banned_offsets[10] - 1; },
          "banned_offsets of row 10 are");
  refused([](Input& input) { input.kept_offsets.pop_back(); }, "kept_offsets has shape [23], expected [24]");
  refused([](Input& input) { input.kept_offsets.clear(); }, "has no tensor \"kept_offsets\"");
  refused([](Input& input) { input.banned_ids.clear(); }, "has no tensor \"banned_ids\"");
  refused([](Input& input) { input.ids[3 * 8 + 2] = -1; },
          "ids[8, 2] is -1; expected an id of the vocabulary, 0 to 49, or -100 for none");
  refused([](Input& input) { input.ids[3 * 8 + 2] = -1; }, "", false);  // only read to be written
}

TEST_F(RowSupports, WrongCommandLines) {
  const std::string input = write_input("in.safetensors", input_, kHidden);
  const auto refused = [&](const std::vector<std::string>& more, const std::string& words) {
    const Finished finished = run("score", input, more);
    EXPECT_EQ(finished.exit_code, 2) << words;
    EXPECT_EQ(finished.out, "");
    EXPECT_NE(finished.err.find(words), std::string::npos) << finished.err;
  };
  const std::string out = path("out.safetensors");
  refused({"--top-k", "5"}, "--top-k: needs --output");
  refused({"--with", "sum_p2"}, "--with: needs --output");
  refused({"--output", out, "--top-k", "0"}, "--top-k");
  refused({"--output", out, "--top-k", "1025"}, "--top-k");
  refused({"--output", out, "--with", "everything"}, "--with");
  refused({"--vocab", "50:"}, "--vocab: '50:' names no id");
  refused({"--vocab", "0:51"}, "--vocab: '0:51' reaches past the vocabulary");
  EXPECT_EQ(files(), (std::vector<std::string>{"in.safetensors", "model"}));
}

}  // namespace
}  // namespace isologit::test
