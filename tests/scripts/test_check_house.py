"""Plants violations in a small house and expects scripts/check_house.py to name each, and nothing else."""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts"
sys.path.append(str(SCRIPTS))  # last: the standard library comes before tokenize.py
from check_house import check_house
from cpp_functions import functions_of
from refused_words import WORDS


def check(files):
    """Returns the problems of a house of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        looked_at, problems = check_house(Path(folder))
        assert looked_at > 0
        return problems


def include(target):
    return f"#include {target}\n"


class Includes(unittest.TestCase):
    def assert_allowed(self, name, target):
        self.assertEqual(check({name: include(target)}), [])

    def assert_refused(self, name, target, words):
        lines = check({name: "// a first line\n" + include(target)})
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith(f"{name}:2: "), lines)
        self.assertIn(words, lines[0])

    def test_floors_go_down_only(self):
        self.assert_refused("core/a.cpp", '"data/batch.h"', "may not include data")
        self.assert_refused("kernels/a.cpp", '"parallel/side_stream.h"', "may not include parallel")
        self.assert_refused("data/a.h", '"kernels/adamw.h"', "may not include kernels")
        self.assert_refused("model/a.h", '"trainer/config/config.h"', "may not include trainer")
        self.assert_refused("trainer/a.cpp", '"apps/train.h"', "may not include apps")
        self.assert_allowed("kernels/a.cpp", '"core/error.h"')
        self.assert_allowed("kernels/a.cpp", '"kernels/a.h"')
        self.assert_allowed("trainer/a.cpp", '"parallel/sharded_unit.h"')
        self.assert_allowed("tests/core/a.cpp", '"support/catch.h"')

    def test_floors_inside_a_folder(self):
        self.assert_refused("core/a.cpp", '"core/files/files.h"', "core is on floor 0 and may not include core/files")
        self.assert_refused("parallel/collectives/a.cpp", '"parallel/side_stream.h"', "may not include parallel")
        self.assert_refused("trainer/job/a.h", '"trainer/planner/plan.h"', "may not include trainer/planner")
        self.assert_refused("trainer/a.cpp", '"trainer/preflight/doctor.h"', "may not include trainer/preflight")
        self.assert_refused("trainer/device/a.h", '"model/stage.h"', "may not include model/stage.h")
        self.assert_refused("data/a.h", '"kernels/rows/dtypes.h"', "may not include kernels/rows")
        self.assert_allowed("kernels/hopper/a.cu", '"kernels/rows/dtypes.h"')
        self.assert_allowed("kernels/hopper/a.cu", '"kernels/hopper/b.cuh"')
        self.assert_allowed("trainer/preflight/a.cpp", '"trainer/trainer.h"')
        self.assert_allowed("trainer/config/a.cpp", '"core/reader/config_reader.h"')

    def test_a_room_holds_18_units(self):
        units = [f"trainer/u{i}" for i in range(18)]
        house = {f"{unit}{end}": "" for unit in units for end in (".h", ".cpp", ".cu", "_index.h", "_element.h")}
        self.assertEqual(check(house), [])
        self.assertEqual(check({**house, "trainer/another.h": ""}), ["trainer: 19 units, more than 18"])
        self.assertEqual(check({**house, "trainer/job/another.h": ""}), [])

    def test_a_room_is_named(self):
        self.assert_refused("model/a.cpp", '"layers.h"', "does not start with a room")

    def test_model_sees_little_of_parallel_and_data(self):
        self.assert_refused("model/a.h", '"parallel/sharded_unit.h"', "may not include parallel/sharded_unit.h")
        self.assert_refused("model/a.h", '"parallel/collectives/mpi_communicator.h"',
                            "may not include parallel/collectives/mpi_communicator.h")
        self.assert_refused("model/a.h", '"data/data_loader.h"', "may not include data/data_loader.h")
        for target in ("parallel/collectives/communicator.h", "parallel/device_mesh.h", "parallel/row_exchange.h",
                       "data/batch.h"):
            self.assert_allowed("model/a.h", f'"{target}"')

    def test_outside_libraries_have_one_home(self):
        homes = {
            "<mpi.h>": ["parallel/collectives/mpi_communicator.cpp", "apps/train.cpp", "tests/parallel/mpi_test.cpp"],
            "<nccl.h>": ["parallel/collectives/nccl_communicator.cpp"],
            "<cuda_runtime.h>": ["kernels/a.cu", "kernels/a.cuh", "parallel/collectives/nccl_communicator.cpp"],
            "<c10/cuda/CUDAStream.h>": ["kernels/a.cu", "parallel/collectives/nccl_communicator.cpp"],
            "<cub/cub.cuh>": ["kernels/a.cu"],
            "<cudnn_frontend.h>": ["kernels/cudnn/a.cpp"],
            "<ATen/cudnn/Handle.h>": ["kernels/cudnn/a.cpp"],
            "<yaml-cpp/yaml.h>": ["core/reader/config_reader.cpp", "core/reader/config_reader_document.cpp"],
            "<spdlog/spdlog.h>": ["core/log.cpp"],
            "<catch2/catch.hpp>": ["tests/support/catch.h"],
            "<torch/torch.h>": [],
        }
        for target, allowed in homes.items():
            self.assert_refused("trainer/a.cpp", target, "is not included here")
            for name in allowed:
                self.assert_allowed(name, target)

    def test_a_comment_is_no_include(self):
        self.assert_allowed("core/a.cpp", '<vector>\n/*\n#include "data/batch.h"\n*/\n// #include <mpi.h>')


class Lengths(unittest.TestCase):
    def assert_limit(self, name, limit, line="int i;\n"):
        self.assertEqual(check({name: line * limit}), [])
        problem = f"{name}:{limit + 1}: {limit + 1} lines, more than {limit}"
        self.assertEqual(check({name: line * (limit + 1)}), [problem])

    def test_files(self):
        self.assert_limit("core/a.h", 180)
        self.assert_limit("core/a.cpp", 400)
        self.assert_limit("kernels/a.cu", 400)
        self.assert_limit("CMakeLists.txt", 220)
        self.assert_limit("scripts/a.py", 400, "i = 0\n")

    def test_functions(self):
        def cpp(lines):
            return "\nvoid f() {\n" + "  work();\n" * (lines - 2) + "}\n"

        self.assertEqual(check({"core/a.cpp": cpp(70)}), [])
        self.assertEqual(check({"core/a.cpp": cpp(71)}), ["core/a.cpp:2: f has 71 lines, more than 70"])
        python = "def f():\n" + "    work()\n" * 70
        self.assertEqual(check({"scripts/a.py": python}), ["scripts/a.py:1: f has 71 lines, more than 70"])

    def test_columns(self):
        self.assertEqual(check({"core/a.cpp": "// " + "a" * 117 + "\n"}), [])
        self.assertEqual(check({"core/a.cpp": "\n// " + "a" * 118 + "\n"}), ["core/a.cpp:2: 121 columns, more than 120"])

    def test_doc_blocks(self):
        block = "int i;  ///< of i\n" + "  /// A line.\n" * 4 + "  ///\n" + "  /// A line.\n" * 4 + "void f();\n"
        self.assertEqual(check({"core/a.h": block}), [])
        self.assertEqual(check({"core/a.h": block.replace("void", "  /// One more.\nvoid")}),
                         ["core/a.h:2: a /// block of 9 lines, more than 8"])
        self.assertEqual(check({"core/a.h": "int i;  ///< of i\n" * 9 + "// A line.\n" * 9}), [])

    def test_nesting(self):
        def nested(depth):
            return "void f() {\n" + "if (a) {\n" * depth + "}\n" * (depth + 1)

        self.assertEqual(check({"core/a.cpp": nested(4)}), [])
        self.assertEqual(check({"core/a.cpp": nested(5)}), ["core/a.cpp:1: f nests 5 deep, more than 4"])


    def test_parameters(self):
        def taking(count):
            return f"\nint f({', '.join(f'P<int, T> a{i}' for i in range(count))}) {{ return 0; }}\n"

        self.assertEqual(check({"core/a.cpp": taking(6)}), [])
        self.assertEqual(check({"core/a.cpp": taking(7)}), ["core/a.cpp:2: f has 7 parameters, more than 6"])
        self.assertEqual(check({"tests/emulation/include/cub/a.cuh": taking(7)}), [])

    def test_template_parameters_of_lambdas(self):
        good = ["[&]<int kWidth, bool kHeld>(int threads) {", "[&]<typename N>() {", "template <int N>", "row[i] < (int N)",
                "a[i] < int64_t(n) && b > (c)", "// [&]<int N>() {"]
        for line in good:
            self.assertEqual(check({"kernels/a.cu": f"{line}\n"}), [], line)
        for line, name in (("f([&]<int N>() {", "N"), ("f([&]<int kWidth, bool held>(int a) {", "held"),
                           ("f([=, &x] <int64_t N>\n() {", "N"), ("f([]<auto kinds> {", "kinds")):
            self.assertEqual(check({"kernels/a.cu": f"\n{line}\n"}),
                             [f"kernels/a.cu:2: {name}, a template parameter of a lambda, may hide a variable: call it kLikeThis"])


class Format(unittest.TestCase):
    STYLE = (REPOSITORY / ".clang-format").read_text()

    def test_a_file_that_clang_format_would_change_is_named_once(self):
        files = {".clang-format": self.STYLE, "core/a.cpp": "int a;\n", "core/b.h": "int a;\nint  b;\nint  c;\n"}
        self.assertEqual(check(files), ["core/b.h:2: not as clang-format 14 formats it"])

    def test_without_the_program_the_check_fails(self):
        with mock.patch.dict(os.environ, PATH=""):
            problems = check({".clang-format": self.STYLE, "core/a.cpp": "int a;\n"})
        self.assertEqual(len(problems), 1, problems)
        self.assertIn("clang-format 14 is not installed: scripts/install_packages.sh test", problems[0])

    def test_another_version_does_not_do(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, PATH=folder):
            for name in ("clang-format-14", "clang-format"):
                program = Path(folder, name)
                program.write_text("#!/bin/sh\necho 'clang-format version 15.0.7'\n")
                program.chmod(0o755)
            problems = check({".clang-format": self.STYLE, "core/a.cpp": "int  a;\n"})
        self.assertIn("clang-format 14 is not installed", problems[0])


class Functions(unittest.TestCase):
    """Each text holds what a naive count of braces would get wrong."""

    def assert_functions(self, text, expected):
        self.assertEqual([(name, lines, nesting) for name, _, lines, nesting, _ in functions_of(text)], expected)

    def test_braces_in_comments_and_literals(self):
        text = 'void f() {\n // {{{\n /* { */ auto s = "{\\"{"; char c = \'{\'; auto r = R"x({)"{)x";\n}'
        self.assert_functions(text, [("f", 4, 0)])

    def test_digit_separators_are_no_quotes(self):
        self.assert_functions("void f() {\n long n = 10'000'000;\n}\nvoid g() {}", [("f", 3, 0), ("g", 1, 0)])

    def test_preprocessor_lines(self):
        self.assert_functions("#define OPEN {{ \\\n {{\nvoid f() {}", [("f", 1, 0)])

    def test_initializers_do_not_nest(self):
        text = "void f() {\n std::vector<P> v = {{1, {2}}, P{3}};\n call({1, 2}, T{{4}});\n}"
        self.assert_functions(text, [("f", 4, 0)])
        self.assert_functions("const T table[] = {{1}, {2}};\nint f() { return {}; }", [("f", 1, 0)])

    def test_types_and_namespaces_do_not_nest(self):
        text = "namespace a { struct S { int i = 0;\n public: int f() const { if (i) { return 1; } return 0; } }; }"
        self.assert_functions(text, [("f", 1, 1)])

    def test_lambdas_belong_to_their_function(self):
        text = "void f() {\n run(0, n, [&](int i) {\n for (;;) { g(i); }\n });\n auto h = [] { if (a) {} };\n}"
        self.assert_functions(text, [("f", 6, 2)])

    def test_heads(self):
        for head in ("template <class A, class B = std::vector<int>>\nauto f(A a) -> std::vector<B>",
                     "bool f() const noexcept", "[[nodiscard]] static T f(int a = g(1), T b = {})",
                     "T& T::f(const T& o)"):
            functions = functions_of(head + " {\n while (a) { }\n}")
            self.assertEqual([(f[0].split("::")[-1], f[3]) for f in functions], [("f", 1)], head)
        for head, parameters in (("void f()", 0), ("void f( )", 0), ("template <class A, class B>\nvoid f(A a, B b)", 2),
                                 ("T S::f(std::map<int, T> a, int (*g)(int, int), std::array<int, 2> b) const", 3)):
            self.assertEqual([f[4] for f in functions_of(head + " {}")], [parameters], head)
        constructor = functions_of("S::S(int a)\n    : a_(a), b_{a}, c_{{1}} {\n if (a) { }\n}")
        self.assertEqual([(f[0], f[2], f[3]) for f in constructor], [("S::S", 4, 1)])


class Leftovers(unittest.TestCase):
    def test_machine_paths_and_unfinished_work(self):
        planted = {f"see /{'work'}/main": "a path of one machine", f"/{'root'}/x": "a path of one machine",
                   f"{'TO' 'DO'}: later": "a mark of unfinished work"}
        for text, problem in planted.items():
            self.assertEqual(check({"docs/a.md": f"fine\n{text}\n"}), [f"docs/a.md:2: {problem}: {text}"])

    def test_build_outputs_are_not_looked_at(self):
        outputs = ["build/a.cpp", "build-x/a.cpp", ".deps/a.h", "runs/a.h", "tokens/a.h"]
        files = {name: include("<torch/torch.h>") for name in outputs}
        self.assertEqual(check(files | {"core/a.h": ""}), [])
        self.assertEqual(len(check(files | {"core/a.h": include("<torch/torch.h>")})), 1)


class Links(unittest.TestCase):
    def test_a_document_links_to_files_and_names_files_that_are_there(self):
        good = "[a](../core/a.h), [b](b.md#part), [c](https://a.org/b.md), `core/a.h`, `kernels/X.cu`, `core/`\n"
        files = {"docs/a.md": good, "docs/b.md": "", "core/a.h": ""}
        self.assertEqual(check(files), [])
        self.assertEqual(check(files | {"docs/a.md": "x\n[a](c.md)\n"}), ["docs/a.md:2: a link to c.md, which is not there"])
        self.assertEqual(check(files | {"docs/a.md": "`core/b.h`\n"}), ["docs/a.md:1: names core/b.h, which is not there"])
        self.assertEqual(check(files | {"docs/decisions/001-a.md": "`core/b.h`\n"}), [])


class House(unittest.TestCase):
    def test_ours_is_in_order(self):
        done = subprocess.run([sys.executable, SCRIPTS / "check_house.py", REPOSITORY], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)


class Words(unittest.TestCase):
    REFUSED = {  # of each pattern of scripts/refused_words.py the uses that it refuses
        "reduce_dtype": ["parallel.gradient_wire: bfloat16"],
        "SavedNorm, saved for backward": ["const KeptRows& kept;"],
        "warm up": ["graph->rehearse(work);", "// the rehearsals of a step", "StepGraph::kRehearsals"],
        "resume from": ["// a run goes on from step 3", "the step that it went on from", "// going on from a checkpoint",
                        "// to go on from there"],
        "peak": ["auto moment = fullest_moment(config);"],
        "SequenceSource": ["const InstanceSource& source;"],
        "register": ["world.enroll(memory);", "// Enrolled memory", "// enrolling"],
        "grouped GEMM": ["// ATen's grouped product", "// Grouped products of experts"],
        "train_micro_batch, LocalTotals": ["runner.train_pass(batch);", "PassTotals totals;"],
        "accumulation steps": ["// two accumulation rounds", "// each micro-batch round", "// rounds of micro-batches",
                               "// in the last of 2 passes of a step"],
        "DeviceGraph: warm_up, capture, replay": ["std::unique_ptr<GraphRecorder> r;", "make_graph_recorder(device);"],
        "dispatch and combine, or send": ["// rows travel", "// Travelling tokens", "// tokens that traveled"],
        "in flight": ["// tokens are on their way", "// a row is on its way"],
        "fix": ["// mend it", "// Mending the file", "// it was mended"],
        "distinguished": ["// zeros are not told apart"],
        "side stream": ["SideLane lane;", "// a lane of work"],
    }
    LEGAL = ["const int lane = threadIdx.x % 32;  // lanes of a warp", "// rounds to nearest, ties to even",
             "// rounds the sum once; one round of a cipher", "// a pass of a kernel over rows", "// an instance of a template",
             "// docs/decisions/008-rows-that-travel.md", "// recommended, amended, dependent, commend",
             'v.renamed("gradient_wire", "reduce_dtype");', "// the run goes on; what goes on", "// event.record(stream)",
             "// a dot product of a group", "// the product is grouped", "// on the way to main"]

    def test_every_refused_word_is_named_with_the_word_to_use(self):
        self.assertEqual(set(self.REFUSED), {use for _, use, _ in WORDS})
        for use, lines in self.REFUSED.items():
            for line in lines:
                with self.subTest(line=line):
                    problems = check({"core/a.cpp": f"// a first line\n{line}\n"})
                    self.assertEqual(len(problems), 1, problems)
                    self.assertTrue(problems[0].startswith("core/a.cpp:2: "), problems)
                    self.assertIn(f": {use} (docs/glossary.md)", problems[0])

    def test_legal_uses(self):
        self.assertEqual(check({"core/a.cpp": "".join(f"{line}\n" for line in self.LEGAL)}), [])

    def test_where_words_are_refused(self):
        text = "A run goes on from its checkpoint.\n"
        for name in ("README.md", "docs/memory.md", "scripts/a.sh", "configs/a.yaml", "CMakeLists.txt", "cmake/a.cmake"):
            with self.subTest(name=name):
                self.assertEqual(len(check({name: f"# {text}"})), 1)
        for name in ("docs/decisions/001-a.md", "docs/benchmarks/a.md", "docs/glossary.md", "tests/fixtures/a.json"):
            with self.subTest(name=name):
                self.assertEqual(check({name: text}), [])
        self.assertEqual(check({"scripts/a.py": "# a rehearsal without a GPU\n"}), [])


if __name__ == "__main__":
    unittest.main()
