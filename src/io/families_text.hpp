// families.json, which the build puts into the library.
#pragma once

#include <string_view>

namespace isologit::detail::io {

extern const std::string_view families_text;

}  // namespace isologit::detail::io
