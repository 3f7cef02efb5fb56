#include "trainer/job/launch.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "core/files/file_descriptor.h"
#include "core/log.h"
#include "parallel/agreement.h"
#include "parallel/collectives/launchers.h"
#include "parallel/collectives/mpi_communicator.h"
#include "parallel/collectives/rendezvous.h"
#include "parallel/collectives/store_communicator.h"
#include "parallel/error_text.h"
#include "trainer/job/environment.h"
#include "trainer/job/launcher_watch.h"

namespace olmoe {
namespace {

// Time for a failed rank to report its error, and for the others to reach theirs.
constexpr auto kFarewell = std::chrono::seconds(30);

/// Errors that usually occur on every rank, and are reported once. They are for the user to fix, or the disk's, and a
/// trace of collectives does not explain them.
bool is_common(const std::exception& error, ExitCode code) {
  const bool of_file = dynamic_cast<const FileError*>(&error) != nullptr ||
                       dynamic_cast<const std::filesystem::filesystem_error*>(&error) != nullptr;
  return of_file || code == ExitCode::config || code == ExitCode::data || code == ExitCode::checkpoint ||
         code == ExitCode::non_finite;
}

void report(const std::exception& error, Communicator& world) {
  const auto code = exit_code_of(error);
  if (world.size() > 1) end_within(kFarewell, code);
  const bool agreed = is_agreed(error);
  // Rank 0 reports for all and ends the job meanwhile. Where rank 0 has no error, this rank reports after the wait.
  const bool common = is_common(error, code);
  if (!agreed && common && world.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(3));
  if (!agreed || world.rank() == 0) {
    log::error("{}", error_text(error));
    if (!common && !agreed)
      log::error("last collectives of {}:\n{}", world.name(), world.diagnostics().trace()->text());
  }
  if (agreed) world.barrier();  // no rank ends the job before rank 0 has reported why
}

/// The ranks of this job, however they were started.
struct Job {
  Job() {
    if (launched_by_mpi()) {
      const auto full = describe_full_temporary_folder(process_environment());
      if (!full.empty() && local_rank(process_environment()) == 0) log::warn("{}", full);  // once a machine
      mpi.emplace();
      world = mpi->world();
      library = mpi->library_version();
    } else if (const auto meeting = find_rendezvous(process_environment())) {
      world = make_store_communicator(*meeting);
      library = "none, ranks meet over TCP";  // without the address, whose name may differ between hosts
    } else {
      world = make_single_communicator();
    }
  }

  std::optional<MpiSession> mpi;  // outlives the world
  std::unique_ptr<Communicator> world;
  std::string library = "none, one rank";
};

/// Ends this process at once: no other rank can be counted on any more.
void end_without(int launcher) {
  log::error("the launcher of this rank, process {}, has ended: so does the rank, without a save", launcher);
  std::_Exit(static_cast<int>(ExitCode::internal));
}

int run_joined(Job& job, const Environment& started_in,
               const std::function<ExitCode(Communicator&, const std::string&)>& body) {
  Communicator& world = *job.world;
  log::set_rank(world.rank(), world.size());
  auto code = ExitCode::internal;
  try {
    check_all_joined(started_in, world.size(), job.library);
    if (const auto notice = describe_idle_allocation(started_in, world.size()); !notice.empty())
      log::warn("{}", notice);
    return static_cast<int>(body(world, job.library));
  } catch (const std::exception& error) {
    code = exit_code_of(error);
    report(error, world);
  }
  if (job.mpi || world.size() > 1) world.abort(static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace

int run_launched(const std::function<ExitCode(Communicator&, const std::string&)>& body) {
  try {
    const auto started_in = copy_environment();
    refuse_mixed_launchers(started_in);
    std::optional<LauncherWatch> watch;
    if (has_launcher(started_in)) watch.emplace(end_without);
    Job job;
    return run_joined(job, started_in, body);
  } catch (const std::exception& error) {  // the ranks were not joined
    log::error("{}", error_text(error));
    return static_cast<int>(exit_code_of(error));
  }
}

}  // namespace olmoe
