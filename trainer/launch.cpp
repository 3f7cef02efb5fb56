#include "trainer/launch.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "core/file_descriptor.h"
#include "core/log.h"
#include "parallel/mpi_communicator.h"
#include "parallel/rendezvous.h"
#include "parallel/store_communicator.h"
#include "trainer/agreement.h"
#include "trainer/environment.h"

namespace olmoe {
namespace {

// For the last words of a rank that has an error, and for the others to come as far.
constexpr auto kFarewell = std::chrono::seconds(30);

/// Errors that every rank meets alike, each for itself: one screen should show them once. They are the user's to mend,
/// or the disk's, and no calls of ranks explain them.
bool is_common(const std::exception& error, ExitCode code) {
  const bool of_file = dynamic_cast<const FileError*>(&error) != nullptr ||
                       dynamic_cast<const std::filesystem::filesystem_error*>(&error) != nullptr;
  return of_file || code == ExitCode::config || code == ExitCode::data || code == ExitCode::checkpoint ||
         code == ExitCode::non_finite;
}

void report(const std::exception& error, ExitCode code, Communicator& world) {
  if (world.size() > 1) end_within(kFarewell, code);
  const bool agreed = is_agreed(error);
  // Rank 0 speaks for all and ends the job meanwhile; where it met no error, this rank speaks after all.
  const bool common = is_common(error, code);
  if (!agreed && common && world.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(3));
  if (!agreed || world.rank() == 0) {
    log::error("{}", error.what());
    if (!common && !agreed) log::error("last collectives of {}:\n{}", world.name(), world.trace());
  }
  if (agreed) world.barrier();  // no rank ends the job before rank 0 has told why
}

/// The ranks of this job, however they were started.
struct Job {
  Job() {
    if (launched_by_mpi()) {
      mpi.emplace();
      world = mpi->world();
      library = mpi->library_version();
    } else if (const auto meeting = find_rendezvous(process_environment())) {
      world = make_store_communicator(*meeting);
      library = fmt::format("none, ranks meet at {}:{}", meeting->host, meeting->port);
    } else {
      world = make_single_communicator();
    }
  }

  std::optional<MpiSession> mpi;  // outlives the world
  std::unique_ptr<Communicator> world;
  std::string library = "none, one rank";
};

int run_joined(Job& job, const std::function<ExitCode(Communicator&, const std::string&)>& body) {
  Communicator& world = *job.world;
  log::set_rank(world.rank(), world.size());
  auto code = ExitCode::internal;
  try {
    return static_cast<int>(body(world, job.library));
  } catch (const Error& error) {
    code = error.code();
    report(error, code, world);
  } catch (const std::exception& error) {
    report(error, code, world);
  }
  if (job.mpi || world.size() > 1) world.abort(static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace

int run_launched(const std::function<ExitCode(Communicator&, const std::string&)>& body) {
  try {
    Job job;
    return run_joined(job, body);
  } catch (const Error& error) {  // the ranks did not meet
    log::error("{}", error.what());
    return static_cast<int>(error.code());
  }
}

}  // namespace olmoe
