// A made-up system for what asks a machine: files of /proc and /sys in a folder, and variables.
#pragma once
#include <map>
#include <string>

#include "core/process/machine.h"
#include "support/temp_folder.h"

namespace olmoe::test {

/// 16 GB of memory of which 12 are available, no control group, no limit of the shell, no variable.
class MadeUpSystem {
 public:
  MadeUpSystem() {
    file("/proc/meminfo", "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n");
    file("/proc/self/limits",
         "Limit                     Soft Limit           Hard Limit           Units     \n"
         "Max data size             unlimited            unlimited            bytes     \n"
         "Max address space         unlimited            unlimited            bytes     \n");
    file("/proc/self/status", "Name:\tolmoe-train\nVmSize:\t  300000 kB\nVmData:\t  100000 kB\n");
  }

  MadeUpSystem& file(const std::string& path, const std::string& text) {
    folder_.add(path.substr(1), text);
    return *this;
  }
  MadeUpSystem& variable(const std::string& name, const std::string& value) {
    variables_[name] = value;
    return *this;
  }

  /// Of version 2, mounted whole: this process is in `path`.
  MadeUpSystem& in_group(const std::string& path) {
    return mounted("30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "0::" + path + "\n");
  }
  /// Of version 1, as Docker mounts it without a name space of its own: the container's group alone.
  MadeUpSystem& in_docker_group(const std::string& path) {
    return mounted("41 38 0:35 " + path + " /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n" + "42 38 0:33 " +
                       path + " /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
                   "9:name=systemd:" + path + "\n4:memory:" + path + "\n3:cpu,cpuacct:" + path + "\n");
  }
  MadeUpSystem& mounted(const std::string& mountinfo, const std::string& groups) {
    return file("/proc/self/mountinfo", "23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n" + mountinfo)
        .file("/proc/self/cgroup", groups);
  }

  SystemView view() const {
    return {folder_ / "", [this](const char* name) {
              const auto found = variables_.find(name);
              return found == variables_.end() ? nullptr : found->second.c_str();
            }};
  }

 private:
  TempFolder folder_;
  std::map<std::string, std::string> variables_;
};

}  // namespace olmoe::test
