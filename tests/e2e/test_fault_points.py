"""Kills one rank at each named point of a save, of retention and of a load, and resumes: core/process/fault_point.h."""
import re
import tempfile
import unittest
from pathlib import Path

from support import REPOSITORY, TINY, Job, ProgramTest, checkpoints, step_lines, trained_state

STEPS, EVERY = 8, 2
OVERRIDES = (f"train.steps={STEPS}", f"checkpoint.every_steps={EVERY}", "checkpoint.keep=1",
             f"checkpoint.keep_weights_every_steps={EVERY}", "train.compute_dtype=float64")
POINTS = re.findall(r'"([a-z]+\.[a-z_]+)"', (REPOSITORY / "core" / "process" / "fault_point.h").read_text())
ON_RANK_0_ALONE = [point for point in POINTS if point.startswith(("retention", "commit")) and point != "commit.done"]


class FaultPointTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        """The run that nobody kills."""
        with tempfile.TemporaryDirectory(prefix="olmoe-e2e-") as folder:
            config = Path(folder, "tiny.yaml")
            config.write_text(TINY)
            job = Job(folder, [config, "run.folder=straight", *OVERRIDES], 2)
            assert job.wait() == 0, job.text()
            cls.straight = step_lines(Path(folder, "straight")), trained_state(Path(folder, "straight"))

    def killed(self, point, rank, nth):
        """A run of two ranks that is killed at a point; returns whether it came there."""
        job = Job(self.folder, [self.config, "run.folder=run", *OVERRIDES], 2,
                  environment={"OLMOE_FAULT": f"{point} {rank} {nth} kill"})
        return job.wait() != 0

    def trial(self, point, rank):
        if point.startswith("load"):
            self.train("run", *OVERRIDES[1:], "train.steps=4", ranks=2)
            self.assertTrue(self.killed(point, rank, 1), "it was not killed")
        else:
            self.assertTrue(self.killed(point, rank, 2), "it was not killed")
        run = self.folder / "run"
        saved = checkpoints(run)
        self.assertTrue(saved, "the first save was committed")
        self.assertLessEqual(len(step_lines(run)) - saved[-1], 2 * EVERY, "more is lost than one save")
        code, text = self.outcome(self.config, "run.folder=run", *OVERRIDES, ranks=2)
        self.assertEqual(code, 0, text)
        self.assertIn(f"resuming from run/checkpoints/step_{saved[-1]:09}", text)
        self.assertEqual((step_lines(run), trained_state(run)), self.straight)
        self.assertEqual([path.name for path in (run / "checkpoints").iterdir()], [f"step_{STEPS:09}"])
        self.assertEqual(sorted(path.name for path in (run / "weights").iterdir()),
                         [f"step_{step:09}" for step in range(EVERY, STEPS, EVERY)])


def add_trial(case, point, rank):
    def test(self):
        self.trial(point, rank)
    setattr(case, f"test_{point.replace('.', '_')}_on_rank_{rank}", test)


class SomePoints(FaultPointTest):
    def test_all_points_are_known(self):
        self.assertGreaterEqual(len(set(POINTS)), 20)
        code, text = self.outcome(self.config, "run.folder=run", *OVERRIDES,
                                  environment={"OLMOE_FAULT": "commit.nowhere 0 1 kill"})
        self.assertEqual(code, 2, text)
        self.assertIn("OLMOE_FAULT: 'commit.nowhere 0 1 kill' is not POINT RANK NTH kill", text)


class PointsOfSaves(FaultPointTest):
    pass


class PointsOfCommitsAndLoads(FaultPointTest):
    pass


for known in POINTS:
    for number in (0,) if known in ON_RANK_0_ALONE else (0, 1):
        add_trial(PointsOfSaves if known.startswith(("save", "shard")) else PointsOfCommitsAndLoads, known, number)
for known, number in (("shard.half", 1), ("commit.manifest", 0), ("retention.between", 0)):
    add_trial(SomePoints, known, number)

if __name__ == "__main__":
    unittest.main()
