"""The choice of documents in scripts/make_text_tokens.py: copies, sizes, the split by path, and where LibTorch may lie."""
import os
import signal
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))  # last: tokenize.py is no standard library
import make_text_tokens


class Choice(unittest.TestCase):
    def test_copies_empty_huge_and_undecodable_files_are_left_out(self):
        documents = [("a", b"text"), ("b", b"text"), ("c", b" \n"), ("d", b"\xff\xfe"), ("e", b"other"),
                     ("f", b"x" * (make_text_tokens.MAX_DOCUMENT_BYTES + 1))]
        chosen = make_text_tokens.choose(documents)
        self.assertEqual(sorted(text for _, text in chosen), ["other", "text"])

    def test_the_order_of_the_file_system_does_not_matter(self):
        documents = [(f"file{i}", f"text {i}".encode()) for i in range(50)]
        self.assertEqual(make_text_tokens.choose(documents), make_text_tokens.choose(documents[::-1]))

    def test_a_domain_stays_below_its_size(self):
        documents = [(f"file{i}", f"{i:010}".encode()) for i in range(50)]
        with mock.patch.object(make_text_tokens, "MAX_DOMAIN_BYTES", 105):
            self.assertEqual(len(make_text_tokens.choose(documents)), 10)

    def test_about_one_in_twenty_is_held_out(self):
        heldout = sum(make_text_tokens.is_heldout(f"folder/file{i}.py") for i in range(20_000))
        self.assertGreater(heldout, 900)
        self.assertLess(heldout, 1100)


class Domain(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.output = Path(scratch.name)
        documents = [(f"file{i}", f"text {i}".encode()) for i in range(100)]
        patch = mock.patch.object(make_text_tokens, "documents_of", return_value=documents)
        patch.start()
        self.addCleanup(patch.stop)

    def names(self):
        return sorted(path.name for path in self.output.iterdir())

    def test_a_run_that_ended_half_way_is_made_good(self):
        (self.output / "prose_train.npy").write_bytes(b"of an earlier run")
        (self.output / "prose_train.csv.gz").write_bytes(b"of an earlier run")
        make_text_tokens.make_domain("prose", self.output)
        expected = [f"prose_{split}{suffix}" for split in ("heldout", "train") for suffix in (".csv.gz", ".npy")]
        self.assertEqual(self.names(), expected)
        self.assertGreater((self.output / "prose_train.npy").stat().st_size, 1000)

    def test_a_tokenizer_that_fails_is_told_in_one_line(self):
        failing = self.output / "failing.py"
        failing.write_text("raise SystemExit(3)")
        with mock.patch.object(make_text_tokens, "TOKENIZER", failing):
            with self.assertRaisesRegex(SystemExit, "prose_train.npy was not made: failing.py ended with 3"):
                make_text_tokens.make_domain("prose", self.output)
        self.assertEqual(self.names(), ["failing.py"])

    def test_a_signal_ends_the_tokenizer_too(self):
        slow = self.output / "slow.py"
        slow.write_text(f"import os, time; open({str(self.output)!r} + '/pid', 'w').write(str(os.getpid())); [time.sleep(0.05) for _ in range(1200)]")

        def interrupt(*_):
            raise SystemExit(128 + signal.SIGUSR1)

        def interrupt_once_begun():
            while not (self.output / "pid").exists() or not (self.output / "pid").read_text():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGUSR1)

        self.addCleanup(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, interrupt))
        threading.Thread(target=interrupt_once_begun).start()
        begin_s = time.monotonic()
        with mock.patch.object(make_text_tokens, "TOKENIZER", slow), self.assertRaises(SystemExit):
            make_text_tokens.make_domain("prose", self.output)
        self.assertLess(time.monotonic() - begin_s, 30)
        with self.assertRaises(ProcessLookupError):
            os.kill(int((self.output / "pid").read_text()), 0)


class LibTorch(unittest.TestCase):
    def root(self, named):
        with mock.patch.dict(os.environ, {"LIBTORCH": str(named)}):
            return make_text_tokens.libtorch_root()

    def test_it_lies_in_the_named_folder_or_in_torch_or_libtorch_below(self):
        for below in (".", "torch", "libtorch"):
            with self.subTest(below=below), tempfile.TemporaryDirectory() as name:
                root = Path(name, below)
                (root / "include" / "ATen").mkdir(parents=True)
                (root / "include" / "ATen" / "ATen.h").touch()
                self.assertEqual(self.root(name), root)

    def test_a_folder_without_it_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as name:
            Path(name, "libtorch", "include").mkdir(parents=True)
            with self.assertRaisesRegex(SystemExit, f"{name} holds no LibTorch"):
                self.root(name)


if __name__ == "__main__":
    unittest.main()
