#pragma once
#include <array>
#include <string_view>

namespace olmoe {

/// Points of a save, of retention and of a load at which a test can end or delay a rank, in the order in which they
/// are passed.
inline constexpr std::array<std::string_view, 24> kFaultPoints{
    "save.begin",        "save.copying",       "save.copied",
    "shard.folder",      "shard.first_tensor", "shard.half",
    "shard.written",     "save.agreed",        "save.gathered",
    "commit.begin",      "commit.proven",      "commit.manifest",
    "commit.synced",     "commit.way_made",    "commit.renamed",
    "commit.durable",    "retention.begin",    "retention.weights_kept",
    "retention.between", "retention.end",      "commit.done",
    "load.manifest",     "load.between",       "load.read"};

/// Does nothing, unless the environment variable OLMOE_FAULT names `point` and `rank`:
/// "POINT RANK NTH kill" ends the process by SIGKILL when the point is passed for the NTH time (1: the first), and
/// "POINT RANK NTH sleep MS" sleeps. Throws ConfigError where the variable is set and has another form.
void fault_point(std::string_view point, int rank);

}  // namespace olmoe
