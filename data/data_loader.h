#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "data/batch.h"
#include "data/batch_plan.h"

namespace olmoe {

/// Where instances come from: position in the endless shuffled stream in, S token ids out.
/// Thread-safe, no state.
class InstanceSource {
 public:
  virtual ~InstanceSource() = default;
  virtual int64_t sequence_length() const = 0;
  /// Instances of one epoch.
  virtual int64_t num_instances() const = 0;
  /// Fills `out`, sequence_length() ids, with the instance at `position` >= 0.
  virtual void read(int64_t position, std::span<int64_t> out) const = 0;
  /// Hashes over what decides what read() gives, as data/fingerprint.h compares them on resume.
  virtual std::string fingerprint() const = 0;
};

class TokenDataset;
/// Files in seeded random order; shuffle false reads them in order (evaluation). `all_bytes` is a
/// hash of all that the files hold, for the fingerprint; empty: samples must do.
std::unique_ptr<InstanceSource> make_file_source(std::shared_ptr<const TokenDataset> dataset, uint64_t seed,
                                                 bool shuffle, const std::string& all_bytes = {});
/// Generated tokens that can be learned: each id follows from the one before by a seeded rule, one
/// in eight is random. Endless: one epoch.
std::unique_ptr<InstanceSource> make_synthetic_source(int64_t sequence_length, int64_t vocab_size, uint64_t seed);

/// One micro-batch: instances [position, position + count) of the stream. count may be 0, which
/// gives [0, S] tensors.
Batch make_batch(const InstanceSource& source, int64_t position, int64_t count);

/// Prepares the micro-batches of this rank ahead of time, on a thread of its own. Step s, the first is 0, covers
/// positions [s*global_batch, (s+1)*global_batch) of the stream.
class DataLoader {
 public:
  struct Plan {
    BatchPlan batches;
    int rank;
    int64_t prefetch;  ///< micro-batches kept ready
  };
  /// Starts at step `first_step`, which is all that a resumed run needs to know.
  DataLoader(std::shared_ptr<const InstanceSource> source, Plan plan, int64_t first_step);
  ~DataLoader();
  /// The next micro-batch of this rank, in order of (step, accumulation step); one with B = 0 where the rank has none.
  /// Rethrows what the thread threw.
  Batch next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace olmoe
