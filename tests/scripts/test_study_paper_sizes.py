"""Every study at the paper's size is planned by the real programs: parameters, tokens, memory of the named GPUs, hours."""
import unittest

from study_case import PROGRAM, REPOSITORY

from study.plan import make_plan
from study.programs import Programs
from study.spec import read_study


class PaperSizes(unittest.TestCase):
    def test_every_run_fits_its_gpus_and_has_predicted_hours(self):
        programs = Programs.find({"program": PROGRAM, "plan_program": PROGRAM.parent / "olmoe-plan"})
        for path in sorted(path for path in (REPOSITORY / "configs" / "studies").iterdir() if not path.stem.endswith("-tiny")):
            with self.subTest(path.name):
                plan = make_plan(read_study(path), programs)
                self.assertGreaterEqual(len(plan.runs), 2)
                for run in plan.runs.values():
                    self.assertGreater(run.predicted_hours(), 0)


if __name__ == "__main__":
    unittest.main()
