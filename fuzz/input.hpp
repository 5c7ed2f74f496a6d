// A fuzzer's bytes as numbers, one after another; zeros when they are used up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace isologit::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  template <class T>
  T take() {
    T value{};
    const std::size_t count = sizeof(T) < size_ ? sizeof(T) : size_;
    std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

  // From `least` to `most`.
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(take<std::uint8_t>() % static_cast<std::uint64_t>(most - least + 1));
  }
  bool flip() { return (take<std::uint8_t>() & 1U) != 0; }

  // The usual value, or now and then one that no field of its kind may have unless it is checked.
  template <class T>
  T field(T usual) {
    switch (take<std::uint8_t>()) {
      case 1: return std::numeric_limits<T>::max();
      case 2: return std::numeric_limits<T>::min();
      case 3: return static_cast<T>(-1);
      case 4: return 0;
      case 5: return static_cast<T>(std::numeric_limits<T>::max() / 2 + 1);
      default: return usual;
    }
  }
  // Of a size that tells how much there is to read: what is larger cannot be seen to be wrong.
  std::int64_t size(std::int64_t usual) {
    const std::int64_t found = field(usual);
    return found > usual ? usual : found;
  }

  // Exactly so many, on the heap, where a sanitizer sees what is read beside them.
  template <class T>
  std::vector<T> several(std::int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = take<T>();
    return values;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

}  // namespace isologit::fuzz
