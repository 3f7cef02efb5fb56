#include "parallel/collectives/rendezvous.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <memory>
#include <string_view>
#include <tuple>

#include "core/error.h"

namespace olmoe {
namespace {

std::string text_of(const Environment& environment, const char* name, const char* launcher) {
  const char* text = environment(name);
  if (text == nullptr || *text == '\0')
    throw ConfigError(fmt::format("{} started this rank, but {} is not set", launcher, name));
  return text;
}

int number_of(const char* name, std::string_view text, int least, int most) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < least || number > most)
    throw ConfigError(fmt::format("{} = \"{}\", but it must be a number from {} to {}", name, text, least, most));
  return number;
}

constexpr int kMostRanks = 1 << 20;
constexpr int kLastPort = 65535;

/// "RANK=0, WORLD_SIZE=2": those of `names` that are set.
std::string set_variables(const Environment& environment, std::initializer_list<const char*> names) {
  std::string text;
  for (const char* name : names)
    if (const char* value = environment(name)) text += fmt::format("{}{}={}", text.empty() ? "" : ", ", name, value);
  return text;
}

std::optional<Rendezvous> of_torchrun(const Environment& environment) {
  if (environment("RANK") == nullptr || environment("WORLD_SIZE") == nullptr) return {};
  const auto number = [&](const char* name, int least, int most) {
    return number_of(name, text_of(environment, name, "torchrun"), least, most);
  };
  Rendezvous meeting;
  meeting.size = number("WORLD_SIZE", 1, kMostRanks);
  if (meeting.size == 1) return {};
  meeting.rank = number("RANK", 0, meeting.size - 1);
  meeting.host = text_of(environment, "MASTER_ADDR", "torchrun");
  meeting.port = static_cast<uint16_t>(number("MASTER_PORT", 1, kLastPort));
  const char* agent = environment("TORCHELASTIC_USE_AGENT_STORE");
  meeting.launcher_serves = agent != nullptr && std::string_view(agent) == "True";
  if (const char* attempt = environment("TORCHELASTIC_RESTART_COUNT")) meeting.job += fmt::format(".{}", attempt);
  meeting.variables =
      set_variables(environment, {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"});
  meeting.alone = "unset RANK WORLD_SIZE";
  return meeting;
}

/// Slurm provides no port: this one is computed from job and step, the same on all ranks.
int port_of_step(const Environment& environment) {
  if (const char* text = environment("MASTER_PORT")) return number_of("MASTER_PORT", text, 1, kLastPort);
  constexpr int kFirst = 15000, kPorts = 15000;  // below the ephemeral ports of Linux
  constexpr int kMostJobs = 2'000'000'000;
  const auto number = [&](const char* name) {
    return number_of(name, text_of(environment, name, "srun"), 0, kMostJobs);
  };
  return kFirst + static_cast<int>((int64_t{number("SLURM_JOB_ID")} * 7 + number("SLURM_STEP_ID")) % kPorts);
}

/// Reads the variables of a step, which srun sets for the tasks that it starts. Those of the allocation (SLURM_NTASKS)
/// are also set in a batch script, where a program is one rank.
std::optional<Rendezvous> of_srun(const Environment& environment) {
  const char* tasks = environment("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr) return {};
  Rendezvous meeting;
  meeting.size = number_of("SLURM_STEP_NUM_TASKS", tasks, 1, kMostRanks);
  if (meeting.size == 1) return {};
  meeting.rank = number_of("SLURM_PROCID", text_of(environment, "SLURM_PROCID", "srun"), 0, meeting.size - 1);
  const char* host = environment("MASTER_ADDR");
  meeting.host = host != nullptr ? host : first_host(text_of(environment, "SLURM_STEP_NODELIST", "srun"));
  meeting.port = static_cast<uint16_t>(port_of_step(environment));
  meeting.variables = set_variables(environment, {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST",
                                                  "SLURM_JOB_ID", "MASTER_ADDR", "MASTER_PORT"});
  meeting.alone = "start it without srun, or with srun -n 1";
  return meeting;
}

/// Throws ConfigError if only one of the two variables that torchrun sets is there and it implies several ranks: they
/// would not be joined.
void refuse_half_set(const Environment& environment) {
  for (const auto& [name, other, least] : {std::tuple("WORLD_SIZE", "RANK", 2), std::tuple("RANK", "WORLD_SIZE", 1)}) {
    const char* text = environment(name);
    if (text == nullptr || environment(other) != nullptr || std::atoi(text) < least) continue;
    throw ConfigError(
        fmt::format("{}={} speaks of several ranks, but {} is not set: this one would train alone. unset "
                    "{} for one rank; torchrun sets both for several",
                    name, text, other, name));
  }
}

}  // namespace

Environment process_environment() {
  return [](const char* name) { return std::getenv(name); };
}

Environment copy_environment() {
  auto values = std::make_shared<std::map<std::string, std::string>>();
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) values->emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return [values](const char* name) {
    const auto found = values->find(name);
    return found == values->end() ? nullptr : found->second.c_str();
  };
}

std::optional<Rendezvous> find_rendezvous(const Environment& environment) {
  const auto meeting = of_torchrun(environment);
  if (meeting) return meeting;
  const auto step = of_srun(environment);
  if (!step) refuse_half_set(environment);
  return step;
}

int local_rank(const Environment& environment) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "LOCAL_RANK", "SLURM_LOCALID"})
    if (const char* text = environment(name)) return number_of(name, text, 0, kMostRanks);
  return 0;
}

std::string first_host(const std::string& node_list) {
  const size_t stop = node_list.find_first_of("[,");
  const std::string name = node_list.substr(0, stop);
  if (stop == std::string::npos || node_list[stop] == ',') return name;
  const size_t number_end = node_list.find_first_of("-,]", stop);
  const size_t close = node_list.find(']', stop);
  if (number_end == std::string::npos || close == std::string::npos)
    throw ConfigError(fmt::format("SLURM_STEP_NODELIST = \"{}\" has a [ without ]", node_list));
  const size_t tail_end = node_list.find_first_of(",[", close);
  const size_t tail_size = tail_end == std::string::npos ? tail_end : tail_end - close - 1;
  return name + node_list.substr(stop + 1, number_end - stop - 1) + node_list.substr(close + 1, tail_size);
}

}  // namespace olmoe
