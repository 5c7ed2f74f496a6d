// The words of cuda/block.cuh for the thread sanitizer: as on a device each thread of a block runs the kernel by itself
// and has what is its own. What two threads reach in shared or global memory without a barrier between is reported, and
// so is what two blocks of a launch do that follow one another; threads that come to different barriers end the
// program. Products, shuffles and votes bring a warp's lanes together but order nothing, as CUDA says of them; they are
// computed by HostBlock.
#pragma once

#include <atomic>
#include <type_traits>
#include <typeinfo>

#include "fibers.hpp"
#include "host_block.hpp"

namespace isologit::detail::cuda {

// What the lanes of a block share.
template <int WARPS>
struct LaneTeam {
  explicit LaneTeam(Fibers& of) : fibers(of) {}

  HostBlock<WARPS> words;
  Fibers& fibers;
  Meeting all = {};
  std::array<Meeting, WARPS> warps = {};
  std::array<std::array<std::array<const void*, 3>, 32>, WARPS> shown;  // by each lane to those of its warp
  std::array<std::uint32_t, WARPS> ballots;
};

template <int WARPS>
class LaneBlock {
 public:
  static constexpr int kWarps = WARPS;
  static constexpr int kThreads = 32 * WARPS;

  LaneBlock(LaneTeam<WARPS>& team, int thread)
      : team_(team), warp_(static_cast<std::size_t>(thread / 32)), lane_(thread % 32) {}

  template <class T>
  struct PerThread {
    T own;
    PerThread() { std::memset(static_cast<void*>(&own), 0xA5, sizeof own); }
    T& operator()(int, int) { return own; }
  };
  template <class T>
  struct PerLane {
    T own;
    PerLane() { std::memset(static_cast<void*>(&own), 0xA5, sizeof own); }
    T& operator()(int) { return own; }
  };

  template <class F>
  void each_warp(F f) {
    f(static_cast<int>(warp_));
  }
  template <class F>
  void each_lane(F f) {
    f(lane_);
  }
  int anew(int x) { return x; }
  void sync() {
    team_.fibers.meet(team_.all, kThreads, "sync", true, [] {});
  }
  void sync_warp() {
    team_.fibers.meet(team_.warps[warp_], 32, "sync_warp", true, [] {});
  }

  template <class C, class A, class B>
  void mma(C c_of, A a_of, B b_of) {
    multiply("mma", c_of(lane_), a_of(lane_), b_of(lane_), [this](auto... of) { team_.words.mma(of...); });
  }
  template <class E, class C, class A, class B>
  void mma_f32(C c_of, A a_of, B b_of) {
    multiply("mma_f32", c_of(lane_), a_of(lane_), b_of(lane_),
             [this](auto... of) { team_.words.template mma_f32<E>(of...); });
  }
  template <class C, class A, class B>
  void mma_bytes(C c_of, A a_of, B b_of) {
    multiply("mma_bytes", c_of(lane_), a_of(lane_), b_of(lane_), [this](auto... of) { team_.words.mma_bytes(of...); });
  }
  template <bool TURNED, class To, class From>
  void load_tiles(To to_of, From from_of) {
    Sixteen row;
    std::memcpy(&row, from_of(lane_), sizeof row);
    together("load_tiles", {to_of(lane_), &row}, [this](const auto& shown) {
      team_.words.template load_tiles<TURNED>(as<std::uint32_t>(shown, 0), as<const Sixteen>(shown, 1));
    });
  }

  void begin_products(int warp) {
    together("begin_products", {}, [=, this](const auto&) { team_.words.begin_products(warp); });
  }
  void end_products(int warp) {
    together("end_products", {}, [=, this](const auto&) { team_.words.end_products(warp); });
  }
  template <int N>
  void wait_products(int warp) {
    together("wait_products", {}, [=, this](const auto&) { team_.words.template wait_products<N>(warp); });
  }
  template <int COUNT, class R>
  void hold(R*) {}
  template <int NT, class C, class A>
  void wgmma_bytes(int warp, C c_of, A a_of, std::uint64_t hidden) {
    together("wgmma_bytes", {c_of(lane_), a_of(lane_)}, [=, this](const auto& shown) {
      team_.words.template wgmma_bytes<NT>(warp, as<std::int32_t>(shown, 0), as<const std::uint32_t>(shown, 1), hidden);
    });
  }
  template <class E, bool FIRST, class C>
  void wgmma_f32(int warp, C c_of, std::uint64_t weight, std::uint64_t hidden) {
    together("wgmma_f32", {c_of(lane_)}, [=, this](const auto& shown) {
      team_.words.template wgmma_f32<E, FIRST>(warp, as<float>(shown, 0), weight, hidden);
    });
  }
  std::uint32_t address(const void* shared) {
    const Overlooked overlooked;
    return team_.words.address(shared);
  }
  void publish_copies() {
    const Overlooked overlooked;
    team_.words.publish_copies();
  }

