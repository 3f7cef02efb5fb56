// Operand layouts of a fused kernel, and loads of operand B by TMA (A: gathered_rows.cuh). Shapes: M, N, K of a GEMM as
// in kernels/expert_tiles.h.
#pragma once
#include <cutlass/bfloat16.h>
#include <cutlass/layout/matrix.h>
#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>

#include "kernels/expert_tiles.h"

namespace olmoe::kernels::hopper {

using Bf16 = cutlass::bfloat16_t;
using Along = cute::GMMA::Major;  ///< the dimension that is contiguous in memory

/// CUTLASS's mainloop over tiles in shared memory, in four stages. Its loads are replaced by ours.
template <Along kA, Along kB>
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Bf16,
    std::conditional_t<kA == Along::K, cutlass::layout::RowMajor, cutlass::layout::ColumnMajor>, 8, Bf16,
    std::conditional_t<kB == Along::K, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>, 8, float,
    cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>, cute::Shape<cute::_1, cute::_1, cute::_1>,
    cutlass::gemm::collective::StageCount<4>, cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;

/// The layout of fragment_row() and fragment_column(): thread (lane % 4, lane / 4, warp) and value (i % 2, i / 2 % 2,
/// i / 4) to row + column * kTileM. CUTLASS's layout of the accumulator must be equal.
using Fragments =
    cute::Layout<cute::Shape<cute::Shape<cute::_4, cute::_8, cute::Int<kTileM / kWarpRows>>,
                             cute::Shape<cute::Shape<cute::_2, cute::_2, cute::Int<kTileN / kBlockColumns>>,
                                         cute::Shape<cute::_1, cute::_1>>>,
                 cute::Stride<cute::Stride<cute::Int<2 * kTileM>, cute::_1, cute::Int<kWarpRows>>,
                              cute::Stride<cute::Stride<cute::Int<kTileM>, cute::_8, cute::Int<kBlockColumns * kTileM>>,
                                           cute::Stride<cute::_0, cute::_0>>>>;

/// True if staged_at<kColumns>(), whose columns are K or M as kA says, is CUTLASS's layout of a stage. CUTLASS's
/// swizzle is in bytes; the one below is the same for 2-byte elements. Both layouts only move and XOR the bits of row
/// and column, so checking one bit of each at a time suffices (8,192 offsets are too many for constant evaluation).
template <int kColumns, Along kA, class Plain>
constexpr bool staged_as(cute::ComposedLayout<cute::Swizzle<3, 4, 3>, cute::smem_ptr_flag_bits<16>, Plain>) {
  constexpr int kRows = kTileM * kTileK / kColumns;
  static_assert((kRows & (kRows - 1)) == 0 && (kColumns & (kColumns - 1)) == 0);
  static_assert(Plain{}(0, 0, 1) == kTileM * kTileK, "stages must be contiguous");
  for (int row = 0; row < kRows; row = row == 0 ? 1 : 2 * row) {
    for (int column = 0; column < kColumns; column = column == 0 ? 1 : 2 * column) {
      const int plain = kA == Along::K ? Plain{}(row, column, 0) : Plain{}(column, row, 0);
      if (staged_at<kColumns>(row, column) != cute::Swizzle<3, 3, 3>::apply(plain)) return false;
    }
  }
  return true;
}

/// Coordinates of the first element of a tile of B.
struct OriginB {
  int32_t n, k, l;
};

/// Operand B, L matrices [N, K]. TMA reads a tile as kPieces ranges of N, piece_step apart.
template <class Main, int kPieces>
struct OperandB {
  static constexpr int kPieceN = kTileN / kPieces;
  static_assert(kPieces == 1 || cutlass::gemm::detail::is_k_major<typename Main::StrideB>(),
                "a tile of B that is contiguous along N cannot be in pieces");
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
  int32_t piece_step;  ///< distance of consecutive pieces along N

  OperandB(const Bf16* data, Extent of, typename Main::StrideB stride, int32_t step)
      : tma(make_tma(data, of, stride)), extent(of), piece_step(step) {}

  /// Issues the loads of tile k along K from `origin`; called by one thread. `barrier` counts the bytes.
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
