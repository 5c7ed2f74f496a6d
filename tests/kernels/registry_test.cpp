// One line of the registry enrols a target everywhere.
#include "kernels/registry.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "isologit/kernels.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::kernels {
namespace {

std::string page() {
  std::ifstream file(ISOLOGIT_SOURCE "/docs/kernels.md");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Registry, EveryTargetIsListedDocumentedAndNamedOnce) {
  const std::string text = page();
  std::set<std::string> names;
  const std::vector<KernelInfo> listed = isologit::kernels();
  ASSERT_EQ(listed.size(), registry().size());
  for (std::size_t i = 0; i < listed.size(); ++i) {
    const Entry& entry = registry()[i];
    EXPECT_EQ(listed[i].name, entry.name);
    EXPECT_TRUE(names.emplace(entry.name).second) << entry.name << " stands in the registry twice";
    EXPECT_NE(text.find("`" + std::string(entry.name) + "`"), std::string::npos)
        << entry.name << " is not in the tables of docs/kernels.md";
  }
  EXPECT_EQ(registry().back().name, "reference");
}

TEST(Registry, WhatRunsHereHoldsWhatItsLineSays) {
  for (const Entry& entry : registry()) {
    if (!entry.why_not().empty()) continue;
    const Target& target = entry.target();
    EXPECT_EQ(target.name(), entry.name);
    EXPECT_EQ(target.arithmetic(), entry.arithmetic);
    EXPECT_EQ(target.tile_vocab(), entry.shape.tile_vocab);
    EXPECT_EQ(target.backward_loops() == nullptr, entry.name == "reference");
  }
}

// The registry of a processor that runs these targets and those of any processor.
std::vector<Entry> registry_with(const std::set<std::string_view>& runs) {
  std::vector<Entry> entries(registry().begin(), registry().end());
  for (Entry& entry : entries) {
    const bool here = entry.instruction_set == "any" || runs.contains(entry.name);
    entry.why_not = here ? +[] { return std::string(); } : +[] { return std::string("it has not what that needs"); };
  }
  return entries;
}

// The names of those that make blocks of so many rows where no kernel is asked for.
std::vector<std::string> made_by(const std::set<std::string_view>& runs, Arithmetic arithmetic,
                                 const std::vector<std::int64_t>& rows) {
  const std::vector<Entry> entries = registry_with(runs);
  std::vector<std::string> names;
  for (const std::int64_t count : rows) {
    names.emplace_back(for_rows(entries, *best(entries, arithmetic), count).name);
  }
  return names;
}

#if defined(__x86_64__)
TEST(Choice, ExactTakesTheKernelThatIsFasterForSoManyRows) {
  using Names = std::vector<std::string>;
  const std::vector<std::int64_t> rows = {1, 2, 4, 5, 6, 16, 64, 256};
  const std::set<std::string_view> avx2 = {"avx2", "avx2_fast"};
  const std::set<std::string_view> avx512 = {"avx2", "avx2_fast", "avx512", "avx512_fast"};
  const std::set<std::string_view> vnni = {"avx2", "avx2_fast", "avx512", "avx512_fast", "avx512_vnni"};
  const std::set<std::string_view> amx = {"avx2", "avx2_fast", "avx512", "avx512_fast", "amx", "amx_fast"};
  EXPECT_EQ(made_by({}, Arithmetic::exact, rows), Names(8, "portable"));
  EXPECT_EQ(made_by(avx2, Arithmetic::exact, rows), Names(8, "avx2"));
  EXPECT_EQ(made_by(avx512, Arithmetic::exact, rows), Names(8, "avx512"));
  EXPECT_EQ(made_by(vnni, Arithmetic::exact, rows),
            (Names{"avx512", "avx512", "avx512", "avx512", "avx512", "avx512_vnni", "avx512_vnni", "avx512_vnni"}));
  EXPECT_EQ(made_by(amx, Arithmetic::exact, rows),
            (Names{"avx512", "avx512", "avx512", "avx512", "amx", "amx", "amx", "amx"}));
}

TEST(Choice, IsNeverOfAKernelThatDoesNotRun) {
  EXPECT_EQ(made_by({"amx", "avx2"}, Arithmetic::exact, {1, 5, 6}), (std::vector<std::string>{"avx2", "avx2", "amx"}));
  EXPECT_EQ(made_by({"amx", "avx512_vnni", "avx512"}, Arithmetic::exact, {5, 6}),
            (std::vector<std::string>{"avx512", "amx"}));
}

TEST(Choice, FastTakesProductsOfBf16WhereThereAre) {
  const std::vector<std::int64_t> any = {64};
  const auto chosen = [&](const std::set<std::string_view>& runs) {
    return made_by(runs, Arithmetic::fast, any).front();
  };
  EXPECT_EQ(chosen({}), "portable_fast");
  EXPECT_EQ(chosen({"avx2_fast"}), "avx2_fast");
  EXPECT_EQ(chosen({"avx2_fast", "avx512_fast"}), "avx512_fast");
  EXPECT_EQ(chosen({"avx2_fast", "avx512_fast", "avx512_bf16_fast"}), "avx512_bf16_fast");
  EXPECT_EQ(chosen({"avx2_fast", "avx512_fast", "avx512_bf16_fast", "amx_fast"}), "amx_fast");
}
#endif

TEST(Choice, FastIsOneKernelWhateverTheRows) {
  std::set<std::string_view> runs;
  for (const Entry& entry : registry()) {
    runs.insert(entry.name);
    EXPECT_TRUE(entry.arithmetic == Arithmetic::exact || entry.from_rows == 1) << entry.name;
  }
  const std::vector<std::string> names = made_by(runs, Arithmetic::fast, {1, 2, 4, 16, 64, 256});
  EXPECT_EQ(names, std::vector<std::string>(6, names.front()));
}

// Claims to be `portable` and to be slower for fewer than five rows.
struct Spy : Target {
  static constexpr Entry kLine{"portable", "any", Arithmetic::exact, k_portable_shape, 5, nullptr, nullptr};

