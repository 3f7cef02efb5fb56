#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "parallel/collectives/diagnostics.h"
#include "parallel/collectives/registered_memory.h"

namespace olmoe {

enum class Reduce { sum, max, min };

/// A group of ranks, all of which make the same calls in the same order. This class checks arguments, records each call
/// and serves groups of one; a back end (threads, MPI, TCP store, NCCL) implements the private part. Tensors are
/// contiguous and on one device; work is enqueued on the caller's current stream. Over host memory sums run in rank
/// order, so that all back ends agree bit for bit; over NCCL in the library's order, which depends on the topology
/// alone. Every call throws Error for arguments that do not fit, and where a peer is known to have failed.
class Communicator {
 public:
  Communicator(std::string name, int rank, int size);
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }

  /// out [size * n] = in [n] of every rank, in rank order; equal dtypes. `in` may be part `rank` of `out`.
  void all_gather(at::Tensor out, const at::Tensor& in);
  /// out [n] = part `rank` of the sum of all ranks' in [size * n]. The sum is taken in out's dtype, which equals in's
  /// or is a wider floating type. `out` may be part `rank` of `in`; the rest of `in` stays as it was.
  void reduce_scatter(at::Tensor out, const at::Tensor& in);
  /// inout = `op` over the ranks' inout: float64, float32, bfloat16, int64 or int32. max and min keep a NaN of any
  /// rank.
  void all_reduce(at::Tensor inout, Reduce op = Reduce::sum);
  /// Rows are along dim 0: send[r] rows of `in` go to rank r, recv[r] rows of `out` come from it, in rank order. Any
  /// dtype, the same for both. Throws Error if the counts do not add up to the rows, or `out` and `in` overlap.
  void all_to_all(at::Tensor out, const at::Tensor& in, const std::vector<int64_t>& recv,
                  const std::vector<int64_t>& send);
  /// inout = that of rank `root`; any dtype.
  void broadcast(at::Tensor inout, int root);
  /// Returns when all ranks have called it.
  void barrier();
  /// The ranks of equal `color` >= 0 as a group of their own, ordered by (key, rank). Collective over this group.
  std::unique_ptr<Communicator> split(int color, int key, std::string name);
  /// Ends the whole job without waiting for other ranks. May be called from another thread.
  virtual void abort(int exit_code) = 0;
  /// Throws Error if a peer or the back end has failed. To be called while the host waits for enqueued work.
  virtual void poll() {}

  virtual BufferRegistry& buffers() { return buffers_; }
  Diagnostics& diagnostics() { return diagnostics_; }
  const Diagnostics& diagnostics() const { return diagnostics_; }

 private:
  // The back end: called with checked arguments and, do_split apart, in groups of more than one rank.
  virtual void do_all_gather(at::Tensor& out, const at::Tensor& in) = 0;
  virtual void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) = 0;
  virtual void do_all_reduce(at::Tensor& inout, Reduce op) = 0;
  virtual void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                             const std::vector<int64_t>& send) = 0;
  virtual void do_broadcast(at::Tensor& inout, int root) = 0;
  virtual void do_barrier() = 0;
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;
  friend class StackedCommunicator;  // calls the back end of another communicator

  std::string name_;
  int rank_, size_;
  BufferRegistry buffers_;
  Diagnostics diagnostics_;
};

/// A group of one rank, without back end or launcher.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace olmoe
