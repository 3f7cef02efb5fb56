// Checkpoints of other versions: what is said of a config that this one cannot read, and what may be left out of it.
#include "trainer/checkpoint/manifest_config.h"

#include "core/hash.h"
#include "core/version.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/conversion/conversions.h"
#include "trainer/conversion/saved_model.h"
#include "trainer/preflight/start_notices.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

const std::string kThis = fmt::format("this is version {} (commit {})", kVersion, kGitCommit);

/// `text` with what follows `key` on its line replaced.
std::string with_value(std::string text, const std::string& key, const std::string& value) {
  const auto at = text.find(key + ": ");
  ENSURE(at != std::string::npos, "no {}", key);
  const auto begin = at + key.size() + 2;
  return text.replace(begin, text.find('\n', begin) - begin, value);
}

/// The manifest of another version, whose config is tiny_run's with changes in its text.
Manifest of_another(const std::function<std::string(std::string)>& change) {
  Manifest manifest;
  manifest.config = change(write_config(tiny_run("run")));
  manifest.made_by = {{"version", "9.1.0"}, {"git_commit", "abc1234"}};
  return manifest;
}

std::string refusal(const Manifest& manifest, UnknownKeys unknown) {
  try {
    read_manifest_config(manifest, "f", unknown);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "read";
}

const std::string kTwoVersions =
    "f/manifest.json: written by version 9.1.0 (commit abc1234); " + kThis + ", which cannot read its config:\n";

}  // namespace

TEST_CASE(
    "unknown keys and words of a checkpoint are one error that says what to do, or one warning with their values") {
  const auto manifest = of_another([](std::string text) {
    return with_value(text, "transport", "carrier_pigeon") + "watch: {mail: me, level: 2}\n";
  });
  CHECK(refusal(manifest, UnknownKeys::refused) ==
        kTwoVersions +
            "  watch.mail: unknown key, its value is me\n  watch.level: unknown key, its value is 2\n"
            "  parallel.transport: carrier_pigeon is not one of nccl, host\n"
            "Read it with the version that wrote it, or give --ignore-unknown, which leaves these keys out and takes "
            "the default where a word is unknown");
  const auto read = read_manifest_config(manifest, "f", UnknownKeys::ignored);
  CHECK(read.left_out == "f/manifest.json: written by version 9.1.0 (commit abc1234); " + kThis +
                             ". Left out of its config:\n  watch.mail: me\n  watch.level: 2\n"
                             "  parallel.transport: carrier_pigeon is not one of nccl, host; its default is taken");
  CHECK(differing_fields(read.config, tiny_run("run")).empty());
}

TEST_CASE("an unknown word of a key that must not change is refused in any case, one of a key of the loss is not") {
  const auto fixed = of_another([](std::string text) { return with_value(text, "router_dtype", "float8"); });
  for (const auto unknown : {UnknownKeys::refused, UnknownKeys::ignored})
    CHECK_THAT(refusal(fixed, unknown),
               Catch::StartsWith(kTwoVersions + "  model.router_dtype: float8 is not one of ") &&
                   Contains("; it decides what is trained, and is never left out\n") &&
                   Catch::EndsWith("\nRead it with the version that wrote it"));
  const auto free =
      of_another([](std::string text) { return with_value(text, "load_balancing_granularity", "galaxy"); });
  CHECK_THAT(refusal(free, UnknownKeys::refused), Contains("model.load_balancing_granularity: galaxy is not one of "));
  CHECK(refusal(free, UnknownKeys::ignored) == "read");
}

TEST_CASE("an unknown key of the model may be left out, and the warning says what that means") {
  const auto manifest = of_another(
      [](std::string text) { return text.replace(text.find("model:\n") + 7, 0, "  shared_expert: true\n"); });
  CHECK_THAT(read_manifest_config(manifest, "f", UnknownKeys::ignored).left_out,
             Catch::EndsWith("\n  model.shared_expert: true; what it made of the model is not known here"));
}

TEST_CASE("keys that an old config lacks and values out of range are the same error, whatever is ignored") {
  const auto manifest = of_another([](std::string text) {
    const auto line = text.find("  steps: ");
    return text.erase(line, text.find('\n', line) + 1 - line) + "watch: 1\n";
  });
  const std::string missing = "  train.steps: required key is missing (saved config:";
  CHECK_THAT(refusal(manifest, UnknownKeys::ignored),
             Catch::StartsWith(kTwoVersions + missing) && Catch::EndsWith(")\nRead it with the version that wrote it"));
  CHECK_THAT(refusal(manifest, UnknownKeys::refused),
             Contains("  watch: unknown key, its value is 1\n") && Contains(missing));
  auto old = of_another([](std::string text) { return with_value(text, "top_k", "0"); });
  old.made_by.clear();
  CHECK_THAT(refusal(old, UnknownKeys::refused),
             Contains("written by version unknown (commit unknown); ") && Contains("  model.top_k: 0 must be "));
}

TEST_CASE("resuming, starting from and converting a checkpoint of another version, refused and with the switch") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.checkpoint.save_last = true;
  run_single(config);
  const auto step = folder / "run/checkpoints/step_000000003";
  auto manifest = Manifest::read(step);
  manifest.config += "watch: 1\n";
  manifest.write(step);

  auto resumed = resolve_run(config, 1);
  resumed.config.train.steps = 4;
  auto begun = resolve_run(config, 1);
  begun.config.run.folder = folder / "other";
  begun.config.train.init_from = step;
  const auto world = make_single_communicator();
  const std::vector<std::function<void(UnknownKeys)>> readers{
      [&](UnknownKeys unknown) {
        auto run = resumed;
        run.unknown_keys = unknown;
        const auto first = Trainer(run, *world).step();  // outside of CHECK, which would catch a refusal
        CHECK(first == 3);
      },
      [&](UnknownKeys unknown) {
        auto run = begun;
        run.unknown_keys = unknown;
        const auto first = Trainer(run, *world).step();
        CHECK(first == 0);
      },
      [&](UnknownKeys unknown) {
        const auto saved = find_saved_run(config, unknown);
        CHECK(saved.left_out.ends_with("  watch: 1"));
      },
      [&](UnknownKeys unknown) { open_model(folder / "run", unknown); },
      [&](UnknownKeys unknown) { average_models(folder / "mean", {step}, {}, unknown); },
      [&](UnknownKeys unknown) { initial_weights(begun.config, unknown); }};
  for (size_t i = 0; i < readers.size(); ++i) {
    CAPTURE(i);
    try {
      readers[i](UnknownKeys::refused);
      FAIL_CHECK("not refused");
    } catch (const CheckpointError& error) {
      CHECK_THAT(error.what(), Contains("  watch: unknown key, its value is 1\nRead it with"));
    }
    CHECK_NOTHROW(readers[i](UnknownKeys::ignored));
  }
  CHECK(Manifest::read(folder / "mean").config.find("watch") == std::string::npos);
}

TEST_CASE("a manifest of a newer format names the version that wrote it") {
  const TempFolder folder;
  of_another([](std::string text) { return text; }).write(folder / ".");
  auto text = read_text(folder / "manifest.json");
  auto body = nlohmann::json::parse(text);
  body.erase("manifest_xxh3_128");
  body["format_version"] = 99;
  const auto dumped = body.dump();
  body["manifest_xxh3_128"] = hash_of(std::as_bytes(std::span(dumped)));
  folder.add("manifest.json", body.dump());
  CHECK_THROWS_WITH(Manifest::read(folder / "."), Contains("format version 99, and this program reads 1 to 2") &&
                                                      Catch::EndsWith("newer version of the program, 9.1.0"));
}
