"""Small PTX functions, with and without an address of shared memory where only one of global memory may be."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_address_spaces.py"
sys.path.append(str(SCRIPT.parent))
from check_address_spaces import problems_of

KERNEL = """.visible .entry {name}(
	.param .u64 {name}_param_0
)
{{
	ld.param.u64 	%rd1, [{name}_param_0];
	cvta.to.global.u64 	%rd2, %rd1;
	mov.u32 	%r1, memory;
	cvt.u64.u32 	%rd3, %r1;
	cvta.shared.u64 	%rd4, %rd3;
	add.s64 	%rd5, %rd4, 196608;
{body}
	ret;
}}
"""


def found(*bodies):
    """(kernel, instruction) of each problem."""
    text = "".join(KERNEL.format(name=f"kernel_{i}", body=body) for i, body in enumerate(bodies))
    return [(kernel, line.split()[0]) for _, kernel, line in problems_of(text)]


class AddressSpaces(unittest.TestCase):
    def test_a_global_store_to_shared_memory_is_found(self):
        store = "\t{ st.global.wb.v4.u32 [%rd5], {%r1,%r2,%r3,%r4}; }\n"
        self.assertEqual(found(store.replace("{ ", "", 1).replace("; }", ";")), [("kernel_0", "st.global.wb.v4.u32")])

    def test_through_arithmetic_predicates_and_in_any_order_of_lines(self):
        late = "\tadd.s64 \t%rd8, %rd7, 16;\n\t@%p1 st.global.u32 \t[%rd8+4], %r1;\n\tselp.b64 \t%rd7, %rd5, %rd2, %p1;"
        self.assertEqual(found(late), [("kernel_0", "@%p1")])

    def test_loads_prefetches_and_conversions_too(self):
        body = "\tld.global.nc.v2.u32 \t{%r2, %r3}, [%rd5];\n\tprefetch.global.L2 [%rd5];\n\tcvta.to.global.u64 \t%rd9, %rd5;"
        self.assertEqual([line for _, line in found(body)],
                         ["ld.global.nc.v2.u32", "prefetch.global.L2", "cvta.to.global.u64"])

    def test_what_is_right_is_left_alone(self):
        shared = "\tst.shared.v4.u32 \t[%r1+16], {%r1,%r2,%r3,%r4};\n\tst.v4.u32 \t[%rd5], {%r1,%r2,%r3,%r4};"
        to_global = "\tst.global.v4.u32 \t[%rd2], {%r1,%r2,%r3,%r4};"
        loaded = "\tld.u64 \t%rd6, [%rd5];\n\tst.global.u32 \t[%rd6], %r1;"  # a pointer that lies in shared memory
        self.assertEqual(found(shared, to_global, loaded), [])

    def test_a_value_that_is_stored_is_no_address(self):
        self.assertEqual(found("\tst.global.u64 \t[%rd2], %rd5;"), [])

    def test_the_program_says_how_much_it_saw_and_returns_1_for_a_problem(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "some.ptx")
            for body, code in (("\tst.global.u32 \t[%rd5], %r1;", 1), ("\tst.global.u32 \t[%rd2], %r1;", 0)):
                path.write_text(KERNEL.format(name="one", body=body))
                run = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True)
                self.assertEqual(run.returncode, code, run.stdout + run.stderr)
                self.assertIn(f"1 kernels: {code} instructions", run.stdout)
            path.write_text("// nothing\n")
            run = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True)
            self.assertNotEqual(run.returncode, 0)
            self.assertIn("no kernels", run.stderr)


if __name__ == "__main__":
    unittest.main()