  template <class X, class Merge>
  void reduce(X x_of, int from, int below, Merge merge_into) {
    auto& x = x_of(lane_);
    using T = std::remove_reference_t<decltype(x)>;
    together("reduce", {&x}, [&](const auto& shown) {
      const auto of = as<T>(shown, 0);
      team_.words.reduce([&](int lane) -> T& { return *of(lane); }, from, below, merge_into);
    });
  }
  template <class F>
  std::uint32_t ballot(F f) {
    together("ballot", {f(lane_) ? this : nullptr}, [this](const auto& shown) {
      team_.ballots[warp_] =
          team_.words.ballot([&](int lane) { return shown[static_cast<std::size_t>(lane)][0] != nullptr; });
    });
    const Overlooked overlooked;
    return team_.ballots[warp_];
  }
  template <class F>
  bool first(F f) {
    return (ballot(f) & 1U) != 0;
  }

  void add_to(unsigned long long& digit, std::uint64_t x) { std::atomic_ref(digit).fetch_add(x, kRelaxed); }
  void count(std::uint32_t& counter) { std::atomic_ref(counter).fetch_add(1, kRelaxed); }
  std::uint32_t take(std::uint32_t& counter) { return std::atomic_ref(counter).fetch_add(1, kRelaxed); }

  void copy(void* shared, const void* from) { copies_.begin(shared, from, true); }
  void copy_or_zero(void* shared, const void* from, bool there) { copies_.begin(shared, from, there); }
  void end_group() { copies_.end_group(); }
  template <int N>
  void wait() {
    copies_.wait(N, [this](const void* place) {
      const Overlooked overlooked;
      team_.words.note_copied(place);
    });
  }

  // A fetched line is there, and no matter who writes it.
  void fetch_line(const void* at) {
    const Overlooked overlooked;
    team_.words.fetch_line(at);
  }
  void after_previous() {}  // LaneLauncher runs one kernel after the other

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;

  // What each lane has shown in a place, as of_lane(lane).
  template <class T>
  static auto as(const std::array<std::array<const void*, 3>, 32>& shown, std::size_t place) {
    return [&shown, place](int lane) {
      return static_cast<T*>(const_cast<void*>(shown[static_cast<std::size_t>(lane)][place]));
    };
  }

  // One lane calls f with what all lanes of the warp show.
  template <class F>
  void together(const char* what, const std::array<const void*, 3>& own, F f) {
    auto& shown = team_.shown[warp_];
    {
      const Overlooked overlooked;
      shown[static_cast<std::size_t>(lane_)] = own;
    }
    team_.fibers.meet(team_.warps[warp_], 32, what, false, [&] { f(std::as_const(shown)); });
  }
  template <class C, class A, class B, class F>
  void multiply(const char* what, C* c, const A* a, const B* b, F f) {
    together(what, {c, a, b},
             [&](const auto& shown) { f(as<C>(shown, 0), as<const A>(shown, 1), as<const B>(shown, 2)); });
  }

  LaneTeam<WARPS>& team_;
  std::size_t warp_;
  int lane_;
  HostCopies copies_{1};
};

class LaneLauncher {
 public:
  template <int WARPS>
  using Block = LaneBlock<WARPS>;

  explicit LaneLauncher(const Products& products = {}) : products_(products) {}

  // As HostLauncher has it.
  std::function<bool(const std::type_info& kernel, const void* args)> before;

  // Nothing orders a block and the next, which have other fibers. What is made and freed here is overlooked, for these
  // do not end before it either.
  template <class Kernel>
  void launch(int x, int y, const typename Kernel::Args& args) {
    static_assert(FitsItsCards<Kernel>);
    if (before && !before(typeid(Kernel), &args)) return;
    constexpr int kWarps = Kernel::Block::kWarps;
    char begun = 0, ended = 0;
    __tsan_release(&begun);
    {
      const Overlooked overlooked;
      for (int block = 0; block < x * y; ++block) {
        auto shared = std::make_unique<typename Kernel::Shared>();
        std::memset(static_cast<void*>(shared.get()), 0xA5, sizeof *shared);
        const auto team = std::make_unique<LaneTeam<kWarps>>(fibers()[static_cast<std::size_t>(block % 2)]);
        team->words.products = products_;
        team->words.set_shared(shared.get(), sizeof *shared);
        team->fibers.run(
            Kernel::Block::kThreads,
            [&, block](int thread) {
              typename Kernel::Block own(*team, thread);
              Kernel::run(own, *shared, args, block % x, block / x);
            },
            &begun, &ended);
      }
    }
    __tsan_acquire(&ended);
  }
  void finish() {}

 private:
  // In turns: a block is ordered after the one before the last, whose fibers it has. They are never freed.
  static std::array<Fibers, 2>& fibers() {
    static auto* made = new std::array<Fibers, 2>;
    return *made;
  }

  Products products_;
};

}  // namespace isologit::detail::cuda
