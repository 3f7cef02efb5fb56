"""What kernel_resources.py makes of ptxas's report, held against small sources."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/kernel_resources.py"
HEADER = """constexpr int kWarp = 32;
__global__ void __launch_bounds__(kWarp* kWarp) add(int x) {}
"""
SOURCE = """#include "kernels/sums.cuh"
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp, 2)
    update(T x) {}
__global__ void write(int x) {}
"""


def report(name, registers, shared_bytes=0, namespaces=("olmoe", "kernels")):
    mangled = "_ZN" + "".join(f"{len(part)}{part}" for part in (*namespaces, name)) + "Ei"
    shared = f", {shared_bytes} bytes smem" if shared_bytes else ""
    return (f"ptxas info    : Compiling entry function '{mangled}' for 'sm_90a'\n"
            f"    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
            f"ptxas info    : Used {registers} registers, used 1 barriers{shared}\n")


class KernelResources(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        for folder in ("kernels", "ptxas"):
            (self.root / folder).mkdir()
        (self.root / "kernels/sums.cuh").write_text(HEADER)
        (self.root / "kernels/update.cu").write_text(SOURCE)

    def check(self, *kernels):
        (self.root / "ptxas/update").write_text("".join(kernels))
        done = subprocess.run([sys.executable, SCRIPT, self.root / "ptxas", self.root], capture_output=True, text=True)
        return done.returncode, done.stderr.strip().splitlines()

    def test_what_fits(self):
        self.assertEqual(self.check(report("update", 255), report("write", 64), report("add", 64, 49152)), (0, []))

    def test_kernels_of_other_rooms(self):
        (self.root / "trainer/device").mkdir(parents=True)
        (self.root / "trainer/device/probe.cu").write_text("__global__ void probe(int x) {}\n")
        namespaces = "olmoe", "cuda", "_GLOBAL__N__4a5b_probe"
        for registers, said in ((64, []), (65, ["probe.cu: probe: 65 registers for each of 1024 threads are more than 65536"])):
            (self.root / "ptxas/probe").write_text(report("probe", registers, namespaces=namespaces))
            self.assertEqual(self.check(*(report(name, 32) for name in ("update", "write", "add"))), (len(said), said))

    def test_registers_that_a_block_of_the_launch_bound_does_not_have(self):
        code, said = self.check(report("update", 255), report("write", 65), report("add", 72))
        self.assertEqual((code, said), (1, [
            "update.cu: write: 65 registers for each of 1024 threads are more than 65536",
            "update.cu: add: 72 registers for each of 1024 threads are more than 65536"]))

    def test_too_much_shared_memory(self):
        code, said = self.check(report("update", 32), report("write", 32), report("add", 32, 49153))
        self.assertEqual((code, said), (1, ["update.cu: add: 49153 bytes of shared memory are more than 49152"]))

    def test_a_kernel_that_the_report_lacks(self):
        self.assertEqual(self.check(report("write", 32)),
                         (1, ["update.cu: ptxas reports nothing of update", "sums.cuh: ptxas reports nothing of add"]))

    def test_fused_kernels_are_asked_for_where_they_are_built(self):
        (self.root / "kernels/hopper").mkdir()
        (self.root / "kernels/hopper/fused.cu").write_text("__global__ void multiply(int x) {}\n")
        kernels = [report("update", 32), report("write", 32), report("add", 32)]
        self.assertEqual(self.check(*kernels), (1, ["fused.cu: ptxas reports nothing of multiply"]))
        self.assertEqual(self.check(*(kernel.replace("sm_90a", "sm_80") for kernel in kernels)), (0, []))

    def test_no_report_at_all(self):
        code, said = self.check("")
        self.assertEqual(code, 1)
        self.assertIn("has no kernel", said[0])

    def test_a_bound_that_is_not_understood_is_no_bound(self):
        (self.root / "kernels/update.cu").write_text(SOURCE.replace("kWarps* kWarp", "kUnknown"))
        code, said = self.check(report("update", 32), report("write", 32), report("add", 32))
        self.assertEqual(code, 1)
        self.assertIn("kUnknown is no number", said[-1])


if __name__ == "__main__":
    unittest.main()
