#include "trainer/checkpoint/kept_weights.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/files/files.h"
#include "core/files/safetensors.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/verified_file.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

using GiveUp = std::function<bool()>;

/// Passes on the bytes of a tensor, verified.
void stream(VerifiedFile& file, std::span<const std::byte> bytes, const safetensors::Sink& sink,
            const GiveUp& give_up) {
  std::vector<std::byte> piece(std::min<size_t>(16 << 20, bytes.size()));
  for (; !bytes.empty(); bytes = bytes.subspan(piece.size())) {
    if (give_up()) throw Error("the run was asked to leave");
    piece.resize(std::min(piece.size(), bytes.size()));
    file.read(bytes.first(piece.size()), piece);
    sink(piece);
  }
}

Manifest::ShardFile copy_weights(const std::string& from, const std::string& to, const Manifest::ShardFile& stated,
                                 const GiveUp& give_up) {
  VerifiedFile file(from, stated);
  std::vector<safetensors::Item> items;
  for (const auto& [name, entry] : file.tensors().entries())
    if (name.starts_with("weight:") || name.starts_with("buffer:"))
      items.push_back({.name = name,
                       .dtype = entry.dtype,
                       .shape = entry.shape,
                       .produce = [&file, &give_up, bytes = file.tensors().bytes(name)](const safetensors::Sink& sink) {
                         stream(file, bytes, sink, give_up);
                       }});
  const auto written = safetensors::write(to + "/" + stated.name, std::move(items), file.tensors().metadata());
  return {stated.name, written.size_bytes, written.header_bytes, written.header_hash, written.block_hashes};
}

/// Whether the weights of a step are kept already: not those of a run that went another way.
bool is_kept(const std::string& folder, const Manifest& manifest) {
  try {
    const auto kept = Manifest::read(folder);
    return kept.step == manifest.step && kept.config == manifest.config;
  } catch (const CheckpointError&) {
    return false;
  }
}

}  // namespace

void keep_weights(const std::string& step_folder, const std::string& weights_folder, const GiveUp& give_up) {
  auto manifest = Manifest::read(step_folder);
  const auto kept = fmt::format("{}/{}", weights_folder, step_name(manifest.step));
  const auto temporary = fmt::format("{}/{}", weights_folder, temporary_name(manifest.step));
  if (is_kept(kept, manifest)) return;
  try {
    fs::create_directories(temporary);
    for (auto& file : manifest.files) file = copy_weights(step_folder, temporary, file, give_up);
    manifest.write(temporary);
    fsync_folder(temporary);
    if (fs::exists(fs::symlink_status(kept))) fs::rename(kept, unused_name(kept));
    fs::rename(temporary, kept);
    fsync_folder(weights_folder);
    fsync_folder(fs::path(weights_folder).parent_path());
  } catch (...) {
    remove_leftover(temporary);  // it may be what fills the disk
    throw;
  }
}

}  // namespace olmoe
