// The persistent kernel of all fused grouped GEMMs. A block has four producer warps, which load, and two consumer
// groups of four warps, which multiply and run the epilogue; it takes one tile after the other until none is left. One
// barrier of CUTLASS's pipeline counts both the bytes of B and the pieces of A of all loading threads: a stage of
// shared memory is full when all have arrived. Blocks are independent: no clusters. Source: quack, gemm_sm90.py.
#pragma once
#include <ATen/cuda/CUDAContextLight.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/pipeline/sm90_pipeline.hpp>

#include "kernels/hopper/gathered_rows.cuh"
#include "kernels/hopper/operands.cuh"
#include "kernels/permute.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::hopper {

constexpr int kMultiplyingThreads = 256, kThreads = kLoadThreads + kMultiplyingThreads;
constexpr int kWarps = kMultiplyingThreads / cuda::kWarp;
/// Registers of a loading and of a multiplying thread; together all of a multiprocessor's.
constexpr int kLoadRegisters = 56, kMultiplyRegisters = 224;
static_assert(kLoadRegisters * kLoadThreads + kMultiplyRegisters * kMultiplyingThreads <= 65536);

/// Parameters of the kernel: how A is loaded, the major dimensions of A and B, the number of pieces of a tile of B, and
/// the epilogue. A derived struct may replace origin_B(), and prefetch(), which reads ahead for the epilogue.
template <class RowsA, Along kA, Along kB, class Epilogue, int kPiecesB = 1>
struct ExpertGemm {
  using A = RowsA;
  static constexpr Along kAlongA = kA;
  using Main = Mainloop<kA, kB>;
  using B = OperandB<Main, kPiecesB>;
  struct Params {
    ExpertTiles tiles;
    int32_t K;  ///< inner dimension; unused if that is the rows of an expert
    typename A::Source a;
    B b;
    Epilogue epilogue;
  };
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * kTileN, 0, at.expert}; }
  static __device__ void prefetch(const Params&, const TileCursor&, int) {}
};

template <class Gemm>
struct SharedStorage {
  typename Gemm::Main::TensorStorage operands;  // first, since its swizzled layout requires 1,024-byte alignment
  alignas(16) c10::BFloat16 strips[kWarps][kStripElements];
  typename Gemm::Main::PipelineStorage pipeline;
};

template <class Gemm>
__device__ auto make_pipeline(SharedStorage<Gemm>& shared, bool loads) {
  using Pipeline = typename Gemm::Main::MainloopPipeline;
  typename Pipeline::Params params;
  params.role = loads ? Pipeline::ThreadCategory::Producer : Pipeline::ThreadCategory::Consumer;
  params.is_leader = threadIdx.x == 0;
  params.transaction_bytes = Gemm::B::kTileBytes;
  params.num_producers = 1 + kLoadThreads;  // the leader, which announces the bytes of B, and the copies of each thread
  params.num_consumers = kMultiplyingThreads;
  return Pipeline(shared.pipeline, params, cute::Shape<cute::_1, cute::_1, cute::_1>{});
}

template <class Gemm, class Pipeline>
__device__ void load_tiles(const typename Gemm::Params& params, Pipeline& pipeline,
                           typename Gemm::Main::TensorStorage& operands) {
  static_assert(staged_as<Gemm::A::kColumns, Gemm::kAlongA>(typename Gemm::Main::SmemLayoutA{}));
  auto* const stages_A = reinterpret_cast<Element*>(operands.smem_A.data());
  auto state = cutlass::make_producer_start_state<Pipeline>();
  TileCursor at;
  for (uint32_t tile = blockIdx.x; at.seek(params.tiles, static_cast<int32_t>(tile)); tile += gridDim.x) {
    const int32_t count = Gemm::A::k_tiles(params.K, at);
    if (count == 0) continue;  // an expert without rows
    typename Gemm::A a(params.a, at, static_cast<int>(threadIdx.x));
    const auto origin = Gemm::origin_B(at);
#pragma unroll 1  // keeps the addresses of one k-tile in registers
    for (int32_t k = 0; k < count; ++k, ++state) {
      pipeline.producer_acquire(state);
      if (threadIdx.x == 0)
        params.b.copy(origin, k, pipeline.producer_get_barrier(state),
                      operands.smem_B.data() + state.index() * kTileN * kTileK);
      a.copy_next(stages_A + state.index() * kTileM * kTileK);
      pipeline.producer_commit(state, cutlass::arch::cpasync_barrier_arrive_noinc);
    }
  }
  pipeline.producer_tail(state);
}

