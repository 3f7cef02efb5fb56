#include "parallel/collectives/collective_cases.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "core/error.h"

namespace olmoe {
namespace {

constexpr std::array kTypes{at::kDouble, at::kFloat, at::kBFloat16, at::kLong, at::kInt};
// Empty, smaller than a group, not divisible, larger than one chunk of a reduction.
constexpr std::array<int64_t, 5> kSizes{0, 1, 7, 1000, 70'001};

/// What `rank` draws, on `device`. On a GPU numbers whose sums are exact in any order, since NCCL
/// keeps to none: multiples of 1/16, which bfloat16 holds up to 16.
at::Tensor held(at::Device device, int rank, at::IntArrayRef shape, at::ScalarType dtype, int seed = 0) {
  at::Tensor values = draw(rank, shape, dtype, seed);
  if (device.is_cpu()) return values;
  if (at::isFloatingType(dtype)) values = values.mul(16).round().div(16).add(0);  // no -0
  return values.to(device);
}

/// Contributions of all ranks added (or compared) in rank order in `out_dtype`, the long way.
at::Tensor reduce_draws(at::Device device, int ranks, at::IntArrayRef shape, at::ScalarType in, at::ScalarType out,
                        Reduce op) {
  at::Tensor result = held(device, 0, shape, in).to(out);
  for (int r = 1; r < ranks; ++r) {
    const at::Tensor next = held(device, r, shape, in).to(out);
    if (op == Reduce::sum) result = result.add(next);
    if (op == Reduce::max) result = at::maximum(result, next);
    if (op == Reduce::min) result = at::minimum(result, next);
  }
  return result;
}

void check_all_gather(Communicator& group, at::Device device) {
  for (at::ScalarType dtype : kTypes) {
    for (int64_t n : kSizes) {
      std::vector<at::Tensor> all;
      for (int r = 0; r < group.size(); ++r) all.push_back(held(device, r, {n}, dtype));
      at::Tensor out = at::zeros({group.size() * n}, at::device(device).dtype(dtype));
      group.all_gather(out, all[group.rank()]);
      check_same_bits(out, at::cat(all), "all_gather");

      at::Tensor in_place = at::zeros({group.size() * n}, at::device(device).dtype(dtype));
      at::Tensor own = in_place.narrow(0, group.rank() * n, n);
      own.copy_(all[group.rank()]);
      group.all_gather(in_place, own);
      check_same_bits(in_place, at::cat(all), "all_gather in place");
    }
  }
}

void check_reduce_scatter_types(Communicator& group, at::Device device, at::ScalarType in, at::ScalarType out) {
  for (int64_t n : kSizes) {
    const at::Tensor mine = held(device, group.rank(), {group.size() * n}, in);
    const at::Tensor sum = reduce_draws(device, group.size(), {group.size() * n}, in, out, Reduce::sum);
    const at::Tensor expected = sum.narrow(0, group.rank() * n, n);
    at::Tensor actual = at::zeros({n}, at::device(device).dtype(out));
    group.reduce_scatter(actual, mine);
    check_same_bits(actual, expected, "reduce_scatter");
    check_same_bits(mine, held(device, group.rank(), {group.size() * n}, in), "input of reduce_scatter");
    if (in != out) continue;
    at::Tensor own = mine.narrow(0, group.rank() * n, n);
    group.reduce_scatter(own, mine);
    check_same_bits(own, expected, "reduce_scatter in place");
  }
}

void check_reduce_scatter(Communicator& group, at::Device device) {
  for (at::ScalarType dtype : kTypes) check_reduce_scatter_types(group, device, dtype, dtype);
  check_reduce_scatter_types(group, device, at::kBFloat16, at::kFloat);
  check_reduce_scatter_types(group, device, at::kFloat, at::kDouble);
}

/// Sums that bfloat16 cannot hold: 256 ones and then ones that would vanish one by one.
void check_wide_sum(Communicator& group, at::Device device) {
  const int64_t ranks = group.size();
  const at::Tensor mine = at::full({ranks}, group.rank() == 0 ? 256.0 : 1.0, at::device(device).dtype(at::kBFloat16));
  at::Tensor sum = at::zeros({1}, at::device(device).dtype(at::kFloat));
  group.reduce_scatter(sum, mine);
  ENSURE(sum.item<float>() == 255.0F + ranks, "got {}", sum.item<float>());
}

void check_all_reduce(Communicator& group, at::Device device) {
  for (Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) {
    for (at::ScalarType dtype : kTypes) {
      for (int64_t n : kSizes) {
        at::Tensor inout = held(device, group.rank(), {n}, dtype);
        group.all_reduce(inout, op);
        check_same_bits(inout, reduce_draws(device, group.size(), {n}, dtype, dtype, op), "all_reduce");
      }
    }
  }
  constexpr int64_t kMany = 400'003;  // more than one chunk for each of five ranks
  at::Tensor many = held(device, group.rank(), {kMany}, at::kFloat);
  group.all_reduce(many);
  check_same_bits(many, reduce_draws(device, group.size(), {kMany}, at::kFloat, at::kFloat, Reduce::sum),
                  "long all_reduce");

  at::Tensor ranks = at::full({3, 5}, group.rank(), at::device(device).dtype(at::kLong));
  group.all_reduce(ranks);
  const int64_t sum = group.size() * (group.size() - 1) / 2;
  check_same_bits(ranks, at::full({3, 5}, sum, at::device(device).dtype(at::kLong)), "sum of ranks");
}

void check_nan_survives(Communicator& group, at::Device device) {
  for (Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) {
    for (int bad = 0; bad < group.size(); ++bad) {
      const double value = group.rank() == bad ? std::numeric_limits<double>::quiet_NaN() : 1.0;
      at::Tensor inout = at::full({9}, value, at::device(device).dtype(at::kFloat));
      group.all_reduce(inout, op);
      for (int64_t i = 0; i < 9; ++i) {
        ENSURE(std::isnan(inout[i].item<float>()), "the NaN of rank {} is lost", bad);
      }
    }
  }
}

/// Rank s sends (s + 2 r + round) mod 4 rows to rank r: some send nothing.
int64_t rows(int from, int to, int round) { return (from + 2 * to + round) % 4; }

void check_all_to_all(Communicator& group, at::Device device) {
  for (at::ScalarType dtype : kTypes) {
    for (int round = 0; round < 4; ++round) {
      std::vector<int64_t> send, recv;
      std::vector<at::Tensor> in, expected;
      for (int peer = 0; peer < group.size(); ++peer) {
        send.push_back(rows(group.rank(), peer, round));
        recv.push_back(rows(peer, group.rank(), round));
        in.push_back(held(device, group.rank(), {send[peer], 3, 2}, dtype, peer));
        expected.push_back(held(device, peer, {recv[peer], 3, 2}, dtype, group.rank()));
      }
      const at::Tensor all = at::cat(expected);
      at::Tensor out = at::zeros(all.sizes(), at::device(device).dtype(dtype));
      group.all_to_all(out, at::cat(in), recv, send);
      check_same_bits(out, all, "all_to_all");
    }
  }
  const std::vector<int64_t> none(group.size(), 0);
  group.all_to_all(at::empty({0, 4}), at::empty({0, 4}), none, none);
}

void check_broadcast(Communicator& group, at::Device device) {
  for (int root = 0; root < group.size(); ++root) {
    for (int64_t n : kSizes) {
      at::Tensor inout = held(device, group.rank(), {n}, at::kBFloat16);
      group.broadcast(inout, root);
      check_same_bits(inout, held(device, root, {n}, at::kBFloat16), "broadcast");
    }
  }
}

/// Evens and odds, in reverse order; then the same split again inside each.
void check_split(Communicator& group, at::Device device) {
  const int color = group.rank() % 2;
  auto half = group.split(color, -group.rank(), "half");
  const int members = (group.size() + 1 - color) / 2;
  ENSURE(half->size() == members, "{} members, want {}", half->size(), members);
  ENSURE(half->rank() == members - 1 - group.rank() / 2, "rank {}", half->rank());
  at::Tensor sum = at::full({1}, group.rank(), at::device(device).dtype(at::kLong));
  half->all_reduce(sum);
  int64_t expected = 0;
  for (int r = color; r < group.size(); r += 2) expected += r;
  ENSURE(sum.item<int64_t>() == expected, "sum {}, want {}", sum.item<int64_t>(), expected);

  auto alone = half->split(half->rank(), 0, "alone");
  ENSURE(alone->size() == 1 && alone->rank() == 0 && alone->name() == "alone", "size {}", alone->size());
  alone->barrier();
  group.barrier();
}

void check_count(const Traffic::Count& count, int64_t calls, int64_t bytes, const char* what) {
  ENSURE(count.calls == calls && count.bytes == bytes, "{}: {} calls, {} bytes, want {}, {}", what, count.calls,
         count.bytes, calls, bytes);
}

void check_traffic(Communicator& group, at::Device) {
  auto fresh = group.split(0, 0, "fresh");
  const int64_t ranks = fresh->size(), others = ranks - 1;
  fresh->all_gather(at::zeros({ranks * 10}), at::zeros({10}));
  fresh->reduce_scatter(at::zeros({10}), at::zeros({ranks * 10}, at::kBFloat16));
  fresh->all_reduce(at::zeros({ranks * 6}, at::kDouble));
  const std::vector<int64_t> three(ranks, 3);
  fresh->all_to_all(at::zeros({ranks * 3, 5}), at::zeros({ranks * 3, 5}), three, three);
  fresh->broadcast(at::zeros({8}), 0);
  fresh->barrier();
  fresh->barrier();
  const Traffic& traffic = fresh->diagnostics().traffic();
  check_count(traffic.all_gather, 1, others * 10 * 4, "all_gather");
  check_count(traffic.reduce_scatter, 1, others * 10 * 2, "reduce_scatter");
  check_count(traffic.all_reduce, 1, 2 * others * 6 * 8, "all_reduce");
  check_count(traffic.all_to_all, 1, others * 3 * 5 * 4, "all_to_all");
  check_count(traffic.broadcast, 1, fresh->rank() == 0 ? others * 8 * 4 : 0, "broadcast");
  check_count(traffic.barrier, 2, 0, "barrier");
}

void check_trace(Communicator& group, at::Device) {
  auto fresh = group.split(0, 0, "fresh");
  fresh->broadcast(at::zeros({8}, at::kBFloat16), 0);
  fresh->all_reduce(at::zeros({3}));
  // Both groups are in one order: the split, then what the new group did.
  const std::string before = group.diagnostics().trace()->text();
  ENSURE(before == fresh->diagnostics().trace()->text(), "the groups of a rank have a trace each");
  const auto line = [](const std::string& trace, int from_end) {
    std::vector<std::string> lines;
    std::istringstream in(trace);
    for (std::string text; std::getline(in, text);) lines.push_back(text);
    return lines.at(lines.size() - static_cast<size_t>(from_end));
  };
  const int64_t last = std::stoll(line(before, 1).substr(1));
  const auto check_line = [&](int from_end, const std::string& text) {
    const std::string want = fmt::format("#{} {}", last + 1 - from_end, text);
    ENSURE(line(before, from_end) == want, "{}\nwant {}", before, want);
  };
  check_line(3, group.name() + ".split Int 2 finished");
  check_line(2, "fresh.broadcast BFloat16 8 finished");
  check_line(1, "fresh.all_reduce Float 3 finished");
  for (int i = 0; i < 100; ++i) fresh->barrier();
  const std::string full = group.diagnostics().trace()->text();
  ENSURE(std::ranges::count(full, '\n') == 64, "trace:\n{}", full);
  ENSURE(line(full, 64) == fmt::format("#{} fresh.barrier Byte 0 finished", last + 37), "{}", full);
}

/// Mistakes that a rank sees by itself, before it calls the others.
void check_refusals(Communicator& group, at::Device) {
  const int64_t ranks = group.size();
  auto refuse = [&](const char* part, const std::function<void()>& call) { check_contains(error_of(call), part); };
  refuse("all_gather: out is 5", [&] { group.all_gather(at::zeros({5}), at::zeros({7})); });
  refuse("all_gather: out is", [&] { group.all_gather(at::zeros({ranks * 4}), at::zeros({4}, at::kDouble)); });
  refuse("is not contiguous", [&] { group.all_reduce(at::zeros({3, 4}).t()); });
  refuse("undefined tensor", [&] { group.broadcast(at::Tensor(), 0); });
  refuse("cannot reduce Bool into Bool", [&] { group.all_reduce(at::zeros({2}, at::kBool)); });
  refuse("cannot reduce Float into BFloat16",
         [&] { group.reduce_scatter(at::zeros({2}, at::kBFloat16), at::zeros({ranks * 2})); });
  refuse("root", [&] { group.broadcast(at::zeros({2}), group.size()); });
  refuse("adds up to", [&] {
    const std::vector<int64_t> two(ranks, 2);
    group.all_to_all(at::zeros({ranks * 2}), at::zeros({ranks * 2 + 1}), two, two);
  });
  refuse("ranks of", [&] { group.all_to_all(at::zeros({2}), at::zeros({2}), {}, {}); });
  refuse("but is not part", [&] {
    at::Tensor whole = at::zeros({ranks * 4 + 1});
    group.all_gather(whole.narrow(0, 0, ranks * 4), whole.narrow(0, ranks * 4 - 3, 4));
  });
  group.barrier();
}

}  // namespace

at::Tensor draw(int rank, at::IntArrayRef shape, at::ScalarType dtype, int seed) {
  at::Tensor values = at::empty(shape, at::kDouble);
  const double scale = at::isIntegralType(dtype, /*includeBool=*/true) ? 1000.0 : 1.0;
  for (int64_t i = 0; i < values.numel(); ++i) {
    uint64_t bits = (i + 1) * 0x9E3779B97F4A7C15U ^ (rank * 1009 + seed + 1) * 0xD1B54A32D192ED03U;
    bits = (bits ^ (bits >> 31)) * 0x94D049BB133111EBU;
    const double unit = static_cast<double>(bits >> 11) * 0x1p-53;
    values.data_ptr<double>()[i] = scale * (2 * unit - 1);
  }
  return values.to(dtype);
}

void check_same_bits(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ENSURE(actual.dtype() == expected.dtype() && actual.sizes() == expected.sizes(), "{}: other dtype or shape", what);
  const at::Tensor a = actual.cpu().contiguous(), b = expected.cpu().contiguous();
  ENSURE(a.nbytes() == 0 || std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0, "{} of {} {}: other bits", what,
         a.numel(), c10::toString(a.scalar_type()));
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  throw Error("a call that must be refused went through");
}

void check_contains(const std::string& text, const std::string& part) {
  ENSURE(text.find(part) != std::string::npos, "\"{}\" does not say \"{}\"", text, part);
}

const std::vector<CollectiveCase>& collective_cases() {
  static const std::vector<CollectiveCase> cases{
      {"all_gather", check_all_gather},
      {"reduce_scatter", check_reduce_scatter},
      {"bfloat16 is summed in float32", check_wide_sum},
      {"all_reduce", check_all_reduce},
      {"NaN survives", check_nan_survives},
      {"all_to_all", check_all_to_all},
      {"broadcast", check_broadcast},
      {"split", check_split},
      {"traffic", check_traffic},
      {"trace", check_trace},
      {"refusals", check_refusals},
  };
  return cases;
}

}  // namespace olmoe
