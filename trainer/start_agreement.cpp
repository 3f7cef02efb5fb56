#include "trainer/start_agreement.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fcntl.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/hash.h"
#include "core/version.h"
#include "parallel/agreement.h"
#include "parallel/collectives/trace_comparison.h"

namespace olmoe {
namespace {

constexpr char kBetween = '\x1f', kAfter = '\x1e';  // ASCII's unit and record separators, which no config contains
constexpr size_t kHashDigits = 32;

std::string text_of(const std::vector<StartFact>& facts) {
  std::string text;
  for (const auto& [name, value] : facts) text += name + kBetween + value + kAfter;
  return text;
}

std::vector<StartFact> parse_facts(const std::string& text) {
  std::vector<StartFact> facts;
  for (size_t begin = 0, end = 0; (end = text.find(kAfter, begin)) != std::string::npos; begin = end + 1) {
    const size_t middle = text.find(kBetween, begin);
    facts.push_back({text.substr(begin, middle - begin), text.substr(middle + 1, end - middle - 1)});
  }
  return facts;
}

std::string hash_of(const std::string& text) {
  Hasher hasher;
  hasher.update(std::as_bytes(std::span(text)));
  return hasher.hex();
}

bool same_everywhere(Communicator& world, const std::string& hash) {
  constexpr auto kBytes = static_cast<int64_t>(kHashDigits);
  auto own = at::zeros({kBytes}, at::kByte), all = at::zeros({kBytes * world.size()}, at::kByte);
  std::memcpy(own.data_ptr(), hash.data(), kHashDigits);
  world.all_gather(all, own);
  const auto* first = static_cast<const char*>(all.const_data_ptr());
  for (int rank = 1; rank < world.size(); ++rank)
    if (std::memcmp(first, first + rank * kBytes, kHashDigits) != 0) return false;
  return true;
}

/// Values and the ranks that have them, by lowest rank: "0.0004 on rank 0, 0.1 on ranks 1-3".
std::string describe_sides(const std::vector<std::string>& value_of_rank) {
  std::vector<std::pair<std::string, std::vector<int>>> sides;
  for (size_t rank = 0; rank < value_of_rank.size(); ++rank) {
    auto side = std::ranges::find(sides, value_of_rank[rank], [](const auto& each) { return each.first; });
    if (side == sides.end()) side = sides.insert(side, {value_of_rank[rank], {}});
    side->second.push_back(static_cast<int>(rank));
  }
  std::string text;
  for (const auto& [value, ranks] : sides)
    text += fmt::format("{}{} on {}", text.empty() ? "" : ", ", value, rank_list(ranks));
  return text;
}

/// The first of rank 0's facts that differs on some rank, with the values of all. Collective over world.
std::string describe_difference(Communicator& world, const std::vector<StartFact>& mine) {
  const auto theirs = parse_facts(share_text(world, 0, text_of(mine)));
  const auto differs = std::ranges::mismatch(theirs, mine).in1 - theirs.begin();
  auto first = at::full({1}, static_cast<int64_t>(differs), at::kLong);
  world.all_reduce(first, Reduce::min);
  const auto index = static_cast<size_t>(first.item<int64_t>());
  if (index >= theirs.size()) return "some ranks have more fields than rank 0: they run a different program";
  const bool has_it = index < mine.size() && mine[index].name == theirs[index].name;
  const auto values = gather_text(world, has_it ? mine[index].value : "not known");
  return fmt::format("{}: {}", theirs[index].name, describe_sides(values));
}

/// Size and a hash of samples of a file: its first 64 KiB, where a safetensors header is, and 16 blocks over its
/// length; or why it cannot be read.
std::string sample_file(const std::filesystem::path& path) {
  constexpr int64_t kHead = 64 << 10, kBlock = 4096, kBlocks = 16;
  try {
    const FileDescriptor file(path, O_RDONLY);
    const int64_t size = file.size_bytes();
    Hasher hasher;
    std::vector<std::byte> buffer(kHead);
    const auto add = [&](int64_t begin, size_t bytes) {
      hasher.update({buffer.data(), file.read_at(begin, std::span(buffer).first(bytes))});
    };
    add(0, kHead);
    for (int64_t block = 1; block <= kBlocks; ++block)
      add(std::max<int64_t>(0, size * block / kBlocks - kBlock), kBlock);
    return fmt::format("{} bytes, hash {}", size, hasher.hex());
  } catch (const FileError& error) {
    return error.what();
  }
}

StartFact training_tokens_fact(const Config& config, const SequenceSource& source) {
  const std::string name = "training tokens (data.paths)";
  if (config.data.synthetic) return {name, fmt::format("synthetic, hash {}", source.fingerprint())};
  const auto paths = config.data.all_paths();
  return {name, fmt::format("{} files from {}, {} sequences, hash {}", paths.size(),
                            std::filesystem::path(paths.front()).filename().string(), source.num_sequences(),
                            source.fingerprint())};
}

}  // namespace

std::vector<StartFact> config_facts(const Config& config) {
  Config copy = config;  // `fields` hands out references
  std::vector<StartFact> facts;
  visit_fields(copy, [&](const std::string& path, const ConfigField& field) {
    if (field.is_per_host) return false;
    const auto value = field.write();
    const bool is_list = value.kind == ConfigNode::Kind::list, has_parts = !field.parts().empty();
    if (is_list) facts.push_back({path, fmt::format("{} items", value.items.size())});
    if (has_parts) return true;
    if (!is_list) facts.push_back({path, value.inline_text()});
    for (size_t i = 0; i < value.items.size(); ++i)
      facts.push_back({fmt::format("{}[{}]", path, i), value.items[i].inline_text()});
    return false;
  });
  return facts;
}

void require_alike(Communicator& world, const std::vector<StartFact>& facts, const std::string& advice) {
  if (same_everywhere(world, hash_of(text_of(facts)))) return;
  const auto difference = describe_difference(world, facts);
  agree(world, [&] {
    throw ConfigError(fmt::format("the ranks of this run were not started alike: {}. {}", difference, advice));
  });
}

void agree_on_start(Communicator& world, const std::string& program, const std::string& mpi_version,
                    const Config& config) {
  std::vector<StartFact> facts{{"program", program},
                               {"version", kVersion},
                               {"commit", kGitCommit},
                               {"LibTorch", TORCH_VERSION},
                               {"MPI", mpi_version}};
  for (auto& fact : config_facts(config)) facts.push_back(std::move(fact));
  require_alike(world, facts,
                "Start the same program with the same config file and the same overrides on every rank; a host may "
                "have an older copy");
}

void agree_on_data(Communicator& world, const Config& config, const SequenceSource& source,
                   const Evaluator& evaluator) {
  std::vector<StartFact> facts{training_tokens_fact(config, source)};
  const auto sets = evaluator.fingerprints();
  facts.push_back({"evaluation sets (evaluation.paths)", std::to_string(sets.size())});
  for (size_t i = 0; i < sets.size(); ++i)
    facts.push_back({fmt::format("evaluation set {} (evaluation.paths)", i + 1),
                     fmt::format("{}, hash {}", sets[i].first, sets[i].second)});
  require_alike(world, facts, "Every rank must read the same token files: copy them again to the hosts that differ");
}

void agree_on_weights(Communicator& world, const std::string& folder) {
  std::map<std::string, std::string> files;
  std::error_code not_there;
  for (const auto& entry : std::filesystem::directory_iterator(folder, not_there))
    if (entry.path().filename() == "config.json" || entry.path().extension() == ".safetensors")
      files.emplace(entry.path().filename().string(), sample_file(entry.path()));
  std::vector<StartFact> facts{{"files of weights (train.init_from)", std::to_string(files.size())}};
  for (const auto& [name, sample] : files) facts.push_back({fmt::format("train.init_from, {}", name), sample});
  const auto advice =
      fmt::format("Every rank must start from the same weights: copy {} again to the hosts that differ", folder);
  require_alike(world, facts, advice);
}

}  // namespace olmoe
