"""What nvidia-smi says of the GPU while scripts/gpu/check.py runs: one process of it, which samples until the end."""
import csv
import io
import statistics
import subprocess
import time
from datetime import datetime
from pathlib import Path

FIELDS = ("timestamp", "name", "driver_version", "memory.total", "memory.free", "memory.used", "clocks.sm",
          "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu", "utilization.gpu")
BUSY = 50  # percent: of samples below, clocks and power say nothing of what is timed
EVERY_MS = 200
PATIENCE_S = 30  # for the first sample: without a persistence daemon the driver is initialised first


def number(text):
    """The value of a field, None where nvidia-smi has none ("[N/A]")."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


class Watch:
    """Facts of the first GPU, and samples of its clocks, power and memory. Without nvidia-smi there are none."""

    def __init__(self, path):
        self.path, self.process = Path(path), None

    def start(self):
        """Returns whether there was a first sample."""
        command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "--id=0",
                   f"--loop-ms={EVERY_MS}"]
        try:
            with self.path.open("w") as sink:
                self.process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        except OSError:
            return False
        due = time.monotonic() + PATIENCE_S
        while not self.samples() and self.process.poll() is None and time.monotonic() < due:
            time.sleep(0.05)
        return bool(self.samples())

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def samples(self):
        if not self.path.exists():
            return []
        rows = csv.reader(io.StringIO(self.path.read_text(errors="replace")), skipinitialspace=True)
        return [dict(zip(FIELDS, row)) for row in rows if len(row) == len(FIELDS)]

    def facts(self):
        """What the first sample says; {} without one."""
        return next(iter(self.samples()), {})

    def between(self, begin_s, end_s):
        """Between two times of time.time(): clocks and power while the GPU was busy, temperature and memory; {} without
        a sample."""
        def taken_s(sample):
            return datetime.strptime(sample["timestamp"], "%Y/%m/%d %H:%M:%S.%f").timestamp()
        samples = [sample for sample in self.samples() if begin_s <= taken_s(sample) <= end_s]

        def values(field, busy):
            kept = [sample for sample in samples if not busy or (number(sample["utilization.gpu"]) or 0) >= BUSY]
            return [value for sample in kept if (value := number(sample[field])) is not None]
        found = {"median_sm_mhz": (statistics.median, "clocks.sm", True), "least_sm_mhz": (min, "clocks.sm", True),
                 "median_power_w": (statistics.median, "power.draw", True), "most_power_w": (max, "power.draw", True),
                 "most_celsius": (max, "temperature.gpu", False), "most_used_mib": (max, "memory.used", False)}
        return {name: of(values(field, busy)) for name, (of, field, busy) in found.items() if values(field, busy)}
