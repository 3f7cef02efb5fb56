// olmoe-checkpoint export | import | inspect | verify | diff | average | upcycle
#include <malloc.h>
#include <unistd.h>

#include <cstdio>

#include "apps/command_line.h"
#include "core/version.h"
#include "trainer/conversion/comparison.h"
#include "trainer/conversion/conversions.h"
#include "trainer/conversion/model_report.h"
#include "trainer/conversion/saved_model.h"

namespace {

using namespace olmoe;

/// A subcommand's work, told of by `progress`, under the name of the command.
using Work = std::function<void(const Progress& progress)>;
struct Command {
  std::string name;
  Work work;
};

class CommandLine {
 public:
  CommandLine() {
    app.require_subcommand(1);
    app.set_version_flag("--version", fmt::format("olmoe-checkpoint {} ({})", kVersion, kGitCommit));
    app.add_flag("--progress", progress_, "show progress even where stderr is no terminal");
    app.add_flag("--ignore-unknown", ignore_unknown_, kIgnoreUnknownHelp);
    app.fallthrough();
    add_export();
    add_import();
    add_inspect();
    add_verify();
    add_diff();
    add_average();
    add_upcycle();
  }

  bool shows_progress() const { return progress_ || ::isatty(STDERR_FILENO) == 1; }
  const Command& chosen() const { return chosen_; }

  CLI::App app{
      "Converts, inspects and compares checkpoints. A CHECKPOINT is a step's folder, or a run's folder: its newest "
      "checkpoint. What is written must not exist, and is there complete or not at all."};

 private:
  CLI::App* add(const char* name, const char* text, Work work) {
    auto* command = app.add_subcommand(name, text);
    command->callback([this, name, work = std::move(work)] { chosen_ = {name, work}; });
    return command;
  }

  void add_export() {
    auto* command = add("export", "Writes a Hugging Face folder.", [this](const Progress& progress) {
      export_.dtype = export_dtype();
      export_model(source_, target_, export_, progress, unknown());
    });
    command->add_option("checkpoint", source_, "what to export")->required();
    command->add_option("folder", target_, "folder to write")->required();
    command->add_option("--dtype", dtype_, "of the weights: float32, bfloat16 or float16")
        ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
        ->capture_default_str();
    command->add_option("--max-shard-size", export_.max_shard_bytes, "bytes of a file, as 5GB; 5GB if not given")
        ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
        ->check(CLI::PositiveNumber);
    command->add_option("--tokenizer", export_.tokenizer, "tokenizer.json, or a folder with one, to be copied");
    command->add_option("--eos-id", export_.eos_id, "id of the token that ends a text");
  }

  void add_import() {
    auto* command = add("import", "Writes a checkpoint of the weights of a Hugging Face folder.",
                        [this](const Progress& progress) { import_model(source_, target_, progress); });
    command->add_option("folder", source_, "Hugging Face folder")->required();
    command->add_option("checkpoint", target_, "step folder to write, for train.init_from")->required();
  }

  void add_inspect() {
    auto* command = add("inspect", "Prints what is in a checkpoint or Hugging Face folder.", [this](const Progress&) {
      std::fputs(describe(open_model(source_, unknown()), list_tensors_).c_str(), stdout);
    });
    command->add_option("checkpoint", source_, "what to look at")->required();
    command->add_flag("--tensors", list_tensors_, "list every tensor");
  }

  void add_verify() {
    auto* command = add("verify", "Reads every byte of a checkpoint and compares the hashes.",
                        [this](const Progress& progress) { verify(progress); });
    command->add_option("checkpoint", source_, "what to verify")->required();
  }

  void add_diff() {
    auto* command = add("diff", "Compares configs and values of two models.", [this](const Progress& progress) {
      const auto a = open_model(sources_.at(0), unknown()), b = open_model(sources_.at(1), unknown());
      std::fputs(describe(compare_models(a, b, progress), top_).c_str(), stdout);
    });
    command->add_option("models", sources_, "checkpoints or Hugging Face folders")->required()->expected(2);
    command->add_option("--top", top_, "differences of values to print")->capture_default_str();
  }

  void add_average() {
    auto* command = add("average", "Writes a checkpoint of the mean of several models' weights.",
                        [this](const Progress& progress) { average_models(target_, sources_, progress, unknown()); });
    command->add_option("out", target_, "step folder to write")->required();
    command->add_option("checkpoints", sources_, "what to average")->required()->expected(1, 1 << 20);
  }

  void add_upcycle() {
    auto* command =
        add("upcycle", "Writes a checkpoint of a model with experts, made from a dense model.",
            [this](const Progress& progress) { upcycle_model(source_, target_, upcycling_, progress, unknown()); });
    command->add_option("source", source_, "dense checkpoint or Hugging Face folder")->required();
    command->add_option("out", target_, "step folder to write")->required();
    command->add_option("--experts", upcycling_.experts, "experts of a block")->required();
    command->add_option("--top-k", upcycling_.top_k, "experts that a token chooses")->required();
    command->add_option("--expert-width", upcycling_.expert_width,
                        "hidden width of an expert, which divides the dense one; that if not given");
    command->add_option("--seed", upcycling_.seed, "of the router and the noise")->capture_default_str();
    command->add_option("--noise", upcycling_.noise, "share of the experts' weights that are drawn anew, by model.init")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
  }

  UnknownKeys unknown() const { return ignore_unknown_ ? UnknownKeys::ignored : UnknownKeys::refused; }

  safetensors::Dtype export_dtype() const {
    if (dtype_ == "bfloat16") return safetensors::Dtype::bf16;
    return dtype_ == "float16" ? safetensors::Dtype::f16 : safetensors::Dtype::f32;
  }

  void verify(const Progress& progress) const {
    const auto model = open_model(source_, unknown());
    if (!model.verify)
      throw ConfigError(fmt::format("{}: a Hugging Face folder has no hashes to compare with", source_));
    model.verify(progress);
    fmt::print("{}: every hash is right\n", model.folder);
  }

  Command chosen_;
  bool progress_ = false, list_tensors_ = false, ignore_unknown_ = false;
  size_t top_ = 10;
  std::string source_, target_, dtype_ = "float32";
  std::vector<std::string> sources_;
  ExportOptions export_;
  Upcycling upcycling_;
};

/// A signal that comes meanwhile ends the program once what was begun is removed.
void run(const Command& command, bool shows_progress) {
  const HeldSignals signals;
  ProgressLine line(command.name, shows_progress);
  command.work([&](int64_t done_bytes, int64_t all_bytes) {
    signals.check();
    line.update(done_bytes, all_bytes);
  });
}

}  // namespace

int main(int argc, char* argv[]) {
  // Pieces are mapped, and unmapped when they are freed. On its heap glibc 2.36 finds no place for an aligned piece
  // where one was freed, and the heap grows to gigabytes.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  CommandLine line;
  if (const auto code = parse_command_line(line.app, argc, argv)) return *code;
  try {
    run(line.chosen(), line.shows_progress());
    return static_cast<int>(ExitCode::ok);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(ExitCode::internal);
  }
}
