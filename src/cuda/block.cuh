// A block of threads on the device, in the words the kernels are written in. tests/cuda/host_block.hpp has the same
// words for the host, where each_warp and each_lane are loops; the kernels are one source for both.
//
// What a thread keeps between two uses of each_warp is PerThread, between two of each_lane PerLane. Within each_warp
// all lanes do the same; mma, reduce, ballot and first are for whole warps.
#pragma once

#include <type_traits>

#include "cuda/bits.cuh"
#include "cuda/element.cuh"
#include "cuda/wgmma.cuh"

namespace isologit::detail::cuda {

// A kernel that may begin while the one launched before it runs, if that lets it: it does until after_previous() what
// needs nothing of that one. To let the next begin costs nothing where the next does not begin early.
template <class Kernel>
concept BeginsEarly = requires {
  Kernel::kBeginsEarly;
};
template <class Kernel>
concept LetsNextBegin = requires {
  Kernel::kLetsNextBegin;
};

// Kernels with products by wgmma run on devices of compute capability 9.0 alone (wgmma.cu).
template <class Kernel>
concept ByWgmma = requires {
  Kernel::kByWgmma;
};

// The others run on every card from 8.0 on. A block may have 163 KiB of shared memory there and 227 on 9.0 and 10.0,
// but 99 on 8.6, 8.9 and 12.0: with more the launch would be an error on the cards that most people own.
inline constexpr int kMostShared = 99 * 1024;
template <class Kernel>
concept FitsItsCards = ByWgmma<Kernel> || sizeof(typename Kernel::Shared) <= kMostShared;

#ifdef __CUDACC__

template <int WARPS>
class DeviceBlock {
 public:
  static constexpr int kWarps = WARPS;
  static constexpr int kThreads = 32 * WARPS;

  template <class T>
  struct PerThread {
    T own;
    __device__ __forceinline__ T& operator()(int, int) { return own; }
  };
  template <class T>
  struct PerLane {
    T own;
    __device__ __forceinline__ T& operator()(int) { return own; }
  };

  template <class F>
  __device__ __forceinline__ void each_warp(F f) {
    f(static_cast<int>(threadIdx.x >> 5));
  }
  template <class F>
  __device__ __forceinline__ void each_lane(F f) {
    f(static_cast<int>(threadIdx.x & 31));
  }
  __device__ __forceinline__ void sync() { __syncthreads(); }
  // x, of which the compiler knows nothing: what is made of it takes no registers over a loop around.
  __device__ __forceinline__ int anew(int x) {
    asm volatile("" : "+r"(x));
    return x;
  }

  // c += a b: 16 weight rows, 8 hidden rows, 16 of the depth. Lane 4g + t holds a[2i + s], weight row g + 8s, and b[i],
  // hidden row g, both at place t + 4i of the depth; and c[i + 2s], weight row g + 8s, hidden row 2t + i.
  template <class C, class A, class B>
  __device__ __forceinline__ void mma(C c_of, A a_of, B b_of) {
    const int lane = threadIdx.x & 31;
    double* c = c_of(lane);
    const double* a = a_of(lane);
    const double* b = b_of(lane);
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3},{%4,%5,%6,%7,%8,%9,%10,%11},"
        "{%12,%13,%14,%15},{%0,%1,%2,%3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]),
          "d"(b[2]), "d"(b[3]));
#else
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1},{%2},{%3},{%0,%1};"
            : "+d"(c[2 * s]), "+d"(c[2 * s + 1])
            : "d"(a[2 * i + s]), "d"(b[i]));
      }
    }
