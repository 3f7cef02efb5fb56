#include "trainer/generation/json_tokenizer.h"

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Of ASCII alone, which every locale of the child reads. Throws json::exception for a text that is not UTF-8.
std::string ascii(const json& request) { return request.dump(-1, ' ', /*ensure_ascii=*/true); }

/// The object that a line of the child is. Throws ConfigError with its message where it has one.
json answer_of(const std::string& line) {
  const auto out = json::parse(line, nullptr, /*allow_exceptions=*/false);
  ENSURE(out.is_object(), "scripts/token_pipe.py answers '{}', which is no JSON object", line);
  if (const auto error = out.find("error"); error != out.end())
    throw ConfigError(fmt::format("--tokenizer: {}", error->get<std::string>()));
  return out;
}

}  // namespace

JsonTokenizer::JsonTokenizer(const std::vector<std::string>& command) : process_(command) {
  const auto answer = answer_of(process_.read_line());
  num_ids_ = answer.at("num_ids").get<int64_t>();
  if (const auto& end = answer.at("end_id"); !end.is_null()) end_id_ = end.get<int64_t>();
}

std::vector<int64_t> JsonTokenizer::encode(const std::string& text) {
  std::string line;
  try {
    line = ascii({{"encode", text}});
  } catch (const json::exception&) {
    throw ConfigError("a prompt is no valid UTF-8, which a tokenizer.json needs");
  }
  return answer_of(process_.ask(line)).at("ids").get<std::vector<int64_t>>();
}

std::string JsonTokenizer::decode(size_t text, int64_t id) {
  return answer_of(process_.ask(ascii({{"text", text}, {"id", id}}))).at("decoded").get<std::string>();
}

std::string JsonTokenizer::finish(size_t text) {
  return answer_of(process_.ask(ascii({{"finish", text}}))).at("decoded").get<std::string>();
}

std::vector<std::string> token_pipe_command(const std::string& tokenizer) {
  const char* const python = std::getenv("PYTHON");
  const char* const scripts = std::getenv("OLMOE_SCRIPTS");
  std::error_code unknown;
  const auto program = fs::read_symlink("/proc/self/exe", unknown);
  const auto folder = scripts != nullptr ? fs::path(scripts) : program.parent_path().parent_path() / "scripts";
  const auto script = folder / "token_pipe.py";
  if (!fs::is_regular_file(script, unknown))
    throw ConfigError(fmt::format("--tokenizer: {}: there is no {}: name the folder of the scripts in OLMOE_SCRIPTS",
                                  tokenizer, script.string()));
  return {python != nullptr ? python : "python3", script, tokenizer};
}

std::unique_ptr<TextCodec> make_codec(const std::string& tokenizer) {
  if (tokenizer == "bytes") return std::make_unique<ByteCodec>();
  std::error_code unknown;
  const auto file = fs::is_directory(tokenizer, unknown) ? fs::path(tokenizer) / "tokenizer.json" : fs::path(tokenizer);
  if (!fs::is_regular_file(file, unknown))
    throw ConfigError(fmt::format(
        "--tokenizer: {}: no such file; it takes `bytes`, a tokenizer.json or a folder with one", file.string()));
  return std::make_unique<JsonTokenizer>(token_pipe_command(file));
}

}  // namespace olmoe
