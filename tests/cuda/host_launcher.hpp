// Runs kernels on the host: a block's threads in loops, or, for the thread sanitizer, each by itself (lane_block.hpp).
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <typeinfo>
#include <utility>

#ifdef ISOLOGIT_LANES
#include "lane_block.hpp"
#else
#include "host_block.hpp"
#endif

namespace isologit::detail::cuda {

#ifdef ISOLOGIT_LANES
using HostLauncher = LaneLauncher;
#else

// A kernel that lets the next begin runs as late as it may: when the first block of one that begins early waits for it,
// or before any other. What is read too early is so seen in the bits.
class HostLauncher {
 public:
  template <int WARPS>
  using Block = HostBlock<WARPS>;

  explicit HostLauncher(const Products& products = {}) : products_(products) {}
  ~HostLauncher() { EXPECT_FALSE(waiting_) << "a kernel is left that no other has waited for: finish()"; }

  // Called before each kernel, with its arguments; false leaves it out.
  std::function<bool(const std::type_info& kernel, const void* args)> before;

  template <class Kernel>
  void launch(int x, int y, const typename Kernel::Args& args) {
    static_assert(FitsItsCards<Kernel>);  // as on a device
    if (before && !before(typeid(Kernel), &args)) return;
    if constexpr (!BeginsEarly<Kernel>) finish();
    auto kernel = [x, y, args, products = products_, previous = std::exchange(waiting_, nullptr)]() mutable {
      auto shared = std::make_unique<typename Kernel::Shared>();
      for (int j = 0; j < y; ++j) {
        for (int i = 0; i < x; ++i) {
          std::memset(static_cast<void*>(shared.get()), 0xA5, sizeof *shared);
          typename Kernel::Block block;
          block.products = products;
          block.previous = &previous;
          block.set_shared(shared.get(), sizeof *shared);
          Kernel::run(block, *shared, args, i, j);
          EXPECT_FALSE(block.meets_in_banks()) << "rows of a tile lie in the same bank, or not at multiples of 16";
        }
      }
      EXPECT_FALSE(previous) << "a kernel that begins early has not waited for the one before";
    };
    if constexpr (LetsNextBegin<Kernel>) {
      waiting_ = std::move(kernel);
    } else {
      kernel();
    }
  }

  // Runs what waits for a next kernel.
  void finish() {
    if (waiting_) std::exchange(waiting_, nullptr)();
  }

 private:
  Products products_;
  std::function<void()> waiting_;
};

#endif

}  // namespace isologit::detail::cuda
