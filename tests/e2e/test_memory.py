"""The peak of tensor bytes that a run counts is what its dry run plans. Of all layouts: mpi_layouts_tests."""
import json
import re
import unittest
from pathlib import Path

from support import ProgramTest, last_step

# No kind of memory is a rounding error, and none needs to divide by the ranks.
MEASURABLE = """\
model: {vocab_size: 1000, d_model: 168, num_layers: 3, num_heads: 6, num_kv_heads: 3, num_experts: 6, top_k: 2,
        expert_width: 136, loss_chunk: 100}
train: {steps: 2, compute_dtype: float32, micro_batch_size: 2, global_batch_size: 8}
schedule: {warmup_steps: 1}
data: {synthetic: true, sequence_length: 96}
checkpoint: {every_steps: 1, keep: 1}
run: {threads: 1, folder: run}
"""
# Small batches of four micro-batches, which the data loader's thread allocates and the training thread frees.
SMALL_BATCHES = ("model.d_model=32", "model.num_layers=1", "model.num_heads=2", "model.num_kv_heads=2",
                 "model.num_experts=4", "model.expert_width=16", "data.sequence_length=64",
                 "train.micro_batch_size=1", "train.global_batch_size=4", "checkpoint.every_steps=0",
                 "checkpoint.save_last=false", "train.steps=2500")
UNIT_BYTES = {"MiB": 2**20, "GiB": 2**30}


class Memory(ProgramTest):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(MEASURABLE, "measurable.yaml")

    def planned(self, ranks, *overrides):
        """The dry run's total, in bytes."""
        code, text = self.outcome(self.config, *overrides, "--dry-run", "--ranks", ranks)
        self.assertEqual(code, 0, text)
        total, unit = re.search(r"memory of a rank: ([0-9.]+) (MiB|GiB) = ", text).groups()
        return float(total) * UNIT_BYTES[unit]

    def check(self, ranks, *overrides):
        with self.subTest(ranks=ranks, overrides=overrides):
            planned = self.planned(ranks, *overrides)
            name = "_".join((str(ranks), *overrides))
            run = self.train(name, *overrides, ranks=ranks)
            peak = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["peak_memory_bytes"]
            self.assertGreater(planned, 4 * 2**20)
            self.assertAlmostEqual(planned / peak, 1, delta=0.05, msg=f"planned {planned:.0f}, measured {peak}")

    def test_one_rank(self):
        self.check(1, "train.compute_dtype=bfloat16", "train.recompute=selective")

    def test_two_ranks(self):
        self.check(2, "parallel.zero_stage=1", "train.recompute=selective", "train.compute_dtype=bfloat16")
        self.check(2, "parallel.replicate=2", "train.recompute=full")
        self.check(2, "parallel.reduce_dtype=bfloat16")

    def test_experts_on_two_ranks(self):
        for recompute in ("selective", "full"):
            self.check(2, "parallel.expert=2", f"train.recompute={recompute}")
        self.check(2, "parallel.expert=2", "parallel.expert_chunks=2")
        self.check(2, "parallel.expert=2", "parallel.expert_chunks=4", "train.compute_dtype=bfloat16")
        self.check(2, "parallel.expert=2", "parallel.expert_chunks=3", "train.recompute=selective")

    def test_four_ranks(self):
        self.check(4, "parallel.replicate=2", "parallel.shard=2", "train.compute_dtype=bfloat16")
        self.check(4, "model.ffn=dense", "train.recompute=selective")


class HostMemory(ProgramTest):
    def anonymous_bytes_at(self, job, step):
        job.wait_until(lambda: last_step(self.folder / "run") >= step)
        status = Path(f"/proc/{job.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    def test_it_does_not_grow_with_the_steps(self):
        config = self.write_config(MEASURABLE, "measurable.yaml")
        job = self.start(config, *SMALL_BATCHES)
        early, late = (self.anonymous_bytes_at(job, step) for step in (500, 2000))
        self.assertEqual(job.wait(), 0, job.text())
        self.assertLess(late - early, 1.5 * 2**20, "5 KB a step before one arena was set, 7.5 MB here")


if __name__ == "__main__":
    unittest.main()
