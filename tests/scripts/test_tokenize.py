"""scripts/tokenize.py with byte ids: formats, order, parts, refusals. Standard library alone."""
import gzip
import os
import subprocess
import unittest

from tokenize_case import TokenizeCase, byte_ids, ids_of, rows_of


class TokenizeTest(TokenizeCase):
    def test_documents_end_with_256_and_have_rows(self):
        path = self.write("a,b.jsonl", '{"id": "x,\\"1", "text": "h\\u00e9"}\n\n{"text": "no id"}\n')
        self.tokenize(path.name)
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("hé", "no id"))
        table = gzip.decompress(self.output.with_suffix(".csv.gz").read_bytes())
        self.assertEqual(table, b'0,4,"x,""1","a,b.jsonl",1\r\n4,10,3,"a,b.jsonl",3\r\n')

    def test_ids_of_documents_are_text(self):
        ids = ["null", '"x"', "7", "1.5", "true", '["a", {"b": null}]']
        self.write("a.jsonl", "".join(f'{{"text": "t", "id": {id}}}\n' for id in ids))
        self.tokenize("a.jsonl")
        rows = rows_of(self.output.with_suffix(".csv.gz"))
        self.assertEqual([row[2] for row in rows], ["1", "x", *ids[2:]])
        self.output = self.folder / "refused" / "tokens"
        self.write("a.jsonl", '{"text": "t", "id": "\\ud800"}\n')
        self.assert_refused("a.jsonl:1: 'utf-8' codec can't encode", "a.jsonl")

    def test_white_space_around_a_text_is_removed_on_demand(self):
        self.write_documents("a.jsonl", [" \u3000\n", "\x1c two  words\u00a0\n"])
        self.write("b.txt", "\n kept \n")
        done = self.tokenize("a.jsonl", "b.txt", "--strip")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("two  words", "kept"))
        self.assertIn("1 empty documents", done.stdout)

    def test_the_table_ends_with_the_number_of_tokens(self):
        self.write_documents("a.jsonl", ["one", "three", "\n".join("ab")])
        for dtype, width in (("uint16", 2), ("uint32", 4)):
            self.output = self.folder / dtype / "tokens"
            self.tokenize("a.jsonl", "--dtype", dtype)
            rows = rows_of(self.output.with_suffix(".csv.gz"))
            self.assertEqual([(row[0], row[1]) for row in rows], [("0", "4"), ("4", "10"), ("10", "14")])
            self.assertEqual(self.output.with_suffix(".npy").stat().st_size, 14 * width)

    def test_uint32(self):
        self.write_documents("a.json", ["abc"])
        self.tokenize("a.json", "--dtype", "uint32")
        self.assertEqual(ids_of(self.output.with_suffix(".npy"), "I"), byte_ids("abc"))

    def test_empty_documents_are_skipped_and_text_is_not_changed(self):
        self.write_documents("a.jsonl", ["", " \n", "  kept  \n"])
        done = self.tokenize("a.jsonl")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("  kept  \n"))
        self.assertIn("1 documents", done.stdout)
        self.assertIn("2 empty documents", done.stdout)

    def test_text_files_and_folders_in_order_of_name(self):
        self.write("in/b.txt", "second")
        self.write("in/a/z.md", b"first \xff")
        self.write("in/c.jsonl", '{"text": "third"}\n{"text": "fourth"}')
        self.tokenize("in")
        first = [*b"first \xff", 256]
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), first + byte_ids("second", "third", "fourth"))
        rows = rows_of(self.output.with_suffix(".csv.gz"))
        self.assertEqual([row[2:] for row in rows][:2], [["z.md", "in/a/z.md", "1"], ["b.txt", "in/b.txt", "1"]])

    def test_compressed_inputs_equal_plain_ones(self):
        plain = self.write_documents("a.jsonl", [f"document {i}" for i in range(1000)])
        self.tokenize("a.jsonl")
        expected = ids_of(self.output.with_suffix(".npy"))
        self.write("b.jsonl.gz", gzip.compress(plain.read_bytes()))
        subprocess.run(["zstd", "-q", plain, "-o", self.folder / "c.jsonl.zst"], check=True)
        for name in ("b.jsonl.gz", "c.jsonl.zst"):
            self.output = self.folder / "out" / name[0]
            self.tokenize(name)
            self.assertEqual(ids_of(self.output.with_suffix(".npy")), expected, name)

    def test_process_count_does_not_change_a_byte(self):
        # Larger than three chunks of lines, so that processes finish out of order.
        self.write_documents("a.jsonl", [f"{i} " * (i % 50) + "x" * (i % 7000) for i in range(4000)])
        self.write("b.txt", "after")
        written = []
        for processes in ("1", "2", "5"):
            self.output = self.folder / f"out{processes}" / "tokens"
            self.tokenize("a.jsonl", "b.txt", "--processes", processes, "--max-tokens-per-file", "3000000")
            written.append({path.name: path.read_bytes() for path in sorted(self.output.parent.iterdir())})
        self.assertEqual(len(written[0]), 6)  # three parts
        self.assertEqual(written[0], written[1])
        self.assertEqual(written[0], written[2])

    def test_parts_hold_whole_documents(self):
        self.write_documents("a.jsonl", ["aaa", "bb", "cccc", "d"])
        self.tokenize("a.jsonl", "--max-tokens-per-file", "7")
        parts = [ids_of(self.output.with_name(f"tokens-{i:05d}.npy")) for i in range(2)]
        self.assertEqual(parts, [byte_ids("aaa", "bb"), byte_ids("cccc", "d")])
        rows = rows_of(self.output.with_name("tokens-00001.csv.gz"))
        self.assertEqual([row[:3] for row in rows], [["0", "5", "d2"], ["5", "7", "d3"]])

    def test_a_document_longer_than_a_part_is_refused(self):
        self.write_documents("a.jsonl", ["a", "bbbb"])
        message = "a.jsonl:2: 5 tokens, more than --max-tokens-per-file 4"
        self.assert_refused(message, "a.jsonl", "--max-tokens-per-file", "4")

    def test_bad_lines_are_refused_by_file_and_line(self):
        for line, problem in [
            ('{"text": }', "Expecting value"),
            ('["text"]', "a JSON object is needed, not list"),
            ('{"txt": "a"}', "no string under 'text'"),
            ('{"text": 7}', "no string under 'text'"),
            ('{"text": "\\ud800"}', "surrogates not allowed"),
            ("[" * 100000, "recursion"),
        ]:
            with self.subTest(line[:20]):
                self.write("a.jsonl", '{"text": "good"}\n\n' + line + "\n")
                self.assert_refused("a.jsonl:3: ", "a.jsonl")
                self.assert_refused(problem, "a.jsonl", "--processes", "2")

    def test_bad_lines_are_skipped_on_demand_and_counted(self):
        self.write("a.jsonl", b'{"text": "one"}\n{"text\n\xff\n{"text": "two"}\n')
        done = self.tokenize("a.jsonl", "--skip-bad-lines")
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("one", "two"))
        self.assertIn("2 bad lines", done.stdout)
        self.assertIn("skipped a.jsonl:2: ", done.stderr)
        self.assertIn("skipped a.jsonl:3: ", done.stderr)

    def test_damaged_compressed_files_are_refused(self):
        plain = self.write_documents("a.jsonl", [os.urandom(500).hex() for _ in range(100)])
        packed = gzip.compress(plain.read_bytes())
        self.write("torn.jsonl.gz", packed[: len(packed) // 2])
        self.write("changed.jsonl.gz", packed[:-8] + b"\0" * 8)
        self.write("text.jsonl.gz", "not compressed")
        subprocess.run(["zstd", "-q", plain], check=True)
        self.write("torn.jsonl.zst", (self.folder / "a.jsonl.zst").read_bytes()[:3000])
        for name in ("torn.jsonl.gz", "changed.jsonl.gz", "text.jsonl.gz", "torn.jsonl.zst"):
            with self.subTest(name):
                self.assert_refused(f"{name}: damaged: ", name, "--skip-bad-lines")

    def test_inputs_without_documents_are_refused(self):
        self.write("empty.jsonl", "")
        self.write("blank.txt", " \n")
        (self.folder / "nothing").mkdir()
        self.assert_refused("the inputs hold no documents", "empty.jsonl", "blank.txt")
        self.assert_refused("absent.jsonl: no such file or folder", "absent.jsonl")
        self.assert_refused("hold no files", "nothing")

    def test_old_output_is_kept(self):
        self.write_documents("a.jsonl", ["first"])
        self.tokenize("a.jsonl")
        self.write_documents("a.jsonl", ["second"])
        done = self.run_script("a.jsonl")
        self.assertEqual(done.returncode, 3)
        self.assertIn("tokens.npy: already there", done.stderr)
        self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("first"))

    def test_progress_without_a_terminal(self):
        self.write_documents("a.jsonl", ["x" * 999])
        lines = self.tokenize("a.jsonl").stderr.splitlines()
        self.assertEqual(len(lines), 1)
        self.assertIn("100%", lines[0])
        self.assertIn("1,000 tokens", lines[0])


if __name__ == "__main__":
    unittest.main()
