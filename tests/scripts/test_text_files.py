"""Which files scripts/tokenize.py reads: kinds by name and content, hidden ones, links, and files that change."""
import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

from tokenize_case import SCRIPT, TokenizeCase, byte_ids, ids_of, rows_of

sys.path.append(str(SCRIPT.parent))  # last: tokenize.py is no standard library
import text_files
from script_errors import DataError


def line(text):
    return f'{{"text": "{text}"}}\n'.encode()


class KindTest(TokenizeCase):
    def sources(self):
        return [row[3] for row in rows_of(self.output.with_suffix(".csv.gz"))]

    def test_known_kinds_in_any_case(self):
        pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
        suffixes = [(kind, packed) for kind in ("jsonl", "NDJSON", "jsonlines", "Json", "md", "TXT") for packed in pack]
        for i, (kind, packed) in enumerate(suffixes):
            content = f"text {i:02d}".encode() if kind in ("md", "TXT") else line(f"text {i:02d}")
            name = f"in/{i:02d}.{kind}{packed}"
            self.write(name.upper() if i % 2 else name, pack[packed](content))
        os.rename(self.folder / "IN", self.folder / "in/below")
        plain = self.write("in/z.JSONL", line("last"))
        subprocess.run(["zstd", "-q", "--rm", plain, "-o", f"{plain}.ZST"], check=True)
        self.tokenize("in")
        rows = rows_of(self.output.with_suffix(".csv.gz"))
        self.assertEqual([row[3] for row in rows], sorted(row[3] for row in rows))
        ids = ids_of(self.output.with_suffix(".npy"))
        texts = sorted(bytes(ids[int(row[0]) : int(row[1]) - 1]).decode() for row in rows)
        self.assertEqual(texts, ["last", *(f"text {i:02d}" for i in range(len(suffixes)))])

    def test_other_kinds_are_refused_by_name(self):
        names = ["a.parquet", "a.zip", "a.jsonl.txt", "a.jsonl.gz.txt", "a.jsonl.gz.gz", "a.npy", "a.jsonl.lz4", "LICENSE"]
        for name in names:
            with self.subTest(name):
                self.write(f"in/{name}", line("no document"))
                self.write("in/good.jsonl", line("good"))
                self.assert_refused(f"1 files of unknown kind: in/{name} (", "in")
                self.assert_refused(f"1 files of unknown kind: in/{name} (", f"in/{name}")
                (self.folder / "in" / name).unlink()
        for i in range(8):
            self.write(f"in/{i}.bin", "")
        self.assert_refused("8 files of unknown kind: in/0.bin", "in")
        self.assert_refused("in/4.bin (suffix '.bin') and 3 more; convert them", "in")

    def test_other_kinds_are_skipped_on_demand_and_counted(self):
        self.write("in/a.parquet", "PAR1")
        self.write("in/b.jsonl", line("good"))
        self.write("in/LICENSE", "text")
        os.symlink("nowhere", self.folder / "in/link.txt")
        os.mkfifo(self.folder / "in/pipe.txt")
        done = self.tokenize("in", "--skip-unknown-files")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("good"))
        self.assertIn("4 files of unknown kind", done.stdout)
        for problem in ("a.parquet: suffix '.parquet'", "LICENSE: no suffix", "link.txt: a link to nothing", "pipe.txt: no reg"):
            self.assertIn(f"skipped in/{problem}", done.stderr)

    def test_further_suffixes_of_text(self):
        self.write("in/a.log", "first")
        self.write("in/b", "second")
        self.tokenize("in", "--text-suffix", ".LOG", "--text-suffix", "")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("first", "second"))
        self.assertEqual(self.run_script("in", "--text-suffix", "log").returncode, 2)

    def test_hidden_names_are_left_out_of_folders_and_counted(self):
        for name in (".git/HEAD", ".gitattributes", ".cache/a.txt", ".DS_Store", "a/.b.txt"):
            self.write(f"in/{name}", "hidden")
        self.write("in/a/b.txt", "seen")
        done = self.tokenize("in")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("seen"))
        self.assertIn("5 hidden names", done.stdout)
        self.output = self.folder / "out/named"
        self.tokenize("in/.cache", "in/a/.b.txt")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("hidden", "hidden"))

    def test_content_of_another_kind_than_the_name(self):
        for name, content, kind in [
            ("a.txt", gzip.compress(b"text"), "gzip"),
            ("a.txt", bz2.compress(b"text"), "bzip2"),
            ("a.txt.gz", gzip.compress(lzma.compress(b"text")), "xz"),
            ("a.jsonl", b"PAR1\x15\x04", "Parquet"),
            ("a.md", "text".encode("utf-16"), "UTF-16"),
            ("a.md", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ]:
            with self.subTest(kind):
                self.write(f"in/{name}", content)
                self.assert_refused(f"in/{name}: is {kind}", "in", "--skip-bad-lines", "--skip-unknown-files")
                shutil.rmtree(self.folder / "in")

    def test_a_byte_order_mark_is_no_text(self):
        mark = b"\xef\xbb\xbf"
        self.write("a.txt", mark + b"one" + mark)
        self.write("b.txt.gz", gzip.compress(mark + b"two"))
        self.write("c.jsonl", mark + b"\n" + line("\ufeffthree"))
        self.write("d.txt", mark)
        done = self.tokenize("a.txt", "b.txt.gz", "c.jsonl", "d.txt")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("one\ufeff", "two", "\ufeffthree"))
        self.assertIn("1 empty documents", done.stdout)

    def test_streams_one_after_the_other_are_read_to_the_end(self):
        for name, compress in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
            with self.subTest(name):
                parts = compress(line("one")) + compress(b"") + (b"\0" * 4 if name == ".xz" else b"") + compress(line("two"))
                self.output = self.folder / "out" / name[1:]
                self.write(f"a.jsonl{name}", parts)
                self.tokenize(f"a.jsonl{name}")
                self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("one", "two"))
                self.output = self.folder / "refused" / name[1:]
                for damaged in (parts[:-6], parts + b"no stream", parts[:-30] + b"\xff" * 30, b"no stream"):
                    self.write(f"a.jsonl{name}", damaged)
                    self.assert_refused(f"a.jsonl{name}: damaged: ", f"a.jsonl{name}", "--skip-bad-lines")


