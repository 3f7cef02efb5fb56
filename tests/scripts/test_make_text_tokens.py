"""The choice of documents in scripts/make_text_tokens.py: copies, sizes, the split by path, and where LibTorch may lie."""
import os
import sys
import tempfile
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
