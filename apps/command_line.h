#pragma once
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cctype>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"

namespace olmoe {

/// Of --ignore-unknown, for the programs that read checkpoints.
inline constexpr const char* kIgnoreUnknownHelp =
    "leave out what another version wrote into a checkpoint's config and this one does not know; it is listed";

/// What to write instead of `argument`, where it is an override with dashes, as in --train.steps=5; empty: it is not.
inline std::string describe_dashed_override(std::string_view argument) {
  if (!argument.starts_with("--")) return {};
  argument.remove_prefix(2);
  const auto key = argument.substr(0, argument.find('='));
  bool is_path = key.find('.') != std::string_view::npos;
  for (const char c : key) is_path = is_path && (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.');
  if (!is_path) return {};
  return fmt::format("write overrides without --: {}{}", argument, key == argument ? "=VALUE" : "");
}

/// Parses the arguments of a program that takes a config and overrides. Returns the exit code where the program ends
/// here: 0 after --help or --version, ExitCode::config after a message for arguments that are wrong.
inline std::optional<int> parse_command_line(CLI::App& app, int argc, char* argv[]) {
  try {
    app.parse(argc, argv);
    return {};
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) == 0) return 0;
  }
  for (int i = 1; i < argc; ++i)
    if (const auto advice = describe_dashed_override(argv[i]); !advice.empty())
      std::fprintf(stderr, "%s\n", advice.c_str());
  return static_cast<int>(ExitCode::config);
}

}  // namespace olmoe
