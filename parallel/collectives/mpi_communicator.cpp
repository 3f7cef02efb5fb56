#include "parallel/collectives/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <utility>

#include "core/error.h"
#include "parallel/collectives/byte_communicator.h"

namespace olmoe {
namespace {

// MPI counts elements in an int: longer messages are sent in chunks.
constexpr int64_t kChunkBytes = int64_t{1} << 30;

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Error(fmt::format("{}: {}", call, std::string_view(text.data(), length)));
}

class MpiCommunicator final : public ByteCommunicator {
 public:
  /// Owns `comm`.
  MpiCommunicator(MPI_Comm comm, std::string name)
      : ByteCommunicator(std::move(name), rank_of(comm), size_of(comm)), comm_(comm) {
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiCommunicator() override { MPI_Comm_free(&comm_); }

  void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  static int rank_of(MPI_Comm comm) {
    int rank = 0;
    check(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
    return rank;
  }

  static int size_of(MPI_Comm comm) {
    int size = 0;
    check(MPI_Comm_size(comm, &size), "MPI_Comm_size");
    return size;
  }

  void exchange(std::span<const Bytes> recv, std::span<const ConstBytes> send) override {
    std::vector<MPI_Request> requests;
    auto in_chunks = [](auto bytes, auto&& transfer) {
      for (int64_t done = 0; done < std::ssize(bytes); done += kChunkBytes) {
        transfer(bytes.data() + done, static_cast<int>(std::min(kChunkBytes, std::ssize(bytes) - done)));
      }
    };
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      in_chunks(recv[r], [&](std::byte* data, int count) {
        check(MPI_Irecv(data, count, MPI_BYTE, r, 0, comm_, &requests.emplace_back()), "MPI_Irecv");
      });
    }
    // Each rank sends to its right neighbour first, so that not all send to rank 0 at once.
    for (int step = 1; step < size(); ++step) {
      const int r = (rank() + step) % size();
      in_chunks(send[r], [&](const std::byte* data, int count) {
        check(MPI_Isend(data, count, MPI_BYTE, r, 0, comm_, &requests.emplace_back()), "MPI_Isend");
      });
    }
    check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
  }

  std::unique_ptr<Communicator> make_part(const Part& part, std::string name) override {
    MPI_Comm comm = MPI_COMM_NULL;
    check(MPI_Comm_split(comm_, part.color, /*key=*/part.rank, &comm), "MPI_Comm_split");
    return std::make_unique<MpiCommunicator>(comm, std::move(name));
  }

  MPI_Comm comm_;
};

}  // namespace

bool launched_by_mpi() {
  constexpr std::array kLauncherVariables{"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE", "PMI_RANK"};
  return std::ranges::any_of(kLauncherVariables, [](const char* name) { return std::getenv(name) != nullptr; });
}

MpiSession::MpiSession() : exceptions_(std::uncaught_exceptions()) {
  constexpr int kNeeded = MPI_THREAD_MULTIPLE;
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, kNeeded, &provided), "MPI_Init_thread");
  ENSURE(provided == kNeeded, "{} offers thread level {}, we need {}", library_version(), provided, kNeeded);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_) MPI_Abort(MPI_COMM_WORLD, 1);
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiSession::world() {
  MPI_Comm copy = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(copy, "world");
}

std::string MpiSession::library_version() const {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  check(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
  const std::string_view version(text.data(), length);
  return std::string(version.substr(0, version.find(',')));
}

}  // namespace olmoe
