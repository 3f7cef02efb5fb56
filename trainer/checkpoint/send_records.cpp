#include "trainer/checkpoint/send_records.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/log.h"

namespace olmoe {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kVersion = 1;

SendState state_of_name(const std::string& name) {
  const auto& names = EnumNames<SendState>::names;
  const auto at = std::ranges::find(names, name);
  ENSURE(at != names.end(), "no state '{}'", name);
  return static_cast<SendState>(at - names.begin());
}

SendRecords parse(const std::string& text) {
  const auto json = Json::parse(text);
  ENSURE(json.at("version") == kVersion, "version {}", json.at("version").dump());
  SendRecords out;
  for (const auto& one : json.at("steps"))
    out.steps[one.at("step")] = {one.at("manifest_xxh3_128"),
                                 state_of_name(one.at("state")),
                                 one.at("tries"),
                                 one.at("last_end"),
                                 one.at("seconds"),
                                 one.at("changed")};
  if (const auto& running = json.at("running"); !running.is_null())
    out.running = ProcessIdentity{running.at("host"), running.at("boot"), running.at("pid_namespace"),
                                  running.at("pid"), running.at("start_ticks")};
  return out;
}

}  // namespace

SendRecords SendRecords::read(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::symlink_status(path, error).type() == fs::file_type::not_found) return {};
  const auto text = read_text(path);
  try {
    return parse(text);
  } catch (const std::exception& problem) {
    const auto kept = unused_name(path, "damaged");
    fs::rename(path, kept, error);
    log::warn("{} is damaged ({}){}: what it said of checkpoints that were sent is not known", path, problem.what(),
              error ? "" : " and kept as " + kept);
    return {};
  }
}

void SendRecords::write(const std::string& path) const {
  std::string lines;
  for (const auto& [step, record] : steps) {
    const Json one{{"step", step},
                   {"state", enum_name(record.state)},
                   {"tries", record.tries},
                   {"last_end", record.last_end},
                   {"seconds", record.seconds},
                   {"changed", record.changed},
                   {"manifest_xxh3_128", record.manifest_hash}};
    lines += (lines.empty() ? "\n" : ",\n") + one.dump();
  }
  Json command;
  if (running)
    command = {{"host", running->host},
               {"boot", running->boot},
               {"pid_namespace", running->pid_namespace},
               {"pid", running->pid},
               {"start_ticks", running->start_ticks}};
  write_text_atomic(
      path, fmt::format("{{\"version\":{},\"running\":{},\"steps\":[{}\n]}}\n", kVersion, command.dump(), lines));
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&now, &parts));
  return text.data();
}

}  // namespace olmoe
