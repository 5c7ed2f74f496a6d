// The structures of isologit.h as its text declares them: members, types and places. So a member that is added is known
// to the tests without a word.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace isologit::capi_test {

struct Member {
  std::string name;
  std::string type;  // "int64_t", "isologit_matrix", "float" of a pointer to float, "function" of one to a function
  bool pointer = false;
  bool constant = false;  // of what a pointer points to
  std::size_t count = 1;  // of an array
  std::size_t offset = 0;
};

struct Layout {
  std::vector<Member> members;
  std::size_t size = 0;
  std::size_t alignment = 1;
};

// By name; throws std::runtime_error where it cannot read a declaration.
std::map<std::string, Layout> layouts_of(const std::string& header_text);

}  // namespace isologit::capi_test
