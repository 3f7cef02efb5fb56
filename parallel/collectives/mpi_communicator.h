#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// True if an MPI launcher (mpirun, or srun with PMI) started this process. Reads the environment only: a program that
/// was started without one makes no MPI call.
bool launched_by_mpi();

/// MPI_Init_thread and MPI_Finalize, once in a program. It outlives its communicators. While an exception unwinds the
/// stack it aborts the job instead, because MPI_Finalize would wait for the other ranks.
class MpiSession {
 public:
  /// Asks for MPI_THREAD_MULTIPLE, so that a watchdog may abort while its rank is inside a call. Throws Error if the
  /// library does not have it. Collective over the ranks that the launcher started.
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// All ranks that the launcher started; the back end exchanges host memory. Throws Error if MPI fails. Collective
  /// over these ranks.
  std::unique_ptr<Communicator> world();
  /// Name and version of the MPI library, on one line.
  std::string library_version() const;

 private:
  int exceptions_;
};

}  // namespace olmoe