#endif
  }

  // c += a b in f32, of elements E (bf16 or f16): the same tile. Lane 4g + t holds in a[2i + s], weight row g + 8s, and
  // in b[i], hidden row g, the elements at places 2t + 8i and the next; c as above.
  template <class E, class C, class A, class B>
  __device__ __forceinline__ void mma_f32(C c_of, A a_of, B b_of) {
    const int lane = threadIdx.x & 31;
    float* c = c_of(lane);
    const std::uint32_t* a = a_of(lane);
    const std::uint32_t* b = b_of(lane);
    if constexpr (E::kFraction == Bf16::kFraction) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }

  // Four tiles of 8 by 8 elements of 16 bits in shared memory, of which lane 8q + r says where row r of tile q lies, 16
  // bytes at a multiple of 16: lane 4g + t is given in word q elements 2t and 2t + 1 of row g; of TURNED tiles those of
  // rows 2t and 2t + 1 in column g.
  template <bool TURNED, class To, class From>
  __device__ __forceinline__ void load_tiles(To to_of, From from_of) {
    const int lane = threadIdx.x & 31;
    std::uint32_t* to = to_of(lane);
    const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(from_of(lane)));
    if constexpr (TURNED) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(from)
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(from)
                   : "memory");
    }
  }

  // c += a b of bytes, without a sign in a, with one in b: 16 weight rows, 8 hidden rows, 32 of the depth, without
  // rounding. Lane 4g + t holds in a[2h + s], weight row g + 8s, and in b[h], hidden row g, the bytes at places 16h +
  // 4t to 16h + 4t + 3; c as above.
  template <class C, class A, class B>
  __device__ __forceinline__ void mma_bytes(C c_of, A a_of, B b_of) {
    const int lane = threadIdx.x & 31;
    std::int32_t* c = c_of(lane);
    const std::uint32_t* a = a_of(lane);
    const std::uint32_t* b = b_of(lane);
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  // Products of the four warps that a block has, asynchronous (wgmma.cuh): from begin_products on registers stay as
  // they are that the products read, from end_products on those that they write too, until wait_products<N> has left
  // but the N latest groups under way. hold: what was written before it is there, and what is read after it is not read
  // earlier.
  __device__ __forceinline__ void begin_products(int) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
  __device__ __forceinline__ void end_products(int) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
  template <int N>
  __device__ __forceinline__ void wait_products(int) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  }
  template <int COUNT, class R>
  __device__ __forceinline__ void hold(R* registers) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      if constexpr (std::is_same_v<R, float>) {
        asm volatile("" : "+f"(registers[i])::"memory");
      } else {
        asm volatile("" : "+r"(registers[i])::"memory");
      }
    }
  }
  // c += a b of bytes as in mma_bytes, 64 weight rows and 8 NT hidden rows: of warp w weight rows 16w to 16w + 15, lane
  // 4g + t with a as there and c[4n + i + 2s], hidden row 8n + 2t + i. Hidden rows where the descriptor says.
  template <int NT, class C, class A>
  __device__ __forceinline__ void wgmma_bytes(int, C c_of, A a_of, std::uint64_t hidden) {
    const int lane = threadIdx.x & 31;
    cuda::wgmma_bytes<NT>(c_of(lane), a_of(lane), hidden);
  }
  // c = a b in f32 (FIRST) or c += a b: 64 weight and 128 hidden rows, c as above; both where their descriptors say.
  template <class E, bool FIRST, class C>
  __device__ __forceinline__ void wgmma_f32(int, C c_of, std::uint64_t weight, std::uint64_t hidden) {
    cuda::wgmma_f32<E, FIRST>(c_of(static_cast<int>(threadIdx.x & 31)), weight, hidden);
  }
  // Of shared memory, as descriptors have it; and what was copied there and waited for is there for them.
  __device__ __forceinline__ std::uint32_t address(const void* shared) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  }
  __device__ __forceinline__ void publish_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

  // Every lane whose number differs by a multiple of `from` below 32 merges what the others have; T is made of words.
  template <class X, class Merge>
  __device__ __forceinline__ void reduce(X x_of, int from, int below, Merge merge_into) {
    auto& x = x_of(static_cast<int>(threadIdx.x & 31));
    using T = std::remove_reference_t<decltype(x)>;
#pragma unroll
    for (int distance = from; distance < below; distance *= 2) {
      std::uint32_t words[sizeof(T) / 4];
      memcpy(words, &x, sizeof(T));
#pragma unroll
      for (std::uint32_t& word : words) word = __shfl_xor_sync(0xFFFFFFFFU, word, distance);
      T other;
      memcpy(&other, words, sizeof(T));
      merge_into(x, other);
    }
  }

  // Which lanes say true; what lane 0 says.
  template <class F>
  __device__ __forceinline__ std::uint32_t ballot(F f) {
    return __ballot_sync(0xFFFFFFFFU, f(static_cast<int>(threadIdx.x & 31)));
  }
  template <class F>
  __device__ __forceinline__ bool first(F f) {
    return __shfl_sync(0xFFFFFFFFU, static_cast<int>(f(static_cast<int>(threadIdx.x & 31))), 0) != 0;
  }
  __device__ __forceinline__ void sync_warp() { __syncwarp(); }

  __device__ __forceinline__ void add_to(unsigned long long& digit, std::uint64_t x) {
    atomicAdd(&digit, static_cast<unsigned long long>(x));
  }
  __device__ __forceinline__ void count(std::uint32_t& counter) { atomicAdd(&counter, 1U); }
  // What it was; no two threads are given the same.
  __device__ __forceinline__ std::uint32_t take(std::uint32_t& counter) { return atomicAdd(&counter, 1U); }

  // Sixteen bytes to shared memory while the threads go on. Copies are told apart by groups; wait<N> leaves the N
  // latest groups under way.
  __device__ __forceinline__ void copy(void* shared, const void* from) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(from));
  }
  // Zeros where `there` is false.
  __device__ __forceinline__ void copy_or_zero(void* shared, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
                 "l"(from), "r"(there ? 16 : 0));
  }
  __device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;"); }
  template <int N>
  __device__ __forceinline__ void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
  }

  // Begins to bring the line to the second-level cache.
  __device__ __forceinline__ void fetch_line(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

  // In a kernel that begins early (device.cuh): all that launches before this one wrote is there, and nothing of it is
  // read before.
  __device__ __forceinline__ void after_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }
};

#endif

// Sixteen bytes that many threads read. Not by __ldg: what is never written may be read before after_previous().
ISOLOGIT_DEVICE Sixteen load_sixteen(const std::uint32_t* at) {
#ifdef __CUDACC__
  const uint4 x = *reinterpret_cast<const uint4*>(at);
  return {{x.x, x.y, x.z, x.w}};
#else
  Sixteen x;
  memcpy(&x, at, sizeof x);
  return x;
#endif
}

}  // namespace isologit::detail::cuda
