"""Which kernels a training step runs and for how long, out of what nsys or ncu wrote of a short run."""
import csv
import io
import re
from collections import defaultdict

MOST_KERNELS = 25
NS = {"ns": 1, "nsecond": 1, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "s": 1e9, "second": 1e9}


def table(text):
    """The rows of the CSV table in a profiler's output, as dicts: what stands before its header is talk."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.search(r'(^|,)"?(Kernel )?Name"?(,|$)', line)), len(lines))
    return list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))


def launches_of(text):
    """[(kernel, ns)] in order. nsys: stats --report cuda_gpu_trace --format csv. ncu: --csv --page raw."""
    launches, unit = [], "ns"
    for row in table(text):
        name = row.get("Kernel Name") or row.get("Name")
        took = row.get("gpu__time_duration.sum") or row.get("Duration (ns)")
        if not name and took in NS:  # ncu's second line: the units
            unit = took
        elif name and took:
            launches.append((name, float(took.replace(",", "")) * NS[unit]))
    return launches


def one_step(launches, steps):
    """The launches of the last step but one of a run of `steps`, [] where it cannot be told.

    A kernel that was launched once a step shows where a step begins, if the next step launches the same kernels."""
    names, places = [name for name, _ in launches], defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    for found in places.values():
        if len(found) != steps:
            continue
        begin, end = found[-2:]
        if sorted(names[begin:end]) == sorted(names[end:2 * end - begin]):
            return launches[begin:end]
    return []


def short(name):
    """A kernel's name without what it returns, its arguments and its namespaces' anonymous parts."""
    name = re.sub(r"\((anonymous namespace|unnamed)\)::|<unnamed>::", "", name).removeprefix("void ")
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def summary(text, steps):
    """{"launches", "gpu_ms", "kernels": [[name, launches, ms, share], ...]} of one step, the longest kernels first."""
    launches = launches_of(text)
    if not launches:
        raise ValueError("the profiler saw no kernel")
    step = one_step(launches, steps) if steps > 1 else []
    kernels = defaultdict(lambda: [0, 0.0])
    for name, ns in step or launches:
        kernels[short(name)][0] += 1
        kernels[short(name)][1] += ns * 1e-6
    total_ms = sum(ms for _, ms in kernels.values())
    longest = sorted(kernels.items(), key=lambda item: -item[1][1])[:MOST_KERNELS]
    return {"of": "one step" if step else f"the whole run of {steps} steps", "launches": len(step or launches),
            "gpu_ms": total_ms, "kernels": [[name, count, ms, ms / total_ms] for name, (count, ms) in longest]}
