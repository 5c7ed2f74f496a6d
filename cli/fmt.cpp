// fmt's one function that is not a template, compiled into the command rather than linked: Debian ships fmt as a shared
// library only, and the command of a wheel must run where that is not installed.
#define FMT_HEADER_ONLY
#include <fmt/format.h>

namespace isologit::detail::cli {

// Taking its address makes the compiler emit it.
extern std::string (*const vformat)(fmt::string_view, fmt::format_args);
std::string (*const vformat)(fmt::string_view, fmt::format_args) = fmt::vformat;

}  // namespace isologit::detail::cli
