// What checks of requests share.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "isologit/isologit.h"

namespace isologit::detail::cuda {

inline std::string number(std::int64_t x) { return std::to_string(x); }

inline bool is_positive(float x) { return x > 0 && std::isfinite(x); }

// Each is empty, or what is wrong.
inline std::string check_dtype(const std::string& name, std::int32_t dtype) {
  if (dtype >= ISOLOGIT_BF16 && dtype <= ISOLOGIT_F32) return {};
  return name + " is " + number(dtype) + ", which is none of ISOLOGIT_BF16 (0), ISOLOGIT_F16 (1) and ISOLOGIT_F32 (2)";
}

inline std::string check_address(const std::string& name, const void* data, std::int64_t multiple) {
  if (data == nullptr) return name + " is NULL";
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(multiple) == 0) return {};
  return name + " does not lie at a multiple of " + number(multiple) + " bytes, as a GPU needs it";
}

template <class Request>
std::string check_workspace(const Request& r, std::int64_t need, const std::string& said_by) {
  if (auto wrong = check_address("workspace", r.workspace, 16); !wrong.empty()) return wrong;
  if (r.workspace_size >= static_cast<std::size_t>(need)) return {};
  return "workspace_size is " + std::to_string(r.workspace_size) + "; " + said_by + " says " + number(need);
}

template <class Request>
std::string check_status_and_workspace(const Request& r, std::int64_t need, const std::string& said_by) {
  if (auto wrong = check_address("status", r.status, 4); !wrong.empty()) return wrong;
  return check_workspace(r, need, said_by);
}

}  // namespace isologit::detail::cuda
