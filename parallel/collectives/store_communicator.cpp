#include "parallel/collectives/store_communicator.h"

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/process/threads.h"
#include "parallel/collectives/byte_communicator.h"
#include "parallel/collectives/trace_comparison.h"
#include "parallel/collectives/waiting_notice.h"

namespace olmoe {
namespace {

// Pause between two polls of a rank that waits; it doubles. (The store's own wait prints to stderr if it takes long.)
constexpr std::chrono::microseconds kFirstPause{50}, kLongestPause{50'000};
// How long the server waits at the end for ranks that have not left.
constexpr auto kAfterFailure = std::chrono::seconds(5), kFarewell = std::chrono::seconds(30);
// The server refuses values of more than 8 MiB: longer messages are sent in chunks.
constexpr int64_t kChunkBytes = 4 << 20;

/// A rank's connection to the store, shared by all of its groups. On rank 0 its end waits for the other ranks to leave.
class StoreJob {
 public:
  using Bytes = std::span<std::byte>;
  using ConstBytes = std::span<const std::byte>;

  explicit StoreJob(const Rendezvous& meeting) : meeting_(meeting) {
    connect();
    reach([&] { meet(); });
  }
  ~StoreJob() { leave(kFarewell); }
  StoreJob(const StoreJob&) = delete;
  StoreJob& operator=(const StoreJob&) = delete;

  void put(const std::string& key, ConstBytes bytes) {
    const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
    reach([&] { store_->set(path(key), std::vector<uint8_t>(data, data + bytes.size())); });
  }

  /// Waits for the value that another rank puts, and removes it. Throws Error if a rank fails meanwhile.
  void take(const std::string& key, Bytes bytes) {
    reach([&] {
      for (auto pause = kFirstPause; !exists(key); pause = std::min(2 * pause, kLongestPause)) {
        throw_if_failed();
        std::this_thread::sleep_for(pause);
      }
      const std::vector<uint8_t> value = store_->get(path(key));
      ENSURE(value.size() == bytes.size(), "{} holds {} bytes, not {}", key, value.size(), bytes.size());
      std::memcpy(bytes.data(), value.data(), value.size());
      store_->deleteKey(path(key));
    });
  }

  /// Throws Error if a rank has failed.
  void poll() {
    reach([&] { throw_if_failed(); });
  }

  /// Publishes a failure, on which all other ranks throw in their next wait, and leaves. Only the first one counts.
  void fail(int exit_code, const std::string& reason) {
    reach([&] {
      if (exists("failed")) return;
      store_->set(path("exit_code"), std::to_string(exit_code));
      store_->set(path("failed"), reason);
    });
    leave(kAfterFailure);
  }

 private:
  static c10d::TCPStoreOptions options(const Rendezvous& meeting) {
    c10d::TCPStoreOptions options;
    options.port = meeting.port;
    options.isServer = meeting.rank == 0 && !meeting.launcher_serves;
    options.waitWorkers = false;  // meet() waits, and logs for which ranks
    options.timeout = meeting.patience;
    return options;
  }

  std::string myself() const { return fmt::format("rank {} of {}", meeting_.rank, meeting_.size); }
  std::string place() const { return fmt::format("{}:{}", meeting_.host, meeting_.port); }
  std::string patience() const {
    return fmt::format("{} s", std::chrono::duration_cast<std::chrono::seconds>(meeting_.patience).count());
  }
  /// Which variables say that there are other ranks, and what to do if there are none.
  std::string reason() const {
    return fmt::format("({} in the environment say so; for one rank alone: {})", meeting_.variables, meeting_.alone);
  }

  /// Connects to the server, or starts it.
  void connect() {
    const bool serves = meeting_.rank == 0 && !meeting_.launcher_serves;
    const auto server = meeting_.launcher_serves ? "torchrun" : "rank 0";
    const WaitingNotice notice([&](int64_t waited_s) {
      return fmt::format("{} waits for {} to listen at {}: {} of {} {}", myself(), server, place(), waited_s,
                         patience(), reason());
    });
    try {
      store_ = c10::make_intrusive<c10d::TCPStore>(meeting_.host, options(meeting_));
    } catch (const c10::Error& error) {
      const std::string_view message = error.what_without_backtrace();
      throw ConfigError(fmt::format(
          "{} {} {} {}: {}", myself(),
          serves ? "cannot listen (another MASTER_PORT may be free) at" : fmt::format("did not reach {} at", server),
          place(), reason(), message.substr(0, message.find('\n'))));
    } catch (const std::system_error& error) {
      throw_no_thread("the threads of the store", error.code().message());
    }
  }

  /// Every rank registers its number; rank 0 waits for all, and logs which are missing.
  void meet() {
    // No failure is published: the others may be the ranks of another job, which continues.
    if (store_->add(here(meeting_.rank), 1) > 1)
      throw ConfigError(fmt::format("another process is {} at {} already {}", myself(), place(), reason()));
    if (meeting_.rank != 0) return;
    WaitingClock clock;
    auto pause = kFirstPause;
    for (int next = 1; next < meeting_.size;) {
      if (store_->check({here(next)})) {
        ++next;
        continue;
      }
      throw_if_failed();
      if (clock.waited() > meeting_.patience) give_up();
      clock.report([&](int64_t waited_s) {
        return fmt::format("{} waits at {} for {}: {} of {} {}", myself(), place(), missing(), waited_s, patience(),
                           reason());
      });
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, kLongestPause);
    }
  }

  [[noreturn]] void give_up() {
    const auto alone =
        fmt::format("{} waited {} at {} for {}, in vain {}", myself(), patience(), place(), missing(), reason());
    fail(static_cast<int>(ExitCode::config), alone);
    throw ConfigError(alone);
  }

  std::string here(int rank) const { return fmt::format("{}/here/{}", meeting_.job, rank); }

  /// The ranks that have not connected: "rank 3", "ranks 2-3, 7".
  std::string missing() {
    std::vector<int> ranks;
    for (int rank = 0; rank < meeting_.size; ++rank)
      if (!store_->check({here(rank)})) ranks.push_back(rank);
    return rank_list(ranks);
  }

  std::string path(const std::string& key) const { return meeting_.job + "/" + key; }

  template <class Call>
  void reach(const Call& call) {
    try {
      call();
    } catch (const c10::Error& error) {
      throw Error(fmt::format("the store at {}:{}: {}", meeting_.host, meeting_.port, error.what_without_backtrace()));
    }
  }

  bool exists(const std::string& key) { return store_->check({path(key)}); }

  void throw_if_failed() {
    if (!exists("failed")) return;
    const int code = std::atoi(store_->get_to_str(path("exit_code")).c_str());
    throw Error("another rank failed: " + store_->get_to_str(path("failed")), static_cast<ExitCode>(code));
  }

  /// The server ends with rank 0, which therefore waits for the others, for `patience` at most: they may have died.
  void leave(std::chrono::seconds patience) noexcept {
    try {
      if (store_->add(path("left"), 1) == meeting_.size) store_->set(path("all_left"), "");
      if (meeting_.rank != 0) return;
      const auto deadline = std::chrono::steady_clock::now() + patience;
      while (!exists("all_left") && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(kLongestPause);
    } catch (const std::exception&) {  // the server is gone
    }
  }

  Rendezvous meeting_;
  c10::intrusive_ptr<c10d::Store> store_;
};

class StoreCommunicator final : public ByteCommunicator {
 public:
  StoreCommunicator(std::shared_ptr<StoreJob> job, std::string path, std::string name, int rank, int size)
      : ByteCommunicator(std::move(name), rank, size), job_(std::move(job)), path_(std::move(path)) {}

  void poll() override { job_->poll(); }
  void abort(int exit_code) override {
    try {
      job_->fail(exit_code, fmt::format("{}: rank {} aborted the job with exit code {}", name(), rank(), exit_code));
    } catch (const std::exception&) {  // the server is gone, which the others notice themselves
    }
    std::_Exit(exit_code);
  }

 private:
  void exchange(std::span<const Bytes> recv, std::span<const ConstBytes> send) override {
    const auto key = [&](int from, int to, int64_t begin) {
      return fmt::format("{}{}:{}>{}+{}", path_, round_, from, to, begin);
    };
    for (int r = 0; r < size(); ++r)
      if (r != rank())
        in_chunks(send[r], [&](int64_t begin, ConstBytes chunk) { job_->put(key(rank(), r, begin), chunk); });
    for (int r = 0; r < size(); ++r)
      if (r != rank())
        in_chunks(recv[r], [&](int64_t begin, Bytes chunk) { job_->take(key(r, rank(), begin), chunk); });
    ++round_;
  }

  template <class Span, class Transfer>
  static void in_chunks(Span bytes, const Transfer& transfer) {
    for (int64_t begin = 0; begin < std::ssize(bytes); begin += kChunkBytes)
      transfer(begin, bytes.subspan(begin, std::min(kChunkBytes, std::ssize(bytes) - begin)));
  }

  std::unique_ptr<Communicator> make_part(const Part& part, std::string name) override {
    // All ranks of this group have made the same number of splits.
    std::string path = fmt::format("{}{}.{}/", path_, splits_++, part.color);
    return std::make_unique<StoreCommunicator>(job_, std::move(path), std::move(name), part.rank,
                                               static_cast<int>(part.members.size()));
  }

  std::shared_ptr<StoreJob> job_;
  std::string path_;  ///< prefix of this group's keys
  int64_t round_ = 0;
  int64_t splits_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_store_communicator(const Rendezvous& meeting) {
  return std::make_unique<StoreCommunicator>(std::make_shared<StoreJob>(meeting), "world/", "world", meeting.rank,
                                             meeting.size);
}

}  // namespace olmoe
