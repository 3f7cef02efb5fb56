// What a block of a fused kernel reads into shared memory: A by rows that an index names, through cp.async; B through
// TMA. Shapes: R rows sorted by expert, E experts, D width of a row; M, N, K of a product as in kernels/expert_tiles.h.
#pragma once
#include <cute/tensor.hpp>
#include <cutlass/arch/memory_sm80.h>
#include <cutlass/bfloat16.h>
#include <cutlass/fast_math.h>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/layout/matrix.h>

#include "kernels/expert_tiles.h"

namespace olmoe::kernels::hopper {

using Bf16 = cutlass::bfloat16_t;
using Along = cute::GMMA::Major;  ///< of the elements that lie side by side in memory

/// CUTLASS's multiplication of tiles from shared memory, in four stages. Its loads are not used: ours are below.
template <Along kA, Along kB>
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Bf16,
    std::conditional_t<kA == Along::K, cutlass::layout::RowMajor, cutlass::layout::ColumnMajor>, 8, Bf16,
    std::conditional_t<kB == Along::K, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>, 8, float,
    cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>, cute::Shape<cute::_1, cute::_1, cute::_1>,
    cutlass::gemm::collective::StageCount<4>, cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;

/// Where fragment_row() and fragment_column() say that the values of a product are: thread (lane % 4, lane / 4, warp)
/// and value (i % 2, i / 2 % 2, i / 4) to row + column * kTileM. CUTLASS's own account of it must be the same.
using Fragments =
    cute::Layout<cute::Shape<cute::Shape<cute::_4, cute::_8, cute::Int<kTileM / kWarpRows>>,
                             cute::Shape<cute::Shape<cute::_2, cute::_2, cute::Int<kTileN / kBlockColumns>>,
                                         cute::Shape<cute::_1, cute::_1>>>,
                 cute::Stride<cute::Stride<cute::Int<2 * kTileM>, cute::_1, cute::Int<kWarpRows>>,
                              cute::Stride<cute::Stride<cute::Int<kTileM>, cute::_8, cute::Int<kBlockColumns * kTileM>>,
                                           cute::Stride<cute::_0, cute::_0>>>>;

/// Rows of x in the order of the experts: row r is x[slot_R[r] / top_k].
struct GatheredRows {
  const Bf16* x;
  int64_t stride;
  const int32_t* slot_R;
  cutlass::FastDivmod top_k;

  __device__ int32_t token(int32_t r) const { return top_k.div(slot_R[r]); }
  /// 16 bytes of a row into shared memory, zeros where there is no such row.
  __device__ void copy(int32_t token, bool exists, int64_t column, Bf16* to) const {
    using Copy = cutlass::arch::cp_async_zfill<16, cutlass::arch::CacheOperation::Global>;
    Copy(to, x + (exists ? token : 0) * stride + column, exists);
  }
};

/// A thread's share of the tiles of A whose rows, along M, are gathered and whose K are their columns.
class RowsAlongM {
 public:
  static constexpr Along kMajor = Along::K;
  static __device__ int32_t k_tiles(const GatheredRows&, int32_t K, const TileCursor&) { return K / kTileK; }

  __device__ RowsAlongM(const GatheredRows& rows, const TileCursor& at, int thread) : rows_(rows), thread_(thread) {
    for (int pass = 0; pass < kLoadPasses; ++pass) {
      const int32_t r = at.begin + at.m * kTileM + loaded_piece<kTileK>(thread, pass).row;
      exists_[pass] = r < at.end;
      tokens_[pass] = exists_[pass] ? rows.token(r) : 0;
    }
  }
  /// Tile k of A into a stage of shared memory [M, K].
  template <class Stage>
  __device__ void copy(int32_t k, Stage&& stage_MK) {
    CUTLASS_PRAGMA_UNROLL
    for (int pass = 0; pass < kLoadPasses; ++pass) {
      const LoadedPiece piece = loaded_piece<kTileK>(thread_, pass);
      rows_.copy(tokens_[pass], exists_[pass], int64_t{k} * kTileK + piece.column, &stage_MK(piece.row, piece.column));
    }
  }

 private:
  const GatheredRows& rows_;
  const int thread_;
  int32_t tokens_[kLoadPasses];
  bool exists_[kLoadPasses];
};

/// The same where the gathered rows are along K, and M are their columns. Rows past the expert's last are zero, which
/// takes what B has there out of the sum, unless it is not finite.
class RowsAlongK {
 public:
  static constexpr Along kMajor = Along::MN;
  static __device__ int32_t k_tiles(const GatheredRows&, int32_t, const TileCursor& at) {
    return (at.end - at.begin + kTileK - 1) / kTileK;
  }