template <class Gemm, class Pipeline>
__device__ void multiply_tiles(const typename Gemm::Params& params, Pipeline& pipeline, SharedStorage<Gemm>& shared) {
  using Main = typename Gemm::Main;
  const int thread = static_cast<int>(threadIdx.x) - kLoadThreads, warp = thread / cuda::kWarp;
  typename Main::PipelineState state;
  Main main;
  TileCursor at;
  for (uint32_t tile = blockIdx.x; at.seek(params.tiles, static_cast<int32_t>(tile)); tile += gridDim.x) {
    Gemm::prefetch(params, at, warp);
    auto values =
        cute::partition_fragment_C(typename Main::TiledMma{}, cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>>{});
    static_assert(cute::size(values) == kValuesPerThread &&
                  std::is_same_v<decltype(typename Main::TiledMma{}.get_layoutC_TV()), Fragments>);
    const int32_t count = Gemm::A::k_tiles(params.K, at);
    if (count == 0) {
      cute::clear(values);
    } else {
      main.mma(pipeline, state, values, count, thread, shared.operands, typename Main::Params{});
      main.mma_tail(pipeline, state, count);
      state.advance(count);
    }
    params.epilogue.finish(at, values, warp, shared.strips[warp]);
  }
}

template <class Gemm>
__global__ void __launch_bounds__(kThreads, 1) multiply(const __grid_constant__ typename Gemm::Params params) {
  extern __shared__ __align__(1024) char memory[];
  auto& shared = *reinterpret_cast<SharedStorage<Gemm>*>(memory);
  const bool loads = cutlass::canonical_warp_group_idx() == 0;
  auto pipeline = make_pipeline(shared, loads);
  __syncthreads();  // the barriers are initialised
  if (loads) {
    cutlass::arch::warpgroup_reg_dealloc<kLoadRegisters>();
    load_tiles<Gemm>(params, pipeline, shared.operands);
  } else {
    cutlass::arch::warpgroup_reg_alloc<kMultiplyRegisters>();
    multiply_tiles<Gemm>(params, pipeline, shared);
  }
}

inline const Bf16* bf16(const at::Tensor& x) {
  return reinterpret_cast<const Bf16*>(x.const_data_ptr<c10::BFloat16>());
}

inline GatheredRows gathered_rows(const at::Tensor& x_ND, const Permutation& permutation) {
  return {x_ND.const_data_ptr<Element>(), static_cast<int32_t>(x_ND.size(1)),
          permutation.assignment_R.const_data_ptr<int32_t>(),
          cutlass::FastDivmod(static_cast<int>(permutation.row_NK.size(1)))};
}

inline ExpertTiles expert_tiles(const Permutation& permutation, int64_t tiles_m, int64_t tiles_n,
                                bool empty_too = false) {
  return {permutation.offsets_E.const_data_ptr<int32_t>(), static_cast<int32_t>(permutation.offsets_E.size(0)),
          static_cast<int32_t>(tiles_m), static_cast<int32_t>(tiles_n), empty_too};
}

/// Launches a grouped GEMM over at most R rows on the current stream of x's device.
template <class Gemm>
void launch(const typename Gemm::Params& params, int64_t R, const at::Tensor& x) {
  const cuda::Launch stream(x);
  constexpr int kBytes = sizeof(SharedStorage<Gemm>);
  C10_CUDA_CHECK(cudaFuncSetAttribute(multiply<Gemm>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t processors = at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  const auto blocks = static_cast<unsigned>(std::min(processors, max_tiles(params.tiles, R)));
  multiply<Gemm><<<blocks, kThreads, kBytes, stream>>>(params);
}

}  // namespace olmoe::kernels::hopper
