"""What a run says before its first step, and a dry run with it: tokens, schedule, disk, memory, idle ranks."""
import array
import re
import unittest

from support import PROGRAM, REPOSITORY, TINY, ProgramTest

CONFIG_ERROR = 2
ABSURD = ("model.vocab_size=16777216", "model.d_model=16384", "model.num_heads=128", "model.num_kv_heads=128")


class StartNotices(ProgramTest):
    def setUp(self):
        super().setUp()
        for name, tokens in {"long": 50, "short": 15}.items():
            ids = array.array("H", [(7 * i + 1) % 64 for i in range(tokens)])
            (self.folder / f"{name}.npy").write_bytes(ids.tobytes())
        (self.folder / "link.npy").symlink_to("long.npy")
        files = TINY.replace("synthetic: true", "paths: [long.npy, short.npy]")
        self.config = self.write_config(files + "evaluation: {paths: [link.npy]}\n")

    def expected(self, steps):
        """Lines without their time, rank and level."""
        return [f"training tokens: 2 files of 65 tokens, of which 48 are used, in 3 sequences of 16; the run takes "
                f"{steps * 48}: {steps}.00 epochs",
                "data.paths: 17 of 65 tokens (26 %) are left out, since a sequence takes data.sequence_length = 16 tokens "
                "of one file; 1 of 2 files are shorter than that and not used at all: join them, or lower it",
                "evaluation.paths: the run trains on held-out files, so that their loss is not that of unseen text: "
                "link.npy is the training file long.npy"]

    def check_once(self, text, lines):
        for line in lines:
            self.assertEqual(len(re.findall(re.escape(line) + "$", text, re.MULTILINE)), 1, f"{line}\nin\n{text}")

    def test_before_the_first_step_and_in_a_dry_run(self):
        arguments = (self.config, "train.global_batch_size=3", "train.steps=8", "schedule.decay_steps=1",
                     "checkpoint.every_steps=3", "checkpoint.keep=1")
        expected = self.expected(8) + [
            "schedule.decay_steps: 1 is not after the warm-up, schedule.warmup_steps = 2: the learning rate falls from "
            "0.0055 to its floor, 0.001, at step 2"]
        idle = "train.global_batch_size: 3 sequences in micro-batches of 1 (train.micro_batch_size) are work for 3 of 4 " \
               "ranks: 1 idle"
        code, planned = self.outcome(*arguments, "--dry-run", "--ranks", "4")
        self.assertEqual(code, 0, planned)
        self.check_once(planned, expected + [idle])
        for notice in expected[1:] + [idle]:
            self.assertIn(f"notice: {notice}\n", planned)
        self.assertRegex(planned, r"(?m)^checkpoints: .* each, at most 2 at one time, .* are free on the disk$")
        self.assertRegex(planned, r"(?m)^memory: the plan of a rank is .* free \(.*\)$")

        code, text = self.outcome(*arguments, ranks=4)
        self.assertEqual(code, 0, text)
        before, after = text.split("new run in ", maxsplit=1)
        self.check_once(before, expected + [idle])
        self.check_once(text, expected + [idle])
        self.assertRegex(before, r"rank 0 info checkpoints: .* each, at most 2 at one time, ")
        self.assertRegex(before, r"rank 0 info memory: 4 ranks of .* here are .* free \(.*\)\n")
        self.assertRegex(before, r"rank 0 warning data.paths: ")
        self.assertIn(" step ", after)

    def test_a_rate_that_jumps_at_a_resume(self):
        self.train("run", "train.steps=4", "schedule.decay_steps=0")
        jump = "the learning rate jumps from 0.001 at step 4 to 0.009397 at step 5, since the checkpoint is of another " \
               "schedule (train.steps: 4 -> 20)"
        again = (self.config, "train.steps=20", "schedule.decay_steps=0")
        code, planned = self.outcome(*again, "--dry-run")
        self.assertEqual(code, 0, planned)
        self.assertIn("run.folder: run has step 4, from which a run resumes\n", planned)
        self.check_once(planned, [jump])
        code, text = self.outcome(*again)
        self.assertEqual(code, 0, text)
        self.check_once(text.split("resuming from", maxsplit=1)[0], [jump])


class StartMemory(ProgramTest):
    def limited(self, limit_kib, *arguments):
        """Under `ulimit -d`."""
        return self.outcome(*arguments, program=("bash", "-c", f'ulimit -d {limit_kib} && exec "$@"', "limited", PROGRAM))

    def test_a_plan_that_fits_nowhere_fails_the_dry_run(self):
        code, text = self.outcome(self.config, "--dry-run", *ABSURD)
        self.assertEqual(code, CONFIG_ERROR, text)
        self.assertRegex(text, r"(?m)^notice: memory: the plan of a rank is \d+\.\d+ GiB, more than the .* of .*: this "
                               r"cannot fit\. docs/memory\.md says what to change first$")
        self.assertIn("training tokens: synthetic", text)  # the rest is printed as well

    def test_a_plan_is_compared_with_the_gpu_that_is_named(self):
        config = REPOSITORY / "configs" / "olmoe-1b-7b.yaml"
        code, text = self.outcome(config, "--dry-run", "--gpu", "h100", "parallel.shard=1")  # 124 GB of trained state
        self.assertEqual(code, CONFIG_ERROR, text)
        self.assertRegex(text, r"more than the 74\.51 GiB of h100: this cannot fit")
        code, text = self.outcome(config, "--dry-run", "--gpu", "h100")
        self.assertEqual(code, 0, text)
        self.assertRegex(text, r"(?m)^memory: the plan of a rank is .* free \(h100\)$")

    def test_a_run_that_cannot_fit_is_refused_with_both_figures(self):
        for ranks in (0, 2):
            code, text = self.outcome(self.config, *ABSURD, ranks=ranks)
            self.assertEqual(code, CONFIG_ERROR, text)
            self.assertRegex(text, r"error memory: .* GiB, more than the .* of .*: this cannot fit")
            self.assertNotIn("last collectives", text)
            self.assertFalse((self.folder / "run").exists())

    def test_a_limit_of_the_shell_counts(self):
        large = (self.config, "model.vocab_size=4194304")  # 4.3 GB of trained state
        code, text = self.limited(3 << 20, *large)
        self.assertEqual(code, CONFIG_ERROR, text)
        self.assertRegex(text, r"memory: the plan of a rank is 4\.\d+ GiB, more than the 3\.00 GiB of ulimit -d: this "
                               r"cannot fit")
        code, text = self.limited(3 << 20, self.config)
        self.assertEqual(code, 0, text)


if __name__ == "__main__":
    unittest.main()
