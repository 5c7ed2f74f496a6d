#include "io/guard.hpp"

#include "support.hpp"

namespace isologit::detail::io {
namespace {

TEST(Guard, ExhaustedMemoryBecomesAnError) {
  const auto refused_by_allocator = guarded("reading", []() -> Result<int> { throw std::bad_alloc(); });
  EXPECT_FAILS(refused_by_allocator, StatusCode::out_of_memory, "out of memory while reading");
  const auto beyond_any_vector = guarded("reading", []() -> Result<int> {
    return static_cast<int>(std::vector<char>(std::vector<char>().max_size() + 1).size());
  });
  EXPECT_FAILS(beyond_any_vector, StatusCode::out_of_memory, "out of memory while reading");
  EXPECT_EQ(*guarded("reading", []() -> Result<int> { return 3; }), 3);
}

}  // namespace
}  // namespace isologit::detail::io
