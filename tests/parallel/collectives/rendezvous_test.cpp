#include "parallel/collectives/rendezvous.h"

#include <cstdlib>

#include "core/error.h"
#include "support/catch.h"
#include "support/variables.h"

using namespace olmoe;

namespace {

std::string refusal(const Variables& variables) {
  try {
    find_rendezvous(environment(variables));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

const Variables kTorchrun{
    {"RANK", "3"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}};
const Variables kSrun{
    {"SLURM_PROCID", "5"},      {"SLURM_NTASKS", "8"},  {"SLURM_STEP_NUM_TASKS", "8"},           {"SLURM_LOCALID", "1"},
    {"SLURM_JOB_ID", "123456"}, {"SLURM_STEP_ID", "2"}, {"SLURM_STEP_NODELIST", "gpu[07-08,11]"}};

}  // namespace

TEST_CASE("the rendezvous is read from torchrun's variables") {
  auto variables = kTorchrun;
  auto meeting = find_rendezvous(environment(variables)).value();
  CHECK(meeting.host == "node1");
  CHECK(meeting.port == 29500);
  CHECK(meeting.rank == 3);
  CHECK(meeting.size == 8);
  CHECK_FALSE(meeting.launcher_serves);
  CHECK(local_rank(environment(variables)) == 1);

  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  variables["TORCHELASTIC_RESTART_COUNT"] = "2";
  const auto second = find_rendezvous(environment(variables)).value();
  CHECK(second.launcher_serves);
  CHECK(second.job != meeting.job);
}

TEST_CASE("the rendezvous is read from srun's variables, the same on all ranks") {
  auto variables = kSrun;
  const auto meeting = find_rendezvous(environment(variables)).value();
  CHECK(meeting.host == "gpu07");
  CHECK(meeting.rank == 5);
  CHECK(meeting.size == 8);
  CHECK(meeting.port == 15000 + (123456 * 7 + 2) % 15000);
  CHECK(local_rank(environment(variables)) == 1);
  variables["SLURM_PROCID"] = "0";
  CHECK(find_rendezvous(environment(variables)).value().port == meeting.port);
  variables["MASTER_ADDR"] = "10.0.0.1";
  variables["MASTER_PORT"] = "4000";
  CHECK(find_rendezvous(environment(variables)).value().host == "10.0.0.1");
  CHECK(find_rendezvous(environment(variables)).value().port == 4000);
}

TEST_CASE("one rank needs no rendezvous") {
  CHECK_FALSE(find_rendezvous(environment({})).has_value());
  CHECK(local_rank(environment({})) == 0);
  auto torchrun = kTorchrun;
  torchrun["WORLD_SIZE"] = "1";
  CHECK_FALSE(find_rendezvous(environment(torchrun)).has_value());
  // In a batch script, beside whatever the allocation holds.
  const Variables batch{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}};
  CHECK_FALSE(find_rendezvous(environment(batch)).has_value());
}

TEST_CASE("a variable that is missing or no number is named") {
  for (const char* name : {"MASTER_ADDR", "MASTER_PORT"}) {
    auto variables = kTorchrun;
    variables.erase(name);
    CHECK(refusal(variables) == fmt::format("torchrun started this rank, but {} is not set", name));
  }
  for (const char* name : {"SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"}) {
    auto variables = kSrun;
    variables.erase(name);
    CHECK(refusal(variables) == fmt::format("srun started this rank, but {} is not set", name));
  }
  auto variables = kTorchrun;
  variables["RANK"] = "8";
  CHECK(refusal(variables) == "RANK = \"8\", but it must be a number from 0 to 7");
  variables["RANK"] = "1x";
  CHECK(refusal(variables) == "RANK = \"1x\", but it must be a number from 0 to 7");
}

TEST_CASE("only one of RANK and WORLD_SIZE is refused if it implies several ranks") {
  CHECK_THAT(refusal({{"WORLD_SIZE", "2"}}),
             Catch::StartsWith("WORLD_SIZE=2 speaks of several ranks, but RANK is not") &&
                 Catch::Contains("unset WORLD_SIZE for one rank"));
  CHECK_THAT(refusal({{"RANK", "1"}}), Catch::StartsWith("RANK=1 speaks of several ranks, but WORLD_SIZE is not"));
  for (const Variables& harmless :
       {Variables{{"WORLD_SIZE", "1"}}, Variables{{"RANK", "0"}}, Variables{{"MASTER_ADDR", "node1"}}})
    CHECK(refusal(harmless) == "none");
  auto step = kSrun;  // srun sets all that is needed
  step["WORLD_SIZE"] = "2";
  CHECK(refusal(step) == "none");
}

TEST_CASE("a rendezvous has the variables that it was read from, and how to start one rank instead") {
  const auto torchrun = find_rendezvous(environment(kTorchrun)).value();
  CHECK(torchrun.variables == "RANK=3, WORLD_SIZE=8, MASTER_ADDR=node1, MASTER_PORT=29500");
  CHECK(torchrun.alone == "unset RANK WORLD_SIZE");
  const auto srun = find_rendezvous(environment(kSrun)).value();
  CHECK_THAT(srun.variables, Catch::StartsWith("SLURM_STEP_NUM_TASKS=8, SLURM_PROCID=5"));
  CHECK_THAT(srun.alone, Catch::Contains("without srun"));
}

TEST_CASE("a copy of the environment stays as it was") {
  ::setenv("OLMOE_TEST_COPIED", "a=b", 1);
  const auto copy = copy_environment();
  ::setenv("OLMOE_TEST_COPIED", "c", 1);
  CHECK(copy("OLMOE_TEST_COPIED") == std::string("a=b"));
  ::unsetenv("OLMOE_TEST_COPIED");
  CHECK(copy("OLMOE_TEST_COPIED") == std::string("a=b"));
  CHECK(copy("OLMOE_TEST_NOT_SET") == nullptr);
}

TEST_CASE("the first host of Slurm's list") {
  CHECK(first_host("gpu07") == "gpu07");
  CHECK(first_host("gpu07,gpu08") == "gpu07");
  CHECK(first_host("gpu[07-09,12],login1") == "gpu07");
  CHECK(first_host("gpu[7,9]") == "gpu7");
  CHECK(first_host("gpu[3]-ib,gpu5-ib") == "gpu3-ib");
  CHECK_THROWS_AS(first_host("gpu[3"), ConfigError);
}
