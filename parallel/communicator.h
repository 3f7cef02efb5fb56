#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

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
/// This class checks arguments, keeps the trace of the last 64 calls, counts traffic and serves groups
/// of one; a back end implements the private part. A communicator owns no stream: it enqueues on the
/// caller's current stream. Sums run in rank order, so all back ends agree bit for bit.
class Communicator {
 public:
  Communicator(std::string name, int rank, int size);
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }

  /// out [size*n] receives in [n] of every rank, in rank order. `in` may be rank's own part of `out`.
  void all_gather(at::Tensor out, const at::Tensor& in);
  /// out [n] = sum over ranks of their in [size*n], part `rank`, added in out's dtype (in may be bf16).
  void reduce_scatter(at::Tensor out, const at::Tensor& in);
  void all_reduce(at::Tensor inout, Reduce op = Reduce::sum);
  /// Rows along dim 0: send[r] rows of `in` go to rank r, recv[r] rows of `out` come from it.
  void all_to_all(at::Tensor out, const at::Tensor& in, const std::vector<int64_t>& recv,
                  const std::vector<int64_t>& send);
  void broadcast(at::Tensor inout, int root);
  void barrier();
  /// Ranks of equal `color` form a group, ordered by (key, rank). Collective.
  std::unique_ptr<Communicator> split(int color, int key, std::string name);
  /// Ends the whole job, without waiting for the other ranks.
  virtual void abort(int exit_code) = 0;

  Traffic traffic() const { return traffic_; }
  /// The last 64 calls, newest last, one a line: sequence number, kind, dtype, elements, finished or not.
  std::string trace() const;
};

/// The group of one, which needs no back end and no launcher.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace olmoe