  explicit Spy(const Target& other) : Target(kLine, {other.fold_loops(), nullptr, nullptr}) {}
  std::size_t prepared_bytes(std::int64_t, std::int64_t) const override { return 0; }
  std::size_t scratch_bytes(std::int64_t, std::int64_t) const override { return 0; }
  void prepare(const MatrixView&, std::int64_t, std::int64_t, std::int64_t, void*) const override {}
  void logits(const Block& block, const WeightTile& tile, float* logits, void*, Counts&) const override {
    std::fill(logits, logits + (block.rows - 1) * tile_vocab() + tile.count, 77.0F);
  }
  std::int64_t multiply_adds(std::int64_t) const override { return 0; }
};

TEST(Choice, TilesAskForEachBlock) {
  const std::vector<float> ones(8 * 16, 1.0F);
  const MatrixView hidden{ones.data(), DType::f32, 8, 16, 16};
  Head head;
  head.weight = hidden;
  head.vocab_size = 8;
  const Spy spy((*choose("portable", Arithmetic::exact))->entry().target());
  for (const std::int64_t rows : {1, 4, 5, 8}) {
    tiles::Tiles tiles({head, 0}, hidden, {}, spy, 1);
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < rows; ++i) ids.push_back(i);
    tiles.take(ids);
    std::int64_t seen = 0;
    tiles.visit(0, 0, 8, [&](const tiles::RowTile& tile) {
      ++seen;
      EXPECT_EQ(tile.logits[0], rows < 5 ? 16.0F : 77.0F) << rows << " rows";
    });
    EXPECT_EQ(seen, rows);
  }
}

TEST(Registry, ATargetThatDoesNotRunSaysWhy) {
  for (const KernelInfo& kernel : isologit::kernels()) EXPECT_EQ(kernel.runnable, kernel.why_not.empty());
}

}  // namespace
}  // namespace isologit::detail::kernels
