// Makes file calls of a program fail, transfer less than was asked for, or take long. Preloaded (LD_PRELOAD) by
// io_faults.py.
//
// OLMOE_IO_FAULTS has faults, separated by ';', each of six words:
//
//     CALL EFFECT PATTERN FIRST TIMES RANK
//
// CALL     open, read (and pread), write (pwrite, writev), fsync (fdatasync), truncate (ftruncate), rename, close
// EFFECT   EIO, ENOSPC, EACCES or EMFILE: the call fails with it and does nothing, but close, which closes
//          EINTR: every other call fails with it, so that one that is made again gets through
//          short: of more than one byte at most a half is transferred, how much is random (OLMOE_IO_FAULTS_SEED)
//          sleep:MS: the call begins so many milliseconds late
// PATTERN  of the file's path, for fnmatch(3) without flags: * matches / too; of both names of a rename
// FIRST    number of the first matching call that is hit, from 1
// TIMES    how many are, from there; 0: all
// RANK     OMPI_COMM_WORLD_RANK (0 without mpirun), or *
//
// Each hit is a line "RANK CALL EFFECT PATH" at the end of the file OLMOE_IO_FAULTS_HITS, if that is set.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FAULTS = 64, WORD = 256, PATH = 4096 };

struct fault {
  char call[WORD], effect[WORD], pattern[WORD];
  long first, times;
  atomic_long calls;
};

static struct fault faults[MOST_FAULTS];
static int num_faults;
static int rank;
static atomic_uint_least64_t chance;

static void append_hit(const char* call, const char* effect, const char* path) {
  const char* const file = getenv("OLMOE_IO_FAULTS_HITS");
  if (!file) return;
  char line[PATH + 2 * WORD];
  const int bytes = snprintf(line, sizeof line, "%d %s %s %s\n", rank, call, effect, path);
  const long fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (syscall(SYS_write, fd, line, (size_t)bytes) != bytes) _exit(127);
  syscall(SYS_close, fd);
}

/// A fault that takes the call's place: an errno name or "short"; NULL: none. Those that only take time are over.
static const char* meet(const char* call, const char* path, const char* other) {
  const char* effect = NULL;
  for (struct fault* f = faults; f < faults + num_faults; ++f) {
    if (strcmp(f->call, call) != 0) continue;
    if (fnmatch(f->pattern, path, 0) != 0 && fnmatch(f->pattern, other, 0) != 0) continue;
    const long n = atomic_fetch_add(&f->calls, 1) + 1 - f->first;
    if (n < 0 || (f->times > 0 && n >= f->times) || effect) continue;
    if (strcmp(f->effect, "EINTR") == 0 && n % 2 != 0) continue;
    append_hit(call, f->effect, path);
    if (strncmp(f->effect, "sleep:", 6) == 0) {
      const long ms = atol(f->effect + 6);
      const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
      nanosleep(&time, NULL);
    } else {
      effect = f->effect;
    }
  }
  return effect;
}

static const char* meet_open_file(const char* call, int fd) {
  int known = 0;
  for (const struct fault* f = faults; f < faults + num_faults; ++f) known |= strcmp(f->call, call) == 0;
  if (!known) return NULL;
  char link[64], path[PATH];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t bytes = readlink(link, path, sizeof path - 1);
  if (bytes < 0) return NULL;
  path[bytes] = '\0';
  return meet(call, path, path);
}

static int is_short(const char* effect) { return effect && strcmp(effect, "short") == 0; }

