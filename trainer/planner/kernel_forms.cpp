#include "trainer/planner/kernel_forms.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"

namespace olmoe {
namespace {

// Efficiencies of main loops at the sustained clock. Fitted to what is published of SonicMoE on an H100 with experts
// 1024 or wider, by least squares of logarithms: GEMMs with clusters of two, and weight gradients that gather along
// K.
constexpr double kClustered = 0.81, kWeightGradClustered = 0.68;
/// Share of that without clusters: 777 to 799 TFLOP/s of one large GEMM in a kernel of this kind (fast.cu).
constexpr double kAlone = 777. / 799;
/// 128 x 128 tiles, ping-pong: they would need 160 bytes a cycle of shared memory, which has 128.
constexpr double kPingPong = 0.70;

// Cycles are those of code compiled for sm_90a, from its instructions with their stall counts and scoreboards, two
// warps on a scheduler: what a multiprocessor issues, with units of a quarter of the rate for exponentials and
// conversions. Where the code is another by now, they are scaled by the number of instructions
// (docs/benchmarks/machine_code.md). Those of libraries and of other programs are guesses.

/// ATen's grouped GEMM: both operands by TMA, clusters of two along M.
constexpr TileKernel kLibrary{.efficiency = kClustered, .epilogue = 4300, .cluster = 2};
/// A weight gradient's k-tiles are cut from an expert's rows, whose number is arbitrary.
constexpr TileKernel kLibraryGrad{.efficiency = kWeightGradClustered, .epilogue = 4300};

constexpr ExpertForm kUnfusedAdding{.name = "unfused",
                                    .state = FormState::replaced,
                                    .fused = false,
                                    .up = kLibrary,
                                    .down = kLibrary,
                                    .dz = kLibrary,
                                    .down_grad = kLibraryGrad,
                                    .up_grad = kLibraryGrad,
                                    .dx = kLibrary};

constexpr TileKernel ping_pong(int64_t columns, double efficiency, double epilogue) {
  return {.efficiency = efficiency, .epilogue = epilogue, .columns = columns, .ping_pong = true};
}

constexpr ExpertForm kSonicMoe{
    .name = "SonicMoE",
    .state = FormState::peer,
    .fused = true,
    .up = {.efficiency = kClustered, .epilogue = 5300, .cluster = 2},
    .down = kLibrary,
    .dz = {.efficiency = kPingPong, .epilogue = 8000, .columns = 128, .cluster = 2, .ping_pong = true},
    .down_grad = {.efficiency = kWeightGradClustered, .epilogue = 5000},
    .up_grad = {.efficiency = kWeightGradClustered, .epilogue = 5000},
    .dx = kLibrary,
    .gradients = Gradients::stored};

/// The fused kernels as first compiled: eight loads of row indices depend on each other, and epilogues divide.
constexpr ExpertForm serial_form() {
  ExpertForm out{.name = "fused, as first compiled",
                 .state = FormState::replaced,
                 .fused = true,
                 .up = {.efficiency = kClustered * kAlone, .epilogue = 11750, .k_tile = {543, 0}, .start = {1024, 8}},
                 .down = kLibrary,
                 .dz = {},
                 .down_grad = {.efficiency = kWeightGradClustered * kAlone,
                               .epilogue = 6500,
                               .k_tile = {804, 8},
                               .start = {1237, 8}},
                 .up_grad = {},
                 .dx = kLibrary};
  out.dz = out.up;
  out.dz.epilogue = 25150;
  out.up_grad = out.down_grad;
  out.up_grad.epilogue = 9600;
  return out;
}

constexpr ExpertForm loads_side_by_side(ExpertForm form) {
  form.name = "+ token loads side by side";
  form.up.start = form.dz.start = {1060, 1};
  form.down_grad.k_tile = form.up_grad.k_tile = {502, 1};
  form.down_grad.start = form.up_grad.start = {500, 1};
  return form;
}

constexpr ExpertForm fast_sigmoid(ExpertForm form) {
  form.name = "+ sigmoid without division, rounding in pairs";
  form.up.epilogue = 4760;
  form.dz.epilogue = 11090;
  return form;
}

constexpr ExpertForm reductions(ExpertForm form) {
  form.name = "+ weight gradients added by reductions";
  form.down_grad.epilogue = 1290;
  form.up_grad.epilogue = 2560;
  return form;
}

constexpr ExpertForm tile_counter(ExpertForm form) {
  form.name = "+ tiles by a counter";
  for (TileKernel* kernel : {&form.up, &form.down, &form.dz, &form.down_grad, &form.up_grad, &form.dx})
    kernel->counter = true;
  return form;
}

constexpr ExpertForm first_stores(ExpertForm form) {
  form.gradients = Gradients::first_stored;
  return form;
}

constexpr ExpertForm own_down_and_dx(ExpertForm form) {
  form.name = "+ down and dx by the same kernel";
  form.down = form.dx = {.efficiency = kClustered * kAlone, .epilogue = 1570, .k_tile = {313, 0}, .start = {1060, 0}};
  return form;
}

constexpr ExpertForm dz_in_turns(ExpertForm form) {
  form.name = "+ dz in two groups that take turns";
  const bool counter = form.dz.counter;
  form.dz = ping_pong(128, kPingPong, 9050);
  form.dz.counter = counter;
  return form;
}

constexpr ExpertForm grad_clusters(ExpertForm form) {
  form.name = "+ clusters for weight gradients";
  form.down_grad.efficiency = form.up_grad.efficiency = kWeightGradClustered;
  return form;
}

constexpr ExpertForm named(ExpertForm form, std::string_view name) {
  form.name = name;
  return form;
}

constexpr ExpertForm with_state(ExpertForm form, FormState state) {
  form.state = state;
  return form;
}

constexpr std::array kUnfused{kUnfusedAdding, with_state(first_stores(kUnfusedAdding), FormState::built)};

constexpr ExpertForm kSerial = serial_form(), kLoads = loads_side_by_side(kSerial), kSigmoid = fast_sigmoid(kLoads),
                     kReductions = reductions(kSigmoid),
                     kStores = named(first_stores(kReductions), "+ a step's first gradients stored"),
                     kOwn = with_state(own_down_and_dx(kStores), FormState::built),
                     kCounter = with_state(tile_counter(kOwn), FormState::not_built), kTurns = dz_in_turns(kCounter),
                     kClusters = grad_clusters(kTurns);
constexpr std::array kFused{kSerial, kLoads, kSigmoid, kReductions, kStores, kOwn, kCounter, kTurns, kClusters};

}  // namespace

std::span<const ExpertForm> unfused_experts() { return kUnfused; }
std::span<const ExpertForm> fused_experts() { return kFused; }
const ExpertForm& sonic_moe_experts() { return kSonicMoe; }

const TileKernel& ExpertForm::kernel_of(std::string_view gemm) const {
  const std::array<std::pair<std::string_view, const TileKernel*>, 6> kernels{{{"up", &up},
                                                                               {"down", &down},
                                                                               {"down backward", &dz},
                                                                               {"down gradient", &down_grad},
                                                                               {"up gradient", &up_grad},
                                                                               {"dx", &dx}}};
  const auto found = std::ranges::find(kernels, gemm, &std::pair<std::string_view, const TileKernel*>::first);
  ENSURE(found != kernels.end(), "no form of experts has a kernel for the GEMM {}", gemm);
  return *found->second;
}

GroupedProduct large_product() {
  constexpr int64_t kEdge = 8192;
  constexpr double kValues = kEdge * kEdge, kBf16 = 2;
  return {{"one large product", kEdge, 1, 0, kEdge, kEdge, 3 * kBf16 * kValues}, kLibrary};
}

const ExpertForm& built_experts(kernels::ExpertKernels experts) {
  const auto forms = experts == kernels::ExpertKernels::fused ? fused_experts() : unfused_experts();
  return *std::find_if(forms.begin(), forms.end(), [](auto& form) { return form.state == FormState::built; });
}

std::string_view name_of(AttentionForm form) {
  switch (form) {
    case AttentionForm::flash_deterministic:
      return "flash";
    case AttentionForm::flash:
      return "flash in any order";
    case AttentionForm::cudnn_deterministic:
      return "cudnn";
    case AttentionForm::cudnn:
      return "cudnn in any order";
  }
  throw Error("unreachable form of attention");
}

AttentionForm built_attention(kernels::AttentionKernel kernel, bool deterministic) {
  if (kernel == kernels::AttentionKernel::cudnn)
    return deterministic ? AttentionForm::cudnn_deterministic : AttentionForm::cudnn;
  return deterministic ? AttentionForm::flash_deterministic : AttentionForm::flash;
}

bool is_cudnn(AttentionForm form) { return form == AttentionForm::cudnn || form == AttentionForm::cudnn_deterministic; }

bool is_deterministic(AttentionForm form) {
  return form == AttentionForm::flash_deterministic || form == AttentionForm::cudnn_deterministic;
}

}  // namespace olmoe
