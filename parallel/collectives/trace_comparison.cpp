#include "parallel/collectives/trace_comparison.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

namespace olmoe {
namespace {

constexpr const char* kEnd = "end";

/// Orders ranks by their last call: a call that a rank waits in comes before the same call finished.
int64_t progress(const RankTrace& rank) {
  if (rank.calls.empty()) return -1;
  const TracedCall& last = rank.calls.back();
  return 2 * last.sequence + (last.finished ? 1 : 0);
}

std::string name_of_rank(const RankTrace& rank) {
  return fmt::format("rank {} ({}, pid {})", rank.rank, rank.host, rank.pid);
}

/// What is equal on all ranks that make the same call. The rows of an all_to_all may differ.
std::string common_part(const TracedCall& call) {
  const bool uneven = call.what.find(".all_to_all ") != std::string::npos;
  return uneven ? call.what : fmt::format("{} {}", call.what, call.elements);
}

std::string where_is(const RankTrace& rank) {
  if (rank.calls.empty()) return "made no call yet";
  const TracedCall& last = rank.calls.back();
  const auto call = fmt::format("#{} {}", last.sequence, common_part(last));
  return last.finished ? fmt::format("in no call; finished {}", call) : fmt::format("waiting in {}", call);
}

std::string since(const std::vector<const RankTrace*>& ranks) {
  double least = ranks.front()->calls.back().since_s, most = least;
  for (const auto* rank : ranks) {
    least = std::min(least, rank->calls.back().since_s);
    most = std::max(most, rank->calls.back().since_s);
  }
  const bool same = fmt::format("{:.1f}", least) == fmt::format("{:.1f}", most);
  return same ? fmt::format("{:.1f} s", most) : fmt::format("{:.1f} to {:.1f} s", least, most);
}

std::string describe_place(const std::string& place, const std::vector<const RankTrace*>& ranks) {
  std::vector<int> numbers;
  for (const auto* rank : ranks) numbers.push_back(rank->rank);
  const auto who = ranks.size() == 1 ? name_of_rank(*ranks.front()) : rank_list(numbers);
  if (ranks.front()->calls.empty()) return fmt::format("  {}: {}\n", who, place);
  const bool finished = ranks.front()->calls.back().finished;
  return fmt::format("  {}: {} {}\n", who, place, finished ? since(ranks) + " ago" : "for " + since(ranks));
}

using Places = std::map<std::pair<int64_t, std::string>, std::vector<const RankTrace*>>;

Places places_of(const std::vector<RankTrace>& ranks) {
  Places places;
  for (const auto& rank : ranks) places[{progress(rank), where_is(rank)}].push_back(&rank);
  return places;
}

std::string describe_silent(const SilentRank& silent) {
  if (!silent.last) return fmt::format("  rank {}: silent, and left no trace\n", silent.rank);
  return fmt::format("  {}: silent; when last heard of, {}\n", name_of_rank(*silent.last), where_is(*silent.last));
}

/// The first sequence number at which ranks made different calls; empty if there is none.
std::string first_difference(const std::vector<RankTrace>& ranks) {
  std::map<int64_t, std::map<std::string, std::vector<int>>> calls;
  for (const auto& rank : ranks)
    for (const auto& call : rank.calls) calls[call.sequence][common_part(call)].push_back(rank.rank);
  for (const auto& [sequence, versions] : calls) {
    if (versions.size() < 2) continue;
    std::vector<std::string> sides;
    for (const auto& [call, who] : versions) sides.push_back(fmt::format("{} on {}", call, rank_list(who)));
    return fmt::format("call #{} is not the same on all ranks: {}\n", sequence, fmt::join(sides, "; "));
  }
  return {};
}

std::string advice(const Places& places, const std::vector<SilentRank>& silent) {
  std::vector<int> suspects;
  for (const auto& each : silent) suspects.push_back(each.rank);
  if (!suspects.empty())
    return fmt::format("look at {} first: stopped, dead, or on a machine that is out of reach\n", rank_list(suspects));
  if (places.size() == 1)
    return "all ranks are at the same place: look at what joins them, or at what they all wait for\n";
  for (const auto* rank : places.begin()->second) suspects.push_back(rank->rank);
  return fmt::format("look at {} first: the others have come further\n", rank_list(suspects));
}

}  // namespace

std::string RankTrace::text() const {
  auto out = fmt::format("rank {} host {} pid {} beat {}\n", rank, host, pid, beat);
  for (const auto& call : calls) out += fmt::format("{} {:.3f}\n", call.text(), call.since_s);
  return out + kEnd + "\n";
}

std::optional<RankTrace> RankTrace::parse(const std::string& text) {
  std::istringstream in(text);
  std::string rank_word, host_word, pid_word, beat_word, word;
  RankTrace out;
  in >> rank_word >> out.rank >> host_word >> out.host >> pid_word >> out.pid >> beat_word >> out.beat;
  if (!in || rank_word != "rank" || host_word != "host" || pid_word != "pid" || beat_word != "beat") return {};
  while (in >> word && word != kEnd) {
    TracedCall call{};
    std::string dtype, state;
    in >> call.what >> dtype >> call.elements >> state >> call.since_s;
    if (!in || word.size() < 2 || word[0] != '#' || (state != "finished" && state != "entered")) return {};
    std::istringstream(word.substr(1)) >> call.sequence;
    call.what += " " + dtype;
    call.finished = state == "finished";
    out.calls.push_back(call);
  }
  if (word != kEnd) return {};
  return out;
}

std::string compare_traces(const std::vector<RankTrace>& ranks, const std::vector<SilentRank>& silent) {
  const auto places = places_of(ranks);
  auto known = ranks;
  std::string out;
  for (const auto& each : silent) {
    out += describe_silent(each);
    if (each.last) known.push_back(*each.last);
  }
  for (const auto& [key, who] : places) out += describe_place(key.second, who);
  return out + first_difference(known) + advice(places, silent);
}

std::string rank_list(const std::vector<int>& ranks) {
  std::vector<std::string> runs;
  for (size_t begin = 0, end = 0; begin < ranks.size(); begin = end) {
    for (end = begin + 1; end < ranks.size() && ranks[end] == ranks[end - 1] + 1;) ++end;
    const bool alone = end == begin + 1;
    runs.push_back(alone ? std::to_string(ranks[begin]) : fmt::format("{}-{}", ranks[begin], ranks[end - 1]));
  }
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(runs, ", "));
}

}  // namespace olmoe
