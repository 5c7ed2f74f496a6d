#include "io/families.hpp"

#include <set>

#include "io/families_text.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

Result<const Family*> find(const std::string& text) {
  const auto config = parse_json(text, "config.json");
  if (!config) return tl::unexpected(config.error());
  return find_family(*config, "config.json");
}

// The table is read leniently, as it is the project's own: here every entry is looked at.
TEST(Families, EveryEntryIsWhole) {
  const auto root = parse_json(families_text, "families.json");
  ASSERT_TRUE(root) << root.error().message;
  const JsonValue::Array& entries = *root->find("families")->array();
  EXPECT_GT(entries.size(), 300U);
  std::set<std::string> seen;
  for (const JsonValue& entry : entries) {
    const std::string architecture = *entry.find("architecture")->string();
    std::string config =
        R"({"model_type":")" + *entry.find("model_type")->string() + R"(","architectures":[")" + architecture + "\"]";
    std::string text_type;
    if (const JsonValue* text = entry.find("text")) {
      text_type = *entry.find("text_types")->array()->front().string();
      config += ",\"" + *text->string() + R"(":{"model_type":")" + text_type + "\"}";
    }
    const auto family = find(config + "}");
    ASSERT_TRUE(family) << family.error().message;
    EXPECT_TRUE(seen.insert(architecture + " " + (*family)->model_type + " " + text_type).second) << architecture;
    EXPECT_EQ((*family)->architecture, architecture);
    EXPECT_FALSE((*family)->vocab.empty()) << architecture;
    EXPECT_FALSE((*family)->head.empty() && (*family)->embedding.empty()) << architecture;
    EXPECT_TRUE((*family)->head.empty() || (*family)->embedding.empty() || !(*family)->tie_key.empty()) << architecture;
    for (const std::string& name : {(*family)->head, (*family)->embedding}) {
      EXPECT_TRUE(name.empty() || name.ends_with(".weight")) << architecture << ": " << name;
    }
    const JsonValue* transforms = entry.find("transforms");
    ASSERT_EQ((*family)->steps.size(), transforms == nullptr ? 0 : transforms->array()->size());
    for (const FamilyStep& step : (*family)->steps) {
      EXPECT_FALSE(step.key.empty());
      EXPECT_TRUE(is_step_of_some_class(step.key.substr(step.key.rfind('.') + 1)));
    }
  }
  for (const JsonValue& entry : *root->find("refused")->array()) {
    const std::string architecture = *entry.find("architecture")->string();
    EXPECT_FAILS(find(R"({"model_type":")" + *entry.find("model_type")->string() + R"(","architectures":[")" +
                      architecture + "\"]}"),
                 StatusCode::unsupported, architecture, *entry.find("why")->string());
  }
  for (const JsonMember& member : *root->find("vocab_sizes")->object()) {
    EXPECT_EQ(default_vocab_size(member.key), *member.value.integer());
  }
  EXPECT_EQ(default_vocab_size("none"), 0);
}

}  // namespace
}  // namespace isologit::detail::io
