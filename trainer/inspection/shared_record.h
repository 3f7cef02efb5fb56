#pragma once
#include <memory>
#include <string>

#include "trainer/analysis/routing_record.h"
#include "trainer/inspection/routing_pass.h"

namespace olmoe {

/// A routing record that rank 0 writes, of the batches of all ranks in their order.
class SharedRecord {
 public:
  /// Throws on all ranks what RecordWriter throws. `tokens`: of the largest batch. Collective over world.
  SharedRecord(const std::string& path, int64_t sequence_length, int64_t tokens, Communicator& world);
  /// Collective over world.
  void append(const RoutedBatch& batch);
  /// Collective over world.
  void finish(const std::map<std::string, std::string>& metadata);

 private:
  const int64_t sequence_length_, tokens_;
  Communicator& world_;
  std::unique_ptr<RecordWriter> writer_;  // on rank 0
};

}  // namespace olmoe
