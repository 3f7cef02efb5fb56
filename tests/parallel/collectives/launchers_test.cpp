// Launchers that started more ranks than joined.
#include "parallel/collectives/launchers.h"

#include <map>

#include "core/error.h"
#include "support/catch.h"
#include "support/variables.h"

using namespace olmoe;

namespace {

/// What a process says that joined `joined` ranks; empty: nothing.
std::string refusal(const Variables& variables, int joined) {
  try {
    check_all_joined(environment(variables), joined, "Open MPI v4.1.4");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

std::string mixture(const Variables& variables) {
  try {
    refuse_mixed_launchers(environment(variables));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("more ranks started than joined: refused, with the name of the launcher") {
  const std::map<std::string, std::string> launchers{{"OMPI_COMM_WORLD_SIZE", "mpirun of Open MPI"},
                                                     {"PMI_SIZE", "mpirun of MPICH or Intel MPI"},
                                                     {"MV2_COMM_WORLD_SIZE", "mpirun of MVAPICH"},
                                                     {"SLURM_STEP_NUM_TASKS", "srun"}};
  for (const auto& [variable, name] : launchers) {
    const auto text = refusal({{variable, "4"}}, 1);
    CHECK_THAT(text, Catch::StartsWith(variable + "=4: " + name) && Catch::Contains("started 4 ranks") &&
                         Catch::Contains("this one joined 1") && Catch::Contains("unset " + variable));
    CHECK(refusal({{variable, "4"}}, 4).empty());
    CHECK(refusal({{variable, "1"}}, 1).empty());
  }
  CHECK_THAT(refusal({{"WORLD_SIZE", "16"}, {"RANK", "3"}}, 2),
             Catch::StartsWith("WORLD_SIZE=16: torchrun started 16"));
}

TEST_CASE("a rank number above the joined ranks is refused too if no size is set") {
  CHECK_THAT(refusal({{"PMIX_RANK", "2"}}, 1), Catch::StartsWith("PMIX_RANK=2: a launcher started at least 3 ranks"));
  CHECK(refusal({{"PMIX_RANK", "0"}}, 1).empty());
  CHECK(refusal({{"PMIX_RANK", "2"}}, 3).empty());
}

TEST_CASE("variables that count something else are accepted") {
  // The daemons of mpirun on four hosts are a step of four tasks, whatever the ranks.
  CHECK(refusal({{"OMPI_COMM_WORLD_SIZE", "2"}, {"SLURM_STEP_NUM_TASKS", "4"}}, 2).empty());
  // One torchrun a host.
  CHECK(refusal({{"WORLD_SIZE", "16"}, {"RANK", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}}, 16).empty());
  CHECK(refusal({{"WORLD_SIZE", "16"}}, 1).empty());  // find_rendezvous refuses that one
  CHECK(refusal({{"SLURM_NTASKS", "8"}}, 1).empty());
  CHECK(refusal({{"PMI_SIZE", "many"}}, 1).empty());
}

TEST_CASE("torchrun inside mpirun, or mpirun inside torchrun, is refused before MPI starts") {
  const Variables ranks{{"RANK", "0"}, {"WORLD_SIZE", "16"}, {"TORCHELASTIC_RUN_ID", "x"}};
  auto inside = ranks;
  CHECK(mixture(inside).empty());
  inside["OMPI_COMM_WORLD_SIZE"] = "2";
  CHECK_THAT(mixture(inside), Catch::StartsWith("two launchers started this process: torchrun says 16 ranks") &&
                                  Catch::Contains("mpirun 2") && Catch::Contains("unset WORLD_SIZE RANK"));
  inside["OMPI_COMM_WORLD_SIZE"] = "16";  // one torchrun a rank: they join over MPI
  CHECK(mixture(inside).empty());
  inside["OMPI_COMM_WORLD_SIZE"] = "32";
  CHECK_FALSE(mixture(inside).empty());
  inside.erase("TORCHELASTIC_RUN_ID");  // a leftover of fewer ranks than run
  CHECK(mixture(inside).empty());
}

TEST_CASE("a warning names a full folder of temporary files") {
  CHECK_THAT(describe_full_temporary_folder(environment({{"TMPDIR", "/proc"}})),  // which stores nothing
             Catch::StartsWith("the folder of temporary files, /proc, has 0 bytes free: MPI keeps "));
  CHECK_THAT(describe_full_temporary_folder(environment({{"TMPDIR", "/not/there"}})), Catch::Contains("/not/there"));
  CHECK(describe_full_temporary_folder(environment({{"TMPDIR", "."}})).empty());
}

TEST_CASE("a single rank in an allocation for several is warned of, not refused") {
  CHECK_THAT(describe_idle_allocation(environment({{"SLURM_NTASKS", "8"}}), 1),
             Catch::StartsWith("one rank runs, in a Slurm allocation for 8"));
  const Variables step{{"SLURM_NTASKS", "8"}, {"SLURM_STEP_NUM_TASKS", "1"}};
  CHECK(describe_idle_allocation(environment(step), 1).empty());
  CHECK(describe_idle_allocation(environment({{"SLURM_NTASKS", "8"}}), 8).empty());
  CHECK(describe_idle_allocation(environment({}), 1).empty());
}