/// Sets errno where the call fails.
static int fails(const char* effect) {
  static const struct {
    const char* name;
    int value;
  } known[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EACCES", EACCES}, {"EMFILE", EMFILE}, {"EINTR", EINTR}};
  for (size_t i = 0; effect && i < sizeof known / sizeof *known; ++i)
    if (strcmp(effect, known[i].name) == 0) return errno = known[i].value, 1;
  return 0;
}

/// From 1 to half of `bytes`.
static size_t part_of(size_t bytes) {
  if (bytes < 2) return bytes;
  uint64_t x = atomic_fetch_add(&chance, 0x9e3779b97f4a7c15u);  // the steps of SplitMix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return 1 + (x ^ (x >> 31)) % (bytes / 2);
}

static void refuse(const char* text) {
  fprintf(stderr, "OLMOE_IO_FAULTS: '%s' is not CALL EFFECT PATTERN FIRST TIMES RANK\n", text);
  _exit(127);
}

static int is_effect(const char* word) {
  return fails(word) || strcmp(word, "short") == 0 || strncmp(word, "sleep:", 6) == 0;
}

__attribute__((constructor)) static void read_faults(void) {
  const char *const text = getenv("OLMOE_IO_FAULTS"), *const seed = getenv("OLMOE_IO_FAULTS_SEED");
  const char* const here = getenv("OMPI_COMM_WORLD_RANK");
  if (!text) return;
  rank = here ? atoi(here) : 0;
  atomic_store(&chance, seed ? strtoull(seed, NULL, 10) : 1);
  char *const copy = strdup(text), *rest = NULL;
  for (char* one = strtok_r(copy, ";", &rest); one; one = strtok_r(NULL, ";", &rest)) {
    if (num_faults == MOST_FAULTS) refuse(one);
    struct fault* const f = &faults[num_faults];
    char ranks[WORD], more[2];
    if (sscanf(one, "%255s %255s %255s %ld %ld %255s %1s", f->call, f->effect, f->pattern, &f->first, &f->times, ranks,
               more) != 6 ||
        !is_effect(f->effect))
      refuse(one);
    if (strcmp(ranks, "*") == 0 || atoi(ranks) == rank) ++num_faults;
  }
  free(copy);
}

static int open_at(int folder, const char* path, int flags, mode_t mode) {
  if (fails(meet("open", path, path))) return -1;
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE_AFTER(flags)                  \
  mode_t mode = 0;                         \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { \
    va_list rest;                          \
    va_start(rest, flags);                 \
    mode = (mode_t)va_arg(rest, int);      \
    va_end(rest);                          \
  }

int open(const char* path, int flags, ...) {
  MODE_AFTER(flags)
  return open_at(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char* path, int flags, ...) {
  MODE_AFTER(flags)
  return open_at(folder, path, flags, mode);
}

ssize_t read(int fd, void* buffer, size_t bytes) {
  const char* const effect = meet_open_file("read", fd);
  if (fails(effect)) return -1;
  return syscall(SYS_read, fd, buffer, is_short(effect) ? part_of(bytes) : bytes);
}

ssize_t pread(int fd, void* buffer, size_t bytes, off_t begin) {
  const char* const effect = meet_open_file("read", fd);
  if (fails(effect)) return -1;
  return syscall(SYS_pread64, fd, buffer, is_short(effect) ? part_of(bytes) : bytes, begin);
}

ssize_t write(int fd, const void* buffer, size_t bytes) {
  const char* const effect = meet_open_file("write", fd);
  if (fails(effect)) return -1;
  return syscall(SYS_write, fd, buffer, is_short(effect) ? part_of(bytes) : bytes);
}

ssize_t pwrite(int fd, const void* buffer, size_t bytes, off_t begin) {
  const char* const effect = meet_open_file("write", fd);
  if (fails(effect)) return -1;
  return syscall(SYS_pwrite64, fd, buffer, is_short(effect) ? part_of(bytes) : bytes, begin);
}

ssize_t writev(int fd, const struct iovec* parts, int count) {
  const char* const effect = meet_open_file("write", fd);
  if (fails(effect)) return -1;
  if (is_short(effect) && count > 0) return syscall(SYS_write, fd, parts[0].iov_base, part_of(parts[0].iov_len));
  return syscall(SYS_writev, fd, parts, count);
}

int fsync(int fd) { return fails(meet_open_file("fsync", fd)) ? -1 : (int)syscall(SYS_fsync, fd); }

int fdatasync(int fd) { return fails(meet_open_file("fsync", fd)) ? -1 : (int)syscall(SYS_fdatasync, fd); }

int ftruncate(int fd, off_t bytes) {
  return fails(meet_open_file("truncate", fd)) ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int close(int fd) {
  const char* const effect = meet_open_file("close", fd);
  const int result = (int)syscall(SYS_close, fd);
  return fails(effect) ? -1 : result;
}

int rename(const char* from, const char* to) {
  return fails(meet("rename", from, to)) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

// The names with which programs of 32-bit systems ask for 64-bit offsets; libraries use them here too.
int open64(const char* path, int flags, ...) __attribute__((alias("open")));
int openat64(int folder, const char* path, int flags, ...) __attribute__((alias("openat")));
ssize_t pread64(int fd, void* buffer, size_t bytes, off_t begin) __attribute__((alias("pread")));
ssize_t pwrite64(int fd, const void* buffer, size_t bytes, off_t begin) __attribute__((alias("pwrite")));
int ftruncate64(int fd, off_t bytes) __attribute__((alias("ftruncate")));
