// Memory for tiles and scratch, aligned to a cache line and to the widest vector register.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace isologit::detail::base {

// Uninitialised bytes at a 64-byte boundary. An empty buffer holds no memory. Large ones lie in huge pages where the
// system has them (aligned.cpp).
class AlignedBuffer {
 public:
  static constexpr std::size_t alignment = 64;

  AlignedBuffer() = default;
  // Throws std::bad_alloc.
  explicit AlignedBuffer(std::size_t bytes);
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : bytes_(std::move(other.bytes_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~AlignedBuffer() = default;

  // Bytes.
  std::size_t size() const { return size_; }

  // The memory as size() / sizeof(T) elements; they hold no values until written.
  template <class T>
  T* as() {
    return static_cast<T*>(address<T>());
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(address<T>());
  }

 private:
  struct Free {
    std::align_val_t boundary;  // that the bytes were asked for at
    void operator()(void* bytes) const { ::operator delete(bytes, boundary); }
  };

  template <class T>
  void* address() const {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T> && alignof(T) <= alignment);
    return bytes_.get();
  }

  std::unique_ptr<void, Free> bytes_;
  std::size_t size_ = 0;
};

}  // namespace isologit::detail::base
