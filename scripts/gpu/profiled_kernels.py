"""Which kernels a training step runs and for how long, out of what bench/profile_steps wrote of a short run, and what ncu
counted of single kernels."""
import csv
import io
import re
from collections import defaultdict

MOST_KERNELS = 25


def table(text):
    """The rows of the CSV table in a profiler's output, as dicts: what stands before its header is talk."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.search(r'(^|,)"?(Kernel )?Name"?(,|$)', line)), len(lines))
    return list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))


def launches_of(text):
    """[(kernel, ns)] in order, of the table that bench/profile_steps writes."""
    return [(row["Name"], float(row["Duration (ns)"])) for row in table(text) if row.get("Duration (ns)")]


def counters(text):
    """[{"kernel", metric: value, ...}] of what ncu --csv --page raw wrote, a row a launch."""
    found = []
    for row in table(text):
        metrics = {name: value.replace(",", "") for name, value in row.items() if name and "__" in name and value}
        if row.get("Kernel Name") and metrics:  # the second line has the units alone
            found.append({"kernel": short(row["Kernel Name"])} | {name: float(value) for name, value in metrics.items()})
    if not found:
        raise ValueError("ncu counted nothing")
    return found


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
