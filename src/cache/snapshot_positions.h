#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace windowkv {

/// Where a prefix store holds the states of recurrent layers: a prompt that leaves the stored one goes on
/// from the last such place before. Later prompts leave it mostly near its end, where places are therefore
/// close to each other; their distances grow with that from the end.

/// Tokens at the end of a prompt that are computed again, whatever is stored: the longest observation window.
constexpr int64_t kSnapshotTail = 32;
/// Shorter prefixes are read again.
constexpr int64_t kFirstSnapshot = 256;
/// The most that a store may hold: a chunk may pass all of them in one graph.
constexpr int kMostSnapshots = 15;

/// Numbers of tokens after which a store of n tokens holds the states, ascending, at most `most`: of those
/// after which it does (`held`), and of others behind the first `past` tokens, which are computed. `likely`:
/// where later prompts are expected to leave this one, which is preferred to all others but its end.
std::vector<int64_t> snapshot_positions(std::span<const int64_t> held, int64_t past, int64_t n,
                                        std::span<const int64_t> likely, int most);

}  // namespace windowkv
