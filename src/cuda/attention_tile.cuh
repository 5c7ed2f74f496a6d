// What a block of Attend has in memory, and how it comes there.
#pragma once

#include "cuda/attention_request.cuh"
#include "cuda/product.cuh"

namespace isologit::detail::cuda {

template <class BlockType, class E, int DIM>
struct AttentionTile {
  using Block = BlockType;
  using Bits = typename E::Bits;
  static constexpr int kRows = 4096 / DIM;  // so that the sums are 64 registers
  static constexpr int kKeys = 16 * Block::kWarps;
  static constexpr int NT = kRows / 8;
  static constexpr int kPitch = DIM + 16;  // elements: the lanes of a value's load meet in no bank
  static constexpr int kWordPitch = DIM + 4;
  static constexpr int kWeightPitch = kKeys + 4;

  struct Place {
    std::int64_t key, value;
  };
  struct Shared {
    alignas(16) Bits keys[kKeys][kPitch];
    alignas(16) Bits values[kKeys][kPitch];
    alignas(16) std::uint32_t words[kRows][kWordPitch];  // high ones of q 2^kHiddenBias
    double weights[kRows][kWeightPitch];                 // times 2^kBias, which values lack (element.cuh)
    Place places[2][kKeys];
    double total[Block::kWarps][kRows];
    double q_length[kRows];
    int top[Block::kWarps][kRows];
    int begin[kRows], end[kRows];  // seen of the tiles of keys
    float sink[kRows];
    std::uint32_t greatest_key[Block::kWarps];
  };
  struct Keys {  // of this split
    std::int64_t first;
    int count;
  };

  // Those that any row of the tile sees, divided among the splits by whole tiles of keys.
  ISOLOGIT_DEVICE static Keys keys_of(const AttentionRequest& p, const RowTile& rows, int split) {
    const std::int64_t begin = rows.seen_by(p, 0).begin;
    const std::int64_t end = rows.seen_by(p, rows.rows - 1).end;
    const std::int64_t tiles = end > begin ? (end - begin + kKeys - 1) / kKeys : 0;
    const std::int64_t first = begin + tiles * split / p.splits * kKeys;
    const std::int64_t last = begin + tiles * (split + 1) / p.splits * kKeys;
    return {first, static_cast<int>((last < end ? last : end) - first)};
  }

  ISOLOGIT_DEVICE static void load_rows(Block& block, Shared& shared, const AttentionRequest& p, const RowTile& rows,
                                        const Keys& keys) {
    const auto in_keys = [&](std::int64_t j) {
      const std::int64_t at = j - keys.first;
      return at < 0 ? 0 : at < keys.count ? static_cast<int>(at) : keys.count;
    };
    block.each_warp([&](int warp) {
      ISOLOGIT_ROLLED
      for (int r = warp; r < kRows; r += Block::kWarps) {
        const bool is_there = r < rows.rows;
        const std::int64_t from = is_there ? p.q.rows.offset_of(rows.row_of(p, r)) : 0;
        typename Block::template PerLane<double> length;
        block.each_lane([&](int lane) {
          length(lane) = 0.0;
          for (int d = lane; d < DIM; d += 32) {
            const double q = is_there && d < p.dim ? p.q.at(from + d) : 0.0;
            length(lane) += q * q;
            shared.words[r][d] =
                static_cast<std::uint32_t>(bit_cast<std::uint64_t>(q * power_of_two(kHiddenBias)) >> 32);
          }
        });
        block.reduce([&](int lane) -> double& { return length(lane); }, 1, 32, [](double& a, double b) { a += b; });
        block.each_lane([&](int lane) {
          if (lane != 0) return;
          const Seen seen = is_there ? rows.seen_by(p, r) : Seen{0, 0};
          shared.q_length[r] = sqrt(length(lane));
          shared.begin[r] = is_there ? in_keys(seen.begin) : 0;
          shared.end[r] = is_there ? in_keys(seen.end) : 0;
          shared.sink[r] = is_there ? sink_of(p, rows.head_of(p, r)) : 0.0F;
        });
      }
    });
  }

  // Of the keys of tile t, kNowhere past the last.
  ISOLOGIT_DEVICE static void find_places(Block& block, Shared& shared, const AttentionRequest& p, const RowTile& rows,
                                          const Keys& keys, int t) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        const int at = 32 * warp + lane;
        if (at >= kKeys) return;
        Place place = {kNowhere, kNowhere};
        if (t * kKeys + at < keys.count) {
          const std::int64_t j = keys.first + t * kKeys + at;
          place.key = place_of(p, p.keys, rows.s, j, rows.kv_head);
          place.value = place_of(p, p.values, rows.s, j, rows.kv_head);
          if (place.key == kNowhere) block.count(p.status->wrong);
        }
        shared.places[t % 2][at] = place;
      });
    });
  }

  // Begins the copy of a tile's keys or values, filled up with zeros to whole steps of the depth.
  ISOLOGIT_DEVICE static void fetch(Block& block, Bits (&to)[kKeys][kPitch], const AttentionRequest& p,
                                    const KeyRows& x, const Place (&places)[kKeys], std::int64_t Place::*of) {
    const auto* data = static_cast<const Bits*>(x.data);
    const int chunks = (x.dim + kStep - 1) / kStep * (kStep / 8);
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        ISOLOGIT_ROLLED
        for (int i = 32 * warp + lane; i < kKeys * chunks; i += Block::kThreads) {
          const int key = i / chunks, d = i % chunks * 8;
          const std::int64_t place = places[key].*of;
          const bool is_there = place != kNowhere && d < x.dim;
          if (p.copies) {
            block.copy_or_zero(&to[key][d], is_there ? data + place + d : data, is_there);
          } else {
            const Chunk<E> chunk = is_there ? load_chunk<E, false>(data + place, d, x.dim) : Chunk<E>{};
            *reinterpret_cast<Sixteen*>(&to[key][d]) = chunk.part[0];
          }
        }
        block.end_group();
      });
    });
  }
};

}  // namespace isologit::detail::cuda
