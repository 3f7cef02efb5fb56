#include "parallel/device_mesh.h"

#include <cstdint>

#include "core/error.h"

namespace olmoe {
namespace {

void check_shape(const MeshShape& shape, int ranks) {
  auto check_positive = [](const char* field, int size) {
    if (size < 1) throw ConfigError(fmt::format("{} = {}, but it must be at least 1", field, size));
  };
  check_positive("parallel.replicate", shape.replicate);
  check_positive("parallel.shard", shape.shard);
  check_positive("parallel.expert", shape.expert);
  const int64_t product = int64_t{shape.replicate} * shape.shard;
  if (product != ranks) {
    throw ConfigError(fmt::format("parallel.replicate x parallel.shard = {} x {} = {}, but {} ranks run",
                                  shape.replicate, shape.shard, product, ranks));
  }
  if (shape.shard % shape.expert != 0) {
    throw ConfigError(
        fmt::format("parallel.expert = {} does not divide parallel.shard = {}", shape.expert, shape.shard));
  }
}

}  // namespace

DeviceMesh::DeviceMesh(Communicator& world, MeshShape shape) : world_(world), shape_(shape) {
  check_shape(shape, world.size());
  const int replicate = world.rank() / shape.shard, shard = world.rank() % shape.shard;
  const int expert_shard = shard / shape.expert, expert = shard % shape.expert;
  replicate_ = world.split(shard, replicate, "replicate");
  shard_ = world.split(replicate, shard, "shard");
  expert_ = shard_->split(expert_shard, expert, "expert");
  expert_shard_ = shard_->split(expert, expert_shard, "expert_shard");
}

std::string DeviceMesh::describe() const {
  return fmt::format("world {} = replicate {} x shard {} (expert {} x expert_shard {})", world_.size(),
                     shape_.replicate, shape_.shard, shape_.expert, shape_.expert_shard());
}

}  // namespace olmoe
