#include "core/process/bus_errors.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace olmoe {
namespace {

// Where SIGBUS in a guarded copy of this thread jumps to. volatile: only the signal handler reads it.
thread_local sigjmp_buf* volatile way_out = nullptr;

// The functions below run in a signal handler: they allocate no memory and call async-signal-safe functions only.

constexpr size_t kLongestLine = 8192;

bool covers(std::string_view range, uintptr_t address) {
  uintptr_t begin = 0, end = 0;
  const auto* const last = range.data() + range.size();
  const auto first = std::from_chars(range.data(), last, begin, 16);
  if (first.ec != std::errc() || first.ptr == last) return false;
  return std::from_chars(first.ptr + 1, last, end, 16).ec == std::errc() && begin <= address && address < end;
}

/// The path of the mapping in /proc/self/maps that contains an address, stored in `line`; empty if there is none.
std::string_view mapped_path(uintptr_t address, std::array<char, kLongestLine>& line) {
  const int maps = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return {};
  std::string_view path;
  size_t size = 0;
  std::array<char, 1024> block;
  for (ssize_t count = 1; path.empty() && (count = ::read(maps, block.data(), block.size())) > 0;)
    for (ssize_t i = 0; i < count && path.empty(); ++i) {
      if (block[i] != '\n') {
        if (size < line.size()) line[size++] = block[i];
        continue;
      }
      const std::string_view text(line.data(), std::exchange(size, 0));
      const auto slash = text.find('/');
      if (slash != std::string_view::npos && covers(text.substr(0, text.find(' ')), address)) path = text.substr(slash);
    }
  ::close(maps);
  return path;
}

void say(std::string_view text) {
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nothing else can be done
}

extern "C" void on_bus_error(int signal, siginfo_t* info, void*) {
  if (way_out != nullptr && info->si_code > 0) siglongjmp(*way_out, 1);
  std::array<char, kLongestLine> line;
  const auto path = mapped_path(reinterpret_cast<uintptr_t>(info->si_addr), line);
  if (info->si_code <= 0 || path.empty()) {  // sent by a process, or not from the mapping of a file
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // delivered when this handler returns
    return;
  }
  say("error ");
  say(path);
  say(": was truncated while it was read, or its disk failed. Files must not change while a run uses them; restore "
      "it, and start the same command again\n");
  ::_exit(static_cast<int>(path.ends_with(".safetensors") ? ExitCode::checkpoint : ExitCode::data));
}

}  // namespace

void explain_bus_errors() {
  [[maybe_unused]] static const bool handled = [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
}

bool guarded_copy(std::span<std::byte> out, const std::byte* mapping) {
  explain_bus_errors();
  sigjmp_buf here;
  if (sigsetjmp(here, /*savemask=*/1) != 0) {
    way_out = nullptr;
    return false;
  }
  way_out = &here;
  std::memcpy(out.data(), mapping, out.size());
  way_out = nullptr;
  return true;
}

}  // namespace olmoe
