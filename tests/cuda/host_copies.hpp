// The copies to shared memory that some threads have begun, each of which ends every group. What a copy overwrites is
// gone when it begins, and it is there when it has been waited for: both are seen in the bits.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "cuda/element.cuh"

namespace isologit::detail::cuda {

class HostCopies {
 public:
  explicit HostCopies(int threads) : threads_(threads) {}

  // Zeros where `there` is false.
  void begin(void* shared, const void* from, bool there) {
    Copy copy = {shared, {}, ended_ / threads_};
    if (there) std::memcpy(&copy.bytes, from, sizeof copy.bytes);
    copies_.push_back(copy);
    std::memset(shared, 0xA5, sizeof copy.bytes);
  }
  void end_group() { ++ended_; }  // of a thread
  // Leaves the `left` latest groups under way; arrived(place) is called for each copy of the others.
  template <class F>
  void wait(int left, F arrived) {
    std::size_t kept = 0;
    for (const Copy& copy : copies_) {
      if (copy.group < ended_ / threads_ - left) {
        std::memcpy(copy.to, &copy.bytes, sizeof copy.bytes);
        arrived(copy.to);
      } else {
        copies_[kept++] = copy;
      }
    }
    copies_.resize(kept);
  }

 private:
  struct Copy {
    void* to;
    Sixteen bytes;
    int group;
  };
  int threads_;
  int ended_ = 0;
  std::vector<Copy> copies_;
};

}  // namespace isologit::detail::cuda
