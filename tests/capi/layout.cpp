#include "layout.hpp"

#include <algorithm>
#include <regex>
#include <stdexcept>

namespace isologit::capi_test {
namespace {

struct Size {
  std::size_t size;
  std::size_t alignment;
};

Size size_of(const Member& member, const std::map<std::string, Layout>& known) {
  static const std::map<std::string, Size> plain = {{"char", {1, 1}},     {"uint8_t", {1, 1}}, {"int32_t", {4, 4}},
                                                    {"uint32_t", {4, 4}}, {"float", {4, 4}},   {"int64_t", {8, 8}},
                                                    {"uint64_t", {8, 8}}, {"double", {8, 8}},  {"size_t", {8, 8}}};
  if (member.pointer) return {sizeof(void*), alignof(void*)};
  if (const auto found = plain.find(member.type); found != plain.end()) return found->second;
  if (const auto found = known.find(member.type); found != known.end()) {
    return {found->second.size, found->second.alignment};
  }
  throw std::runtime_error("isologit.h: the size of " + member.type + " is not known to the test");
}

Member member_of(const std::string& declaration) {
  static const std::regex function(R"(\s*int \(\*(\w+)\)\(.*\)\s*)");
  static const std::regex plain(R"(\s*(const )?(\w+)\s*(\*?)\s*(\w+)(?:\[(\d+)\])?\s*)");
  std::smatch found;
  if (std::regex_match(declaration, found, function)) return {found[1], "function", true};
  if (!std::regex_match(declaration, found, plain)) {
    throw std::runtime_error("isologit.h: the test cannot read the member '" + declaration + "'");
  }
  Member member{found[4], found[2], found[3].length() > 0, found[1].matched};
  if (found[5].matched) member.count = std::stoul(found[5]);
  return member;
}

}  // namespace

std::map<std::string, Layout> layouts_of(const std::string& header_text) {
  const std::string text = std::regex_replace(header_text, std::regex(R"(/\*[^]*?\*/)"), " ");
  static const std::regex structure(R"(typedef struct (\w+) \{([^}]*)\} \1;)");
  std::map<std::string, Layout> layouts;
  for (auto found = std::sregex_iterator(text.begin(), text.end(), structure); found != std::sregex_iterator();
       ++found) {
    Layout layout;
    std::string body = (*found)[2];
    std::replace(body.begin(), body.end(), '\n', ' ');
    for (std::size_t begin = 0, end = 0; (end = body.find(';', begin)) != std::string::npos; begin = end + 1) {
      Member member = member_of(body.substr(begin, end - begin));
      const Size size = size_of(member, layouts);
      member.offset = (layout.size + size.alignment - 1) / size.alignment * size.alignment;
      layout.size = member.offset + size.size * member.count;
      layout.alignment = std::max(layout.alignment, size.alignment);
      layout.members.push_back(member);
    }
    layout.size = (layout.size + layout.alignment - 1) / layout.alignment * layout.alignment;
    layouts[(*found)[1]] = layout;
  }
  return layouts;
}

}  // namespace isologit::capi_test
