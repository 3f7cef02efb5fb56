"""What the emulation's copies of the CUDA sources differ in from the sources."""
import sys
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/emulation"))
from rewrite_launches import rewrite  # noqa: E402


class RewriteLaunches(unittest.TestCase):
    def rewritten(self, text):
        """Without the line that names the source."""
        return rewrite(text, "x.cu", REPOSITORY).split("\n", 1)[1]

    def test_all_other_lines_of_the_kernels_stay(self):
        sources = [path for room in ("kernels", "kernels/rows", "trainer/device") for suffix in ("*.cu", "*.cuh")
                   for path in sorted((REPOSITORY / room).glob(suffix))]
        self.assertGreater(len(sources), 10)
        for path in sources:
            text = path.read_text()
            lines, copied = text.splitlines(), self.rewritten(text).splitlines()
            self.assertEqual(len(lines), len(copied), path)
            for number, (line, copy) in enumerate(zip(lines, copied)):
                # A launch may begin with its kernel's name on the line before.
                if line != copy and "__shared__" not in line:
                    self.assertIn("<<<", line + lines[number + 1], f"{path}:{number + 1}")

    def test_a_launch(self):
        source = ("constexpr int kThreads = 32;\n"
                  "template <typename T, int N>\n__global__ void __launch_bounds__(kThreads, 2)\n    add(T x, int y) {}\n"
                  "void f() { add<float, 4><<<dim3(1, 2), kThreads, 0, Launch(x)>>>(x, g(y)); }\n")
        self.assertIn('::emulation::Launch("add", kThreads, dim3(1, 2), kThreads, 0, Launch(x))'
                      ".run([](auto... copies) { add<float, 4>(copies...); }, x, g(y));", self.rewritten(source))
        self.assertIn('Launch("add", 1024, 1, 2)', self.rewritten("__global__ void add(int x) {}\n void f() { add<<<1, 2>>>(x); }"))

    def test_shared_memory(self):
        self.assertEqual(self.rewritten("  extern __shared__ int counts[];"),
                         "  int* const counts = ::emulation::dynamic_shared<int>();")
        self.assertEqual(self.rewritten("  __shared__ T a[4][5], b[6];"),
                         "  T (&a)[4][5] = ::emulation::shared<T[4][5]>([] {}); "
                         "T (&b)[6] = ::emulation::shared<T[6]>([] {});")

    def test_what_is_not_understood_is_an_error(self):
        for text, problem in (("add<<<1, 2>>>(x);", "x.cu: add is launched, but is no kernel"),
                              ("\n(f)<<<1, 2>>>(x);", "x.cu:2: a launch that is not understood"),
                              ("__shared__ int count;", "x.cu:1: a declaration of shared memory that is not understood")):
            with self.assertRaises(ValueError) as caught:
                rewrite(text, "x.cu", REPOSITORY)
            self.assertIn(problem, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
