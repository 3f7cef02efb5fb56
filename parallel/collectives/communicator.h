#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/collectives/call_trace.h"

namespace olmoe {

enum class Reduce { sum, max, min };

/// Calls and logical bytes sent by this rank, for each kind of collective.
struct Traffic {
  struct Count {
    int64_t calls = 0;
    int64_t bytes = 0;
  };
  Count all_gather, reduce_scatter, all_reduce, all_to_all, broadcast, barrier;
};

/// A group of ranks. All of them make the same calls in the same order. Tensors are contiguous.
/// This class checks arguments, keeps the trace of the last 64 calls, counts traffic and serves
/// groups of one; a back end implements the private part. A communicator owns no stream: it
/// enqueues on the caller's current stream. Over host memory sums run in rank order, so all back
/// ends agree bit for bit; over NCCL they run in the library's order, which is the same in every run
/// of one topology.
class Communicator {
 public:
  Communicator(std::string name, int rank, int size);
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }

  /// out [size*n] receives in [n] of every rank, in rank order. `in` may be rank's own part of
  /// `out`.
  void all_gather(at::Tensor out, const at::Tensor& in);
  /// out [n] = sum over ranks of their in [size*n], part `rank`, added in out's dtype (in may be
  /// bf16). `out` may be part `rank` of `in`: the rest of `in` is left as it was.
  void reduce_scatter(at::Tensor out, const at::Tensor& in);
  /// NaN of any rank survives max and min.
  void all_reduce(at::Tensor inout, Reduce op = Reduce::sum);
  /// Rows along dim 0: send[r] rows of `in` go to rank r, recv[r] rows of `out` come from it.
  void all_to_all(at::Tensor out, const at::Tensor& in, const std::vector<int64_t>& recv,
                  const std::vector<int64_t>& send);
  void broadcast(at::Tensor inout, int root);
  void barrier();
  /// Ranks of equal `color` form a group, ordered by (key, rank). Collective.
  std::unique_ptr<Communicator> split(int color, int key, std::string name);
  /// `bytes` zero bytes on `device` for what this group's collectives read and write. NCCL moves memory that it gave
  /// itself, and that is registered with the group, with fewer copies; for other back ends it is memory like any. Goes
  /// with the last tensor over it. Collective, with the same arguments.
  at::Tensor allocate(int64_t bytes, c10::Device device);
  /// Says that this group's collectives will use memory which allocate() of another group gave. Collective.
  void enroll(const at::Tensor& memory);
  /// Does `work`, in which these ranks wait for each other outside of the calls above, as a call of the trace.
  void traced(Collective kind, const std::function<void()>& work);
  /// Ends the whole job, without waiting for the other ranks.
  virtual void abort(int exit_code) = 0;
  /// For one who waits for work that was enqueued: throws if the back end knows that it cannot end well.
  virtual void poll() {}

  Traffic traffic() const { return traffic_; }
  /// The last 64 calls of this rank in all of its groups, newest last, one a line: sequence number, kind, dtype,
  /// elements, finished or not. May be called from another thread.
  std::string trace() const { return trace_->text(); }
  /// The same for a watchdog, which may outlive this.
  std::shared_ptr<const CallTrace> shared_trace() const { return trace_; }

 protected:
  /// For a back end that stands on another one: one order of all calls of this rank.
  void join_trace_of(const Communicator& other) { trace_ = other.trace_; }

 private:
  // The back end. Called with checked arguments and, but for do_split, in groups of more than one.
  virtual void do_all_gather(at::Tensor& out, const at::Tensor& in) = 0;
  virtual void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) = 0;
  virtual void do_all_reduce(at::Tensor& inout, Reduce op) = 0;
  virtual void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                             const std::vector<int64_t>& send) = 0;
  virtual void do_broadcast(at::Tensor& inout, int root) = 0;
  virtual void do_barrier() = 0;
  virtual at::Tensor do_allocate(int64_t bytes, c10::Device device);
  virtual void do_enroll(const at::Tensor&) {}
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;

  friend class StackedCommunicator;  // which calls another's back end

  void check_tensor(const at::Tensor& tensor, const char* call) const;
  void check_pair(const at::Tensor& out, const at::Tensor& in, const char* call) const;
  void check_rows(const at::Tensor& tensor, const std::vector<int64_t>& rows, const char* what) const;

  std::string name_;
  int rank_;
  int size_;
  Traffic traffic_;
  std::shared_ptr<CallTrace> trace_;  ///< shared with the groups that were split off
};

/// The group of one, which needs no back end and no launcher.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace olmoe
