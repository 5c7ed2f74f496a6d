// Rows of logits, handed to folds in tiles of any size and order by parties that merge in any order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "kernels/target.hpp"
#include "oracle/cases.hpp"

namespace isologit::test {

// The loops of every target that runs here.
struct NamedLoops {
  std::string name;
  const detail::kernels::FoldLoops* loops;
};
inline std::vector<NamedLoops> all_loops() {
  std::vector<NamedLoops> all;
  for (const detail::kernels::Entry& entry : detail::kernels::registry()) {
    if (entry.why_not().empty()) all.push_back({std::string(entry.name), &entry.target().fold_loops()});
  }
  return all;
}
inline const detail::kernels::FoldLoops& portable_loops() {
  return (*detail::kernels::choose("portable", Arithmetic::exact))->fold_loops();
}

// Every family, some seeds, of sizes that are one tile, several, and no multiple of any lane.
struct NamedRow {
  std::string name;
  std::vector<float> z;
};
inline std::vector<NamedRow> rows(std::uint64_t seeds) {
  std::vector<NamedRow> all;
  for (const oracle::RowFamily family : oracle::row_families) {
    for (std::uint64_t seed = 0; seed < seeds; ++seed) {
      constexpr std::int64_t sizes[] = {1, 7, 90, 300};
      all.push_back(
          {std::string(name_of(family)) + ' ' + std::to_string(seed), make_row(family, sizes[seed % 4], seed)});
    }
  }
  return all;
}

// A tile as folds take it: the logits, and -inf to the end of the last group.
struct Tile {
  std::vector<float> logits;
  std::int64_t count;
  std::int64_t first_id;
};
inline std::vector<Tile> tiles_of(const std::vector<float>& z, oracle::Random& random) {
  std::vector<Tile> tiles;
  for (std::size_t first = 0; first < z.size();) {
    const std::size_t most = random.below(2) == 0 ? 5 : detail::kernels::kMostTile;
    const std::size_t count = std::min<std::size_t>(z.size() - first, 1 + random.below(most));
    Tile tile{{z.begin() + static_cast<std::ptrdiff_t>(first), z.begin() + static_cast<std::ptrdiff_t>(first + count)},
              static_cast<std::int64_t>(count),
              static_cast<std::int64_t>(first)};
    while (tile.logits.size() % detail::kernels::kLaneGroup != 0)
      tile.logits.push_back(-std::numeric_limits<float>::infinity());
    tiles.push_back(std::move(tile));
    first += count;
  }
  return tiles;
}

// Some parties, of which each absorbs some of the tiles and some none, merge into one.
template <class State, class Absorb, class Merge>
State fold_in_any_order(const std::vector<float>& z, oracle::Random& random, const State& empty, Absorb absorb,
                        Merge merge) {
  std::vector<State> parties(1 + random.below(6), empty);
  std::vector<Tile> tiles = tiles_of(z, random);
  while (!tiles.empty()) {
    std::swap(tiles[random.below(tiles.size())], tiles.back());
    absorb(parties[random.below(parties.size())], tiles.back());
    tiles.pop_back();
  }
  while (parties.size() > 1) {
    std::swap(parties[random.below(parties.size())], parties.back());
    const State other = std::move(parties.back());
    parties.pop_back();
    merge(parties[random.below(parties.size())], other);
  }
  return parties.front();
}

template <class State>
std::vector<std::byte> bytes_of(const State& state) {
  detail::base::ByteWriter writer;
  state.write(writer);
  return writer.take();
}

// Whether all of the bytes are a state.
template <class State>
bool reads(State& state, const std::vector<std::byte>& bytes) {
  detail::base::ByteReader reader(bytes);
  return state.read(reader) && reader.left() == 0;
}

// What `fresh` reads of a state has the state's bytes again, and no part of them will do.
template <class State>
bool survives_as_bytes(const State& state, const State& fresh) {
  const std::vector<std::byte> bytes = bytes_of(state);
  State found = fresh;
  if (!reads(found, bytes) || bytes_of(found) != bytes) return false;
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    State part = fresh;
    if (reads(part, {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)})) return false;
  }
  return true;
}

}  // namespace isologit::test