class FolderTest(TokenizeCase):
    def test_links_are_followed(self):
        self.write("in/a.txt", "one")
        self.write("other/b.txt", "two")
        self.write("other/c/d.txt", "three")
        os.symlink("../other", self.folder / "in/link")
        os.symlink("../other/b.txt", self.folder / "in/b.txt")
        done = self.tokenize("in")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("one", "two", "two", "three"))
        self.assertIn("1 files are read more than once", done.stderr)

    def test_a_link_to_a_folder_above_is_refused(self):
        self.write("in/a/b.txt", "one")
        os.symlink("..", self.folder / "in/a/up")
        self.assert_refused("in/a/up: is a link to a folder that contains it", "in")

    def test_what_is_no_file_is_refused(self):
        self.write("in/a.txt", "one")
        os.symlink("b.txt", self.folder / "in/b.txt")
        self.assert_refused("in/b.txt (a link to nothing: Too many levels of symbolic links)", "in")
        (self.folder / "in/b.txt").unlink()
        os.mkfifo(self.folder / "in/c.txt")
        self.assert_refused("in/c.txt (no regular file)", "in")

    def test_a_name_that_is_not_utf8_is_refused(self):
        self.write("in/a.txt", "one")
        (self.folder / "in" / os.fsdecode(b"\xff.txt")).touch()
        self.assert_refused("'in/\\udcff.txt': the name is not UTF-8", "in")

    def test_what_may_not_be_read_is_refused_by_name(self):
        self.write("in/a/b.txt", "one")
        if os.geteuid() == 0:  # root may read all
            self.folder.chmod(0o755)
            self.addCleanup(os.seteuid, 0)
            os.chown(self.folder / "in/a", 65534, 65534)
            os.seteuid(65534)
        (self.folder / "in/a").chmod(0)
        with self.assertRaisesRegex(DataError, "in/a: cannot be listed: Permission denied"):
            text_files.list_files([f"{self.folder}/in"], [], True)
        (self.folder / "in/a").chmod(0o755)
        listing = text_files.list_files([f"{self.folder}/in"], [], True)
        self.assertEqual([Path(file.path).name for file in listing.files], ["b.txt"])

        if os.geteuid() != os.getuid():
            os.seteuid(0)
            (self.folder / "in/a/b.txt").chmod(0)
            os.seteuid(65534)
        else:
            (self.folder / "in/a/b.txt").chmod(0)
        with self.assertRaisesRegex(DataError, "in/a/b.txt: cannot be read: permission denied"):
            text_files.list_files([f"{self.folder}/in"], [], True)

    def test_a_file_that_changes_while_it_is_read_is_refused(self):
        for change in ("append", "truncate"):
            with self.subTest(change):
                path = self.write("a.jsonl", line("x" * 1000) * 9000)
                chunks = text_files.read_chunks(text_files.TextFile(str(path), True, ""))
                self.assertGreater(len(next(chunks).lines), 0)
                if change == "append":
                    with path.open("ab") as file:
                        file.write(line("late"))
                else:
                    os.truncate(path, 5_000_000)
                with self.assertRaisesRegex(DataError, "a.jsonl: changed while it was read"):
                    list(chunks)


if __name__ == "__main__":
    unittest.main()
