// Logits, loss, every gradient and ten optimizer steps against Hugging Face transformers. See tests/golden/README.md.
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "core/error.h"
#include "core/files/safetensors.h"
#include "model/head.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "trainer/conversion/hf_checkpoint.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;

constexpr double kTolerance = 1e-5;  // max|ours - ref| / max|ref| of a tensor, fp32 (DESIGN section 6)
constexpr double kBalanceWeight = 0.01, kZWeight = 0.001;

/// The tensors of a reference.safetensors, as float64 or int64.
class Reference {
 public:
  explicit Reference(const std::string& folder) : file_(folder + "/reference.safetensors") {}
  at::Tensor operator[](const std::string& name) const {
    const auto& entry = file_.entry(name);
    const bool ids = entry.dtype == safetensors::Dtype::i64;
    ENSURE(ids || entry.dtype == safetensors::Dtype::f32, "{}: neither float32 nor int64", name);
    auto* bytes = const_cast<std::byte*>(file_.bytes(name).data());
    auto view = at::from_blob(bytes, entry.shape, at::TensorOptions().dtype(ids ? at::kLong : at::kFloat));
    return ids ? view.clone() : view.to(at::kDouble);
  }

 private:
  safetensors::File file_;
};

/// Largest relative error seen, and the tensor that has it. A tensor whose reference is zero must be exactly zero.
struct Worst {
  double error = 0;
  std::string name = "none";
  void compare(const std::string& what, const at::Tensor& ours, const at::Tensor& reference) {
    ENSURE(ours.numel() == reference.numel(), "{}: {} values here, {} in the reference", what, ours.numel(),
           reference.numel());
    const double scale = reference.abs().max().item<double>();
    const double gap = (ours.to(at::kDouble).flatten() - reference.flatten()).abs().max().item<double>();
    const double relative = scale > 0 ? gap / scale : gap > 0 || std::isnan(gap) ? 1e30 : 0.0;
    if (!(relative <= error)) error = std::isnan(relative) ? 1e30 : relative, name = what;
  }
};

class Parity {
 public:
  explicit Parity(const std::string& folder, std::optional<ModelConfig> model = {})
      : reference_(folder),
        model_(model ? *model : model_of(folder)),
        world_(make_single_communicator()),
        mesh_(*world_, {}),
        batch_(test::batch_of(reference_["input_ids"])),
        runner_(make_stages(model_, mesh_), mesh_, test::runner_options(at::kFloat)) {
    fill_weights(runner_.units(), HfWeights::source(folder, model_));
    fill_buffers(runner_.buffers(), folder);
  }

  Worst run() {
    check_forward();
    check_gradients("grad.", 0.0);
    check_gradients("total_grad.", 1.0);
    check_steps();
    return worst_;
  }

 private:
  static ModelConfig model_of(const std::string& folder) {
    ModelConfig defaults;
    defaults.load_balancing_weight = kBalanceWeight;
    defaults.router_z_weight = kZWeight;
    defaults.loss_chunk = 5;  // several chunks, the last one short
    return read_hf_config(folder, defaults);
  }

  double total_loss() const {
    const auto losses = runner_.totals().losses_3;
    return losses[0].item<double>() / static_cast<double>(batch_.num_targets) +
           kBalanceWeight * losses[1].item<double>() + kZWeight * losses[2].item<double>();
  }

  void pass(double aux_share) {
    runner_.reset_totals();
    for (const auto& unit : runner_.units()) unit->grad.zero_();
    runner_.train_micro_batch(batch_, loss_scale(batch_.num_targets, aux_share));
  }

  void check_forward() {
    auto& head = dynamic_cast<Head&>(runner_.last_stage());
    worst_.compare("logits", head.logits(runner_.run_to_last(batch_)), reference_["logits"]);
    pass(1.0);
    const auto losses = runner_.totals().losses_3;
    worst_.compare("loss", losses[0] / batch_.num_targets, reference_["loss"]);
    worst_.compare("lb_loss", losses[1], reference_["lb_loss"]);
    worst_.compare("z_loss", losses[2], reference_["z_loss"]);
  }

  void check_gradients(const std::string& prefix, double aux_share) {
    pass(aux_share);
    const auto grads = test::whole_params(runner_, &ShardedUnit::grad);
    for (const auto& tensor : hf_tensors(model_)) {
      if (tensor.buffer) continue;
      const auto reference = reference_[prefix + tensor.hf_name];
      worst_.compare(prefix + tensor.hf_name, grads.at(tensor.name).narrow(0, tensor.first, reference.numel()),
                     reference);
    }
  }

  void check_steps() {
    const OptimizerConfig config{.lr = 1e-3};  // betas 0.9 0.95, eps 1e-8, decay 0.1 on all, clip 1.0 are the defaults
    Optimizer optimizer(runner_.units(), config);
    auto losses = at::zeros({10}, at::kDouble);
    for (int64_t step = 1; step <= 10; ++step) {
      pass(1.0);
      losses[step - 1] = total_loss();
      optimizer.step(step, config.lr, optimizer.grad_norm(*world_));
    }
    worst_.compare("steps_loss", losses, reference_["steps_loss"]);
  }

  Reference reference_;
  const ModelConfig model_;
  std::unique_ptr<Communicator> world_;
  DeviceMesh mesh_;
  Batch batch_;
  StageRunner runner_;
  Worst worst_;
};

/// What one folder gave: its worst tensor, or the problem that kept it from being compared.
struct Outcome {
  Worst worst;
  std::string problem;
};

Outcome compare_folder(const std::string& folder) {
  try {
    return {Parity(folder).run(), ""};
  } catch (const std::exception& error) {  // the other folders have their say too
    return {{}, fmt::format("{}: {}", folder, error.what())};
  }
}

std::vector<std::string> folders() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(OLMOE_SOURCE_DIR "/tests/golden"))
    if (entry.is_directory()) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  REQUIRE(out.size() >= 12);
  if (const char* more = std::getenv("OLMOE_GOLDEN")) {
    std::istringstream list(more);
    for (std::string folder; std::getline(list, folder, ':');)
      if (!folder.empty()) out.push_back(folder);
  }
  return out;
}

}  // namespace

TEST_CASE("every golden folder equals transformers") {
  for (const auto& folder : folders()) {
    INFO(folder);
    const auto [worst, problem] = compare_folder(folder);
    CHECK(problem == "");
    if (!problem.empty()) continue;
    std::cout << fmt::format("{}: largest relative error {:.2e} ({})\n", folder, worst.error, worst.name);
    CHECK(worst.error <= kTolerance);
  }
}

TEST_CASE("a golden folder that cannot be read is named") {
  const std::string folder = OLMOE_SOURCE_DIR "/tests/golden/absent";
  CHECK(compare_folder(folder).problem.starts_with(folder + ": "));
}
