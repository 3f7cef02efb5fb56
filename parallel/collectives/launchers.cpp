#include "parallel/collectives/launchers.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <string_view>

#include "core/error.h"

namespace olmoe {
namespace {

/// A launcher, and the variable that it sets to the number of ranks that it started.
struct Launcher {
  const char* size;
  const char* name;
  const char* advice;
};

constexpr auto kOwnMpi =
    "start with the mpirun of the MPI library that this program is linked with, or with srun "
    "--mpi=pmix, srun or torchrun";
constexpr std::array kLaunchers{
    Launcher{"OMPI_COMM_WORLD_SIZE", "mpirun of Open MPI", kOwnMpi},
    Launcher{"PMI_SIZE", "mpirun of MPICH or Intel MPI, or srun --mpi=pmi2", kOwnMpi},
    Launcher{"MV2_COMM_WORLD_SIZE", "mpirun of MVAPICH", kOwnMpi},
    Launcher{"SLURM_STEP_NUM_TASKS", "srun", "start with srun --mpi=pmix, or srun --mpi=none"},
    Launcher{"WORLD_SIZE", "torchrun", "start with torchrun alone, or with mpirun or srun alone"}};

/// The number in a variable; -1 if it is not set or no number.
int number_in(const Environment& environment, const char* name) {
  const char* text = environment(name);
  if (text == nullptr) return -1;
  int number = -1;
  const auto end = text + std::string_view(text).size();
  const auto result = std::from_chars(text, end, number);
  return result.ec == std::errc{} && result.ptr == end ? number : -1;
}

/// Ranks that `launcher` started; -1 if its variable is not set.
int started_by(const Environment& environment, const Launcher& launcher) {
  const std::string_view size = launcher.size;
  // mpirun starts its daemons as a step of Slurm, one task for each host, and ranks inherit the variables of that step.
  if (size == "SLURM_STEP_NUM_TASKS" && environment("OMPI_COMM_WORLD_SIZE") != nullptr) return -1;
  if (size == "WORLD_SIZE" && environment("RANK") == nullptr) return -1;
  return number_in(environment, launcher.size);
}

/// Ranks of the MPI job that this process was started in; -1 if no variable is set.
int ranks_of_mpi(const Environment& environment) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"})
    if (const int ranks = number_in(environment, name); ranks > 0) return ranks;
  return -1;
}

}  // namespace

void refuse_mixed_launchers(const Environment& environment) {
  const int of_torchrun = started_by(environment, kLaunchers.back()), of_mpi = ranks_of_mpi(environment);
  if (of_torchrun <= 1 || of_mpi < 0) return;
  const bool agent = environment("TORCHELASTIC_RUN_ID") != nullptr;
  if (of_torchrun <= of_mpi && !(agent && of_torchrun != of_mpi)) return;
  throw ConfigError(fmt::format(
      "two launchers started this process: torchrun says {} ranks (WORLD_SIZE, RANK), mpirun {}. Start with one of "
      "them; where WORLD_SIZE and RANK are left over from something else: unset WORLD_SIZE RANK",
      of_torchrun, of_mpi));
}

void check_all_joined(const Environment& environment, int joined, const std::string& library) {
  for (const auto& launcher : kLaunchers)
    if (const int started = started_by(environment, launcher); started > joined)
      throw ConfigError(
          fmt::format("{}={}: {} started {} ranks, but this one joined {} (MPI: {}). Each would train "
                      "alone, in one run.folder: {}; for one rank alone, unset {}",
                      launcher.size, started, launcher.name, started, joined, library, launcher.advice, launcher.size));
  for (const char* name : {"PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"})
    if (const int rank = number_in(environment, name); rank >= joined)
      throw ConfigError(
          fmt::format("{}={}: a launcher started at least {} ranks, but this one joined {} (MPI: {}). "
                      "Each would train alone, in one run.folder: {}; for one rank alone, unset {}",
                      name, rank, rank + 1, joined, library, kOwnMpi, name));
}

std::string describe_idle_allocation(const Environment& environment, int joined) {
  const int tasks = number_in(environment, "SLURM_NTASKS");
  if (joined > 1 || tasks <= 1 || environment("SLURM_STEP_NUM_TASKS") != nullptr) return {};
  return fmt::format(
      "one rank runs, in a Slurm allocation for {} (SLURM_NTASKS): srun or mpirun before the program "
      "starts them all",
      tasks);
}

std::string describe_full_temporary_folder(const Environment& environment) {
  constexpr uintmax_t kSession = 1 << 20;  // of two ranks: 0.3 MiB
  const char* folder = environment("TMPDIR");
  if (folder == nullptr || *folder == '\0') folder = "/tmp";
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  if (!error && space.available >= kSession) return {};
  return fmt::format(
      "the folder of temporary files, {}, {}: MPI keeps its session there, and may not start. Free some "
      "space, or name another folder in TMPDIR",
      folder, error ? error.message() : fmt::format("has {} bytes free", space.available));
}

}  // namespace olmoe
