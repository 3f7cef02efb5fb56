#include "trainer/launch.h"

#include <chrono>
#include <optional>
#include <thread>

#include "core/log.h"
#include "parallel/mpi_communicator.h"
#include "trainer/agreement.h"

namespace olmoe {
namespace {

/// Errors that every rank meets alike, each for itself: one screen should show them once.
bool is_common(ExitCode code) {
  return code == ExitCode::config || code == ExitCode::data || code == ExitCode::checkpoint ||
         code == ExitCode::non_finite;
}

void report(const std::exception& error, ExitCode code, Communicator& world) {
  const bool agreed = is_agreed(error);
  // Rank 0 speaks for all and ends the job meanwhile; where it met no error, this rank speaks after all.
  if (!agreed && is_common(code) && world.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(3));
  if (!agreed || world.rank() == 0) {
    log::error("{}", error.what());
    if (!is_common(code)) log::error("last collectives of {}:\n{}", world.name(), world.trace());
  }
  if (agreed) world.barrier();  // no rank ends the job before rank 0 has told why
}

}  // namespace

int run_launched(const std::function<ExitCode(Communicator&, const std::string&)>& body) {
  std::optional<MpiSession> session;
  if (launched_by_mpi()) session.emplace();
  const auto world = session ? session->world() : make_single_communicator();
  log::set_rank(world->rank(), world->size());
  auto code = ExitCode::internal;
  try {
    return static_cast<int>(body(*world, session ? session->library_version() : "none, one rank"));
  } catch (const Error& error) {
    code = error.code();
    report(error, code, *world);
  } catch (const std::exception& error) {
    report(error, code, *world);
  }
  if (session) world->abort(static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace olmoe
