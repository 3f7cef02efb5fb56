// Which rank orthogonalises which matrix of sharded units (Muon), and what ranks send each other for it. Pure
// functions.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace olmoe {

/// A matrix whose rows lie one after another in the flat buffer of a sharded unit.
struct FlatMatrix {
  int64_t begin;  ///< element of the flat unit
  int64_t rows, cols;
  int64_t numel() const { return rows * cols; }
  bool operator==(const FlatMatrix&) const = default;
};

/// A unit's matrices, in the order of the unit; its shards of equal size are on the ranks of a group.
struct MatrixUnit {
  int ranks;
  int64_t shard_numel;
  std::vector<FlatMatrix> matrices;
};

/// FLOPs of one step of the Newton-Schulz iteration: the Gram matrix over the shorter side n of an [n, m] matrix, its
/// square, and the product of both with the matrix: 4 n^2 m + 2 n^3.
double newton_schulz_flops(int64_t rows, int64_t cols);

/// The home of a matrix is the rank of its unit's group that orthogonalises it.
using MatrixHomes = std::vector<std::vector<int>>;  ///< of each unit and each of its matrices

/// Plans homes, the same on every rank: balanced by FLOPs over all units together, and among ranks with room for a
/// matrix the one that has most of it. "Room" is what the busiest rank has if the largest matrices go first, each to
/// the rank with least (LPT). Group sizes divide the largest, W: rank w of that group is rank w / (W / ranks) of a
/// smaller one, and smaller groups are planned first. Throws Error for sizes that do not.
MatrixHomes plan_homes(std::span<const MatrixUnit> units);

/// FLOPs of one Newton-Schulz step on each rank of the largest group.
std::vector<double> flops_of_ranks(std::span<const MatrixUnit> units, const MatrixHomes& homes);

/// A part of a matrix that is contiguous in a shard and in a buffer.
struct MatrixPiece {
  size_t unit, matrix;
  int64_t in_matrix;  ///< the first of its elements, in the flattened matrix
  int64_t in_shard;   ///< and in the shard of the rank that holds it
  int64_t in_buffer;
  int64_t numel;
};

/// What a rank sends to homes, and receives as a home, in one all_to_all; the results return the same way. Buffers are
/// in order of the other rank, and of units and matrices.
struct MatrixExchange {
  std::vector<int64_t> sent, received;                ///< elements to and from each rank
  std::vector<MatrixPiece> sent_pieces, home_pieces;  ///< what this rank holds, and what its home matrices are made of
};
/// Of rank `rank` of the group that all `units` share.
MatrixExchange plan_exchange(std::span<const MatrixUnit> units, const MatrixHomes& homes, int rank);

/// Elements that a rank deals with in an exchange.
struct MatrixShare {
  int64_t held = 0;                                            ///< of matrices, in its shards
  int64_t homed = 0;                                           ///< of matrices whose home it is
  int64_t kept = 0;                                            ///< of both kinds: not sent
  int64_t sent() const { return held - kept + homed - kept; }  ///< there and back
};
/// Of each rank of the group that all `units` share.
std::vector<MatrixShare> shares_of_ranks(std::span<const MatrixUnit> units, const MatrixHomes& homes);

/// Matrices of one shape that a home orthogonalises at once: as many as 2^25 elements are, and at least one.
int64_t matrices_at_once(int64_t rows, int64_t cols);
/// Elements that newton_schulz() allocates for `count` matrices, at its peak, with the operand: 3 n m + n^2 of each.
int64_t newton_schulz_numel(int64_t count, int64_t rows, int64_t cols);

}  // namespace olmoe