  __device__ RowsAlongK(const GatheredRows& rows, const TileCursor& at, int thread)
      : rows_(rows), at_(at), thread_(thread) {
    find_rows(0);
  }
  template <class Stage>
  __device__ void copy(int32_t k, Stage&& stage_MK) {
    CUTLASS_PRAGMA_UNROLL
    for (int pass = 0; pass < kLoadPasses; ++pass) {
      const LoadedPiece piece = loaded_piece<kTileM>(thread_, pass);
      rows_.copy(tokens_[pass], row(k, pass) < at_.end, int64_t{at_.m} * kTileM + piece.column,
                 &stage_MK(piece.column, piece.row));
    }
    find_rows(k + 1);  // they arrive while this tile is waited for
  }

 private:
  __device__ int32_t row(int32_t k, int pass) const {
    return at_.begin + k * kTileK + loaded_piece<kTileM>(thread_, pass).row;
  }
  __device__ void find_rows(int32_t k) {
    CUTLASS_PRAGMA_UNROLL
    for (int pass = 0; pass < kLoadPasses; ++pass)
      tokens_[pass] = row(k, pass) < at_.end ? rows_.token(row(k, pass)) : 0;
  }

  const GatheredRows& rows_;
  const TileCursor& at_;
  const int thread_;
  int32_t tokens_[kLoadPasses];
};

/// Where a tile of B begins.
struct OriginB {
  int32_t n, k, l;
};

/// B, [N, K] for each of L, in tiles that TMA reads as kPieces of N that lie apart in memory.
template <class Main, int kPieces>
struct OperandB {
  static constexpr int kPieceN = kTileN / kPieces;
  static_assert(kPieces == 1 || cutlass::gemm::detail::is_k_major<typename Main::StrideB>(),
                "rows of B's tile that lie side by side in memory are not in pieces");
  using Piece = cute::Shape<cute::Int<kPieceN>, cute::Int<kTileK>>;
  using Order = std::conditional_t<cutlass::gemm::detail::is_k_major<typename Main::StrideB>(),
                                   cute::Step<cute::_1, cute::_2>, cute::Step<cute::_2, cute::_1>>;
  using PieceLayout = decltype(cute::tile_to_shape(typename Main::SmemLayoutAtomB{}, Piece{}, Order{}));
  using Extent = cute::Shape<int32_t, int32_t, int32_t>;
  static constexpr uint32_t kTileBytes = kTileN * kTileK * sizeof(Bf16);

  static auto make_tma(const Bf16* data, Extent extent, typename Main::StrideB stride) {
    const auto all_NKL = cute::make_tensor(cute::make_gmem_ptr(data), cute::make_layout(extent, stride));
    return cute::make_tma_copy(cute::SM90_TMA_LOAD{}, all_NKL, PieceLayout{}, Piece{}, cute::Int<1>{});
  }
  using Tma = decltype(make_tma(nullptr, Extent{}, typename Main::StrideB{}));

  Tma tma;
  Extent extent;
  int32_t piece_step;  ///< of N, from a piece to the next

  OperandB(const Bf16* data, Extent of, typename Main::StrideB stride, int32_t step)
      : tma(make_tma(data, of, stride)), extent(of), piece_step(step) {}

  /// Asks for tile k of those whose first element is at `origin`; one thread calls it. `barrier` counts the bytes.
  __device__ void copy(const OriginB& origin, int32_t k, uint64_t* barrier, Bf16* stage) const {
    using namespace cute;
    const auto all_NKL = tma.get_tma_tensor(extent);
    const auto block = tma.get_slice(Int<0>{});
    CUTLASS_PRAGMA_UNROLL
    for (int p = 0; p < kPieces; ++p) {
      const auto begin = make_coord(origin.n + p * piece_step, origin.k + k * kTileK, origin.l);
      const auto from = local_tile(domain_offset(begin, all_NKL), Piece{}, make_coord(Int<0>{}, Int<0>{}, Int<0>{}));
      const auto to = make_tensor(make_smem_ptr(stage + p * kPieceN * kTileK), PieceLayout{});
      cute::copy(tma.with(*barrier), block.partition_S(from), block.partition_D(to));
    }
  }
};

}  // namespace olmoe::kernels::hopper
