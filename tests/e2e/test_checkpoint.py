"""olmoe-checkpoint: what it refuses, that Ctrl-C leaves nothing half-made, and its memory with a model that is larger."""
import json
import math
import os
import signal
import struct
import subprocess
import unittest

from support import PROGRAM, ProgramTest

CHECKPOINT = PROGRAM.parent / "olmoe-checkpoint"
CONFIG, UNREADABLE = 2, 4
MAX_RESIDENT = 250 << 20  # bytes: LibTorch takes some 120 MiB, pieces some tens


def zeros_of_a_model(folder, blocks=4, width=512, experts=32, vocabulary=50304):
    """A Hugging Face folder whose weights are a hole in a file: zeros in bfloat16. Returns their bytes."""
    shapes = {"model.embed_tokens": [vocabulary, width], "model.norm": [width], "lm_head": [vocabulary, width]}
    for block in range(blocks):
        layer = f"model.layers.{block}."
        shapes |= {layer + name: [width] for name in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm",
                                                      "self_attn.k_norm")}
        shapes |= {f"{layer}self_attn.{name}_proj": [width, width] for name in "qkvo"}
        shapes[layer + "mlp.gate"] = [experts, width]
        shapes |= {f"{layer}mlp.experts.{expert}.{name}_proj": [width, width]
                   for expert in range(experts) for name in ("gate", "up", "down")}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "olmoe", "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": width,
        "num_hidden_layers": blocks, "num_attention_heads": 8, "num_experts": experts, "num_experts_per_tok": 4,
        "rms_norm_eps": 1e-5}))
    return end


class Convert(ProgramTest):
    def command(self, *arguments):
        self.assertTrue(CHECKPOINT.is_file(), f"no program {CHECKPOINT}: build it")
        return [CHECKPOINT, *map(str, arguments)]

    def convert(self, *arguments, code=0):
        done = subprocess.run(self.command(*arguments), cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def peak_of(self, *arguments):
        """The largest resident memory of a command, in bytes."""
        process = subprocess.Popen(self.command(*arguments), cwd=self.folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        return usage.ru_maxrss << 10

    def test_a_run_is_exported_imported_compared_and_started_from(self):
        code, text = self.outcome(self.config, "train.steps=2")
        self.assertEqual(code, 0, text)
        self.assertEqual(self.convert("export", "run", "hf"), "")  # no progress: this is no terminal
        self.convert("import", "hf", "step")
        self.assertIn(": all values are equal\n", self.convert("diff", "step", "hf"))
        self.assertIn("exp_avg", self.convert("inspect", "run"))
        self.assertIn("every hash is right", self.convert("verify", "run"))
        self.assertIn("every hash is right", self.convert("verify", "step"))
        self.convert("average", "mean", "step", "step", "hf")
        self.assertIn(": all values are equal\n", self.convert("diff", "mean", "step"))
        code, text = self.outcome(self.config, "run.folder=second", "train.init_from=step", "train.steps=1")
        self.assertEqual(code, 0, text)
        self.assertIn("weights from ", text)

    def test_an_export_has_the_dtype_shards_and_ids_that_are_asked_for(self):
        self.assertEqual(self.outcome(self.config, "train.steps=1")[0], 0)
        self.convert("export", "run", "default")
        whole = os.path.getsize(self.folder / "default" / "model.safetensors")
        for dtype, code, size in (("float32", "F32", 4), ("bfloat16", "BF16", 2), ("float16", "F16", 2)):
            self.convert("export", "run", dtype, "--dtype", dtype)
            weights = (self.folder / dtype / "model.safetensors").read_bytes()
            header = json.loads(weights[8:8 + struct.unpack("<Q", weights[:8])[0]])
            self.assertEqual({tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}, {code})
            self.assertEqual(json.loads((self.folder / dtype / "config.json").read_text())["dtype"], dtype)
            self.assertLess(len(weights), size / 4 * whole + 8192)  # a header beside the values
        self.assertEqual((self.folder / "float32" / "model.safetensors").read_bytes(),
                         (self.folder / "default" / "model.safetensors").read_bytes())
        self.assertNotIn("all values are equal", self.convert("diff", "run", "bfloat16"))
        self.convert("export", "run", "small", "--max-shard-size", str(whole // 3), "--eos-id", "7")
        index = json.loads((self.folder / "small" / "model.safetensors.index.json").read_text())
        self.assertGreaterEqual(len(set(index["weight_map"].values())), 3)
        self.assertEqual(json.loads((self.folder / "small" / "config.json").read_text())["eos_token_id"], 7)
        self.assertIn(": all values are equal\n", self.convert("diff", "run", "small"))
        self.assertIn("--dtype", self.convert("export", "run", "other", "--dtype", "float8", code=CONFIG))

    def test_what_is_refused(self):
        zeros_of_a_model(self.folder / "hf", blocks=1, width=64, experts=2, vocabulary=100)
        self.convert("import", "hf", "step", code=CONFIG)  # top 4 of 2 experts
        zeros_of_a_model(self.folder / "good", blocks=1, width=64, experts=4, vocabulary=100)
        self.convert("import", "good", "step")
        for code, said, arguments in (
                (CONFIG, "step: exists already", ("import", "good", "step")),
                (CONFIG, "--dtype", ("export", "step", "out", "--dtype", "int8")),
                (CONFIG, "has no hashes", ("verify", "good")),
                (CONFIG, "--eos-id: 100 is not below", ("export", "step", "out", "--eos-id", "100")),
                (CONFIG, "only a dense model is upcycled", ("upcycle", "step", "out", "--experts", "8", "--top-k", "2")),
                (CONFIG, "A subcommand is required", ()),
                (UNREADABLE, "there is no folder none", ("inspect", "none"))):
            with self.subTest(arguments=arguments):
                self.assertIn(said, self.convert(*arguments, code=code))
        shard = self.folder / "step" / "shard_00000.safetensors"
        content = bytearray(shard.read_bytes())
        content[-5] ^= 1
        shard.write_bytes(content)
        self.assertIn("shard_00000.safetensors", self.convert("verify", "step", code=UNREADABLE))
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["good", "hf", "step", "tiny.yaml"])

    def test_a_larger_model_takes_the_memory_of_pieces_and_an_interrupt_leaves_nothing(self):
        bytes_of_weights = zeros_of_a_model(self.folder / "hf")
        self.assertGreater(bytes_of_weights, 290 << 20)
        for chosen in (signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen(self.command("import", "hf", "step", "--progress"), cwd=self.folder,
                                       stderr=subprocess.PIPE)
            self.assertIn(b"import: ", process.stderr.read(20))
            self.assertEqual(len(list(self.folder.glob(".tmp_step.*"))), 1)
            process.send_signal(chosen)
            process.communicate()
            self.assertEqual(process.returncode, -chosen)
            self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["hf", "tiny.yaml"])
        self.assertLess(self.peak_of("import", "hf", "step"), MAX_RESIDENT)  # which is twice that in fp32
        self.assertLess(self.peak_of("export", "step", "out", "--max-shard-size", "100MB"), MAX_RESIDENT)
        self.assertLess(self.peak_of("average", "mean", "step", "out"), MAX_RESIDENT)


if __name__ == "__main__":
    unittest.main()
