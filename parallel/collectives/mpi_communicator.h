#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// True if a launcher (mpirun, or srun with PMI) started this process. Reads the environment only:
/// a program started without one makes no MPI call.
bool launched_by_mpi();

/// MPI for the life of the program: MPI_Init_thread and MPI_Finalize. Communicators end before it
/// does. When it is unwound by an exception it aborts the job, for MPI_Finalize would wait for the
/// other ranks.
class MpiSession {
 public:
  /// Asks for MPI_THREAD_MULTIPLE, so that a watchdog may abort while its rank is inside a call.
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// All ranks that the launcher started. Collectives move host memory. Collective.
  std::unique_ptr<Communicator> world();
  /// Name and version of the MPI library, one line.
  std::string library_version() const;

 private:
  int exceptions_;
};

}  // namespace olmoe
