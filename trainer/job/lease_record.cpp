#include "trainer/job/lease_record.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <random>
#include <sstream>

#include "core/error.h"
#include "core/files/file_descriptor.h"

namespace olmoe {
namespace {

std::string local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", ::localtime_r(&now, &parts));
  return text.data();
}

std::string random_token() {
  std::random_device bits;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", bits(), bits(), bits(), bits());
}

/// Reads `word`, and marks `in` as failed where another one comes.
std::istream& skip(std::istream& in, std::string_view word) {
  std::string read;
  if (in >> read && read != word) in.setstate(std::ios::failbit);
  return in;
}

std::string read_time(std::istream& in) {
  std::string day, time;
  in >> day >> time;
  return day + " " + time;
}

/// Reads at most one byte more than a record has: a longer text is none.
std::string read_file(const std::string& path) {
  std::string text(LeaseRecord::kBytes + 1, '\0');
  text.resize(FileDescriptor(path, O_RDONLY).read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace

LeaseRecord LeaseRecord::of_this_process() {
  const auto now = local_time();
  return {this_process(), now, random_token(), 0, now};
}

std::optional<LeaseRecord> LeaseRecord::parse(std::string_view text) {
  if (text.size() != kBytes) return {};
  std::istringstream in{std::string(text)};
  LeaseRecord out;
  auto& holder = out.holder;
  skip(in, "process") >> holder.pid;
  skip(in, "on") >> holder.host;
  if (!holder.host.ends_with(',')) return {};
  holder.host.pop_back();
  skip(in, "since");
  out.since = read_time(in);
  skip(in, "boot") >> holder.boot;
  skip(in, "namespace") >> holder.pid_namespace;
  skip(in, "started") >> holder.start_ticks;
  skip(in, "token") >> out.token;
  skip(in, "renewals") >> out.renewals;
  skip(in, "last");
  out.renewed = read_time(in);
  return in ? std::optional(out) : std::nullopt;
}

std::string LeaseRecord::describe() const {
  return fmt::format("process {} on {}, since {}", holder.pid, holder.host, since);
}

std::string LeaseRecord::text() const {
  // What a renewal changes has a fixed width: a reader that meets one half done gets a record all the same.
  const auto known = [](const std::string& text) { return text.empty() ? "unknown" : text; };
  auto text =
      fmt::format("{}\nboot {} namespace {} started {}\ntoken {}\nrenewals {:012} last {}", describe(),
                  known(holder.boot), known(holder.pid_namespace), holder.start_ticks, token, renewals, renewed);
  ENSURE(text.size() < kBytes, "the record of a lease has {} bytes, more than {}", text.size(), kBytes - 1);
  text.resize(kBytes - 1, ' ');
  return text + '\n';
}

void LeaseRecord::renew() {
  ++renewals;
  renewed = local_time();
}

std::optional<std::string> read_lease(const std::string& path) {
  constexpr int kAttempts = 3;  // over NFS a file that was replaced a moment ago is stale once
  for (int attempt = 1;; ++attempt) {
    try {
      return read_file(path);
    } catch (const FileError& error) {
      if (error.reason() == ENOENT || error.reason() == ENOTDIR) return {};
      if (error.reason() != ESTALE || attempt == kAttempts) throw;
    }
  }
}

}  // namespace olmoe
