#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/batch_plan.h"

namespace olmoe {

/// An endless stream of sequences, addressed by position. Thread-safe and stateless.
class SequenceSource {
 public:
  virtual ~SequenceSource() = default;
  virtual int64_t sequence_length() const = 0;
  /// Sequences of one epoch.
  virtual int64_t num_sequences() const = 0;
  /// Fills `out`, sequence_length() ids, with the sequence at `position` >= 0.
  virtual void read(int64_t position, std::span<int64_t> out) const = 0;
  /// The ends of the documents in the sequence at `position`, whose ids are `ids`: ascending, the last is its length.
  /// None, for every sequence alike: attention sees whole sequences.
  virtual std::vector<int32_t> document_ends(int64_t /*position*/, std::span<const int64_t> /*ids*/) const {
    return {};
  }
  /// Whether the sequence whose ids are `ids` has no loss at any position.
  virtual bool is_masked(std::span<const int64_t> /*ids*/) const { return false; }
  /// A hash of everything that read() depends on, as data/fingerprint.h compares it when a run resumes.
  virtual std::string fingerprint() const = 0;
};

class TokenDataset;
class DocumentTables;
/// The sequences of files, shuffled anew in each epoch by `seed`, or in order if not `shuffle` (evaluation).
/// `all_bytes`: a hash of all bytes of the files, for the fingerprint; empty: it has that of samples only. With
/// `tables`, which are those of the dataset, the sequences have documents.
std::unique_ptr<SequenceSource> make_file_source(std::shared_ptr<const TokenDataset> dataset, uint64_t seed,
                                                 bool shuffle, const std::string& all_bytes = {},
                                                 std::shared_ptr<const DocumentTables> tables = {});
/// Generated tokens that a model can learn: a seeded rule gives the successor of each id, one id in eight is random.
/// Endless: one epoch. Throws Error for a length or vocabulary below 1.
std::unique_ptr<SequenceSource> make_synthetic_source(int64_t sequence_length, int64_t vocab_size, uint64_t seed);

/// A micro-batch of the sequences [position, position + count) of the stream, on the CPU, with their documents where
/// the source has any; masked sequences have no targets. count may be 0: [0, S] tensors.
Batch make_batch(const SequenceSource& source, int64_t position, int64_t count);

/// Prepares the micro-batches of this rank ahead of time, on its own thread. The optimizer step after `s` others takes
/// positions [BatchSizes::until(s), until(s + 1)) of the stream: without a warm-up [s, s + 1) * global_batch.
class DataLoader {
 public:
  struct Plan {
    BatchPlan batches;
    int rank;
    int64_t prefetch;                     ///< micro-batches kept ready
    std::vector<BatchPhase> warmup = {};  ///< before steps of `batches`
  };
  /// Starts after `first_step` steps: a run resumes with no other state. Throws Error for a plan out of range,
  /// ConfigError if the thread cannot be started.
  DataLoader(std::shared_ptr<const SequenceSource> source, Plan plan, int64_t first_step);
  ~DataLoader();
  /// The next micro-batch of this rank, in order of (step, accumulation step); B = 0 if the rank has none. Rethrows
  /// what the thread threw.
  Batch next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace olmoe
