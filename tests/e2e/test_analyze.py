"""olmoe-analyze: the same counts alone, on ranks and where they share experts; records, and refusals by name."""
import json
import unittest

from support import PROGRAM, ProgramTest

ANALYZE = PROGRAM.parent / "olmoe-analyze"


def read(path):
    """{array: (dtype, shape, bytes)} and the metadata of a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__")
    return {name: (entry["dtype"], entry["shape"], content[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
            for name, entry in header.items()}, metadata


class Analyze(ProgramTest):
    def setUp(self):
        super().setUp()
        self.assertTrue(ANALYZE.is_file(), f"no program {ANALYZE}: build it")
        self.trained = self.train("run", "train.steps=4", "checkpoint.every_steps=2", "train.compute_dtype=float64")
        for name, step in (("prose", 7), ("cpp", 11)):
            ids = bytes(value for place in range(16 * 5) for value in (place * step % 64, 0))
            (self.folder / f"{name}.npy").write_bytes(ids)

    def analyze(self, out, *more, **how):
        steps = [self.trained / "checkpoints" / f"step_{step:09d}" for step in (2, 4)]
        return self.outcome(*steps, "--tokens", "prose=prose.npy", "--tokens", "cpp=cpp.npy", "--out", out, "--dtype", "float64",
                            "--min-count", "2", "--micro-batch", "2", *more, program=(ANALYZE,), **how)

    def test_counts_do_not_depend_on_the_layout(self):
        code, text = self.analyze("alone.safetensors", "--capacity", "1")
        self.assertEqual(code, 0, text)
        self.assertIn("saturation top-k by checkpoint", text)
        self.assertIn("super experts: largest output above", text)
        alone, metadata = read(self.folder / "alone.safetensors")
        self.assertEqual((metadata["domains"], metadata["steps"]), ("prose\ncpp", "2 4"))
        self.assertEqual(alone["load.counts"][:2], ("I64", [2, 2, 2, 4]))
        for out, more, ranks in (("two.safetensors", (), 2), ("shared.safetensors", ("--expert-parallel", "2"), 2)):
            code, text = self.analyze(out, "--capacity", "1", *more, ranks=ranks)
            self.assertEqual(code, 0, text)
            arrays, _ = read(self.folder / out)
            self.assertEqual(arrays.keys(), alone.keys())
            for name, (dtype, shape, content) in alone.items():
                self.assertEqual(arrays[name][:2], (dtype, shape), name)
                if dtype == "I64":
                    self.assertEqual(arrays[name][2], content, name)

    def test_a_record_is_replayed_in_another_dtype(self):
        code, text = self.analyze("out", "--statistics", "load", "--record", "one.safetensors")
        self.assertEqual(code, 0, text)
        self.assertTrue((self.folder / "out" / "routing.safetensors").is_file())
        record, metadata = read(self.folder / "one.safetensors")
        self.assertEqual(metadata["sequence_length"], "16")
        self.assertEqual(record["experts"][:2], ("I32", [160, 2, 2]))
        steps = self.trained / "checkpoints" / "step_000000002"
        code, text = self.outcome(steps, "--tokens", "prose=prose.npy", "--tokens", "cpp=cpp.npy", "--out", "again", "--replay",
                                  "one.safetensors", "--record", "two.safetensors", program=(ANALYZE,), ranks=2)
        self.assertEqual(code, 0, text)
        self.assertEqual(read(self.folder / "two.safetensors")[0]["experts"][2], record["experts"][2])

    def test_what_cannot_be_analyzed_is_refused_and_leaves_no_file(self):
        for more, words in ((("--statistics", "loud"), "--statistics: loud is none of load"),
                            (("--sequences", "6"), "--tokens prose: its files have 5 sequences of 16 tokens"),
                            (("--tokens", "prose"), "--tokens prose: write NAME=FILE"),
                            (("--expert-parallel", "3"), "expert")):
            code, text = self.analyze("refused.safetensors", *more)
            self.assertEqual(code, 2, text)
            self.assertIn(words, text)
        self.train("dense", "model.ffn=dense", "train.steps=1")
        code, text = self.outcome("dense", "--tokens", "prose=prose.npy", "--out", "refused.safetensors", program=(ANALYZE,))
        self.assertEqual((code, "a dense model has no routing to analyze" in text), (2, True), text)
        self.assertFalse((self.folder / "refused.safetensors").exists())
        (self.folder / "there.safetensors").touch()
        code, text = self.analyze("there.safetensors")
        self.assertEqual((code, "exists already" in text), (2, True), text)


if __name__ == "__main__":
    unittest.main()
