"""The fits of a report on synthetic results: the runs that they are of, what they say, and keys that are refused."""
import unittest
from dataclasses import replace

import numpy as np

from study_results import make_result, make_run, make_study  # puts scripts on the path

from study.fit_keys import complete_fit
from study.report import analyse, answer_text, make_page
from study.statistics import ReportError


class Fits(unittest.TestCase):
    LRS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)

    def ladder(self, best):
        """Runs of two sizes whose final loss is a parabola in log lr."""
        runs, results = [], []
        for size, level in (("small", 2.0), ("large", 1.8)):
            for lr in self.LRS:
                runs.append(make_run(f"{size}-lr={lr:g}", f"{size}, lr={lr:g}", seeds=(1,), model__d_model=int(64 * level), optimizer__lr=lr))
                results.append(make_result(runs[-1], 1, level + 0.05 * np.log(lr / best[size])**2))
        return runs, results

    def test_a_ladder_of_learning_rates(self):
        runs, results = self.ladder({"small": 2.5e-3, "large": 1.5e-3})
        study = make_study(runs, report={"fits": [{"kind": "lr_u_curve"}, {"kind": "lr_u_curve", "runs": ["large*"]}]})
        data, comparisons, fits, _ = analyse(study, results, None)
        self.assertEqual(comparisons, {})  # its first run is no baseline
        self.assertEqual([row[:2] for row in fits[0].rows], [("small", "0.0025"), ("large", "0.0015")])
        self.assertTrue(answer_text(data, comparisons, fits).startswith("Best lr, small: 0.0025 (95"))
        self.assertEqual([fit.chart.name for fit in fits], ["fit_lr", "fit_lr_2"])
        page = make_page(*analyse(study, results, None))
        self.assertIn('id="chart-fit_lr"', page)
        self.assertNotIn('id="chart-difference"', page)

    def test_more_seeds_at_the_best_rate(self):
        # Seeds 2 and 3 are 0.2 higher: taken as they are they would move the lowest point.
        runs, results = self.ladder({"small": 2e-3, "large": 2e-3})
        runs, results = runs[:5], results[:5]
        runs = [replace(run, label=f"AdamW, lr {run.overrides['optimizer.lr']}") for run in runs]
        runs[2] = replace(runs[2], seeds=(1, 2, 3))
        results += [make_result(runs[2], seed, 2.2) for seed in (2, 3)]
        fit = analyse(make_study(runs, report={"fits": [{"kind": "lr_u_curve"}]}), results, None)[2][0]
        self.assertEqual(fit.rows[0][:2], ("AdamW", "0.002"))

    def test_an_optimum_at_the_edge_is_said(self):
        runs, results = self.ladder({"small": 2.5e-3, "large": 1e-4})
        text = analyse(make_study(runs, report={"fits": [{"kind": "lr_u_curve"}]}), results, None)[2][0].sentence
        self.assertIn("large: no optimum, the lowest loss is at the edge of the range, 0.0005: extend it", text)

    def test_an_interval_that_leaves_the_range_is_said(self):
        runs, results = self.ladder({"small": 2.5e-3, "large": 2.5e-3})
        runs, results = runs[:5], [make_result(run, 1, loss) for run, loss in zip(runs, (2.12, 2.05, 2.0, 2.02, 2.03))]
        fit = analyse(make_study(runs, report={"fits": [{"kind": "lr_u_curve"}]}), results, None)[2][0]
        self.assertRegex(fit.sentence, r"interval 0\.00\d+ to 0\.208\), beyond the values that were run\.$")
        self.assertTrue(fit.rows[0][2].endswith(", beyond the values that were run"))

    def test_a_power_law(self):
        runs = [make_run(f"n{index}", seeds=(1,)) for index in range(6)]
        sizes = np.geomspace(1e6, 1e8, 6)
        results = [make_result(run, 1, 1.5 + 0.8 * (size / 1e6)**-0.3) | {"parameters": {"total": size, "active": size}}
                   for run, size in zip(runs, sizes)]
        fit = analyse(make_study(runs, report={"fits": [{"kind": "power_law", "x": "active"}]}), results, None)[2][0]
        self.assertRegex(fit.sentence, r"of active parameters with a = 0.3 \(95.% interval 0.3 to 0.3\) and E = 1.5000")

    def test_a_critical_batch_size(self):
        runs, results = [], []
        for batch in (256, 512, 1024, 2048, 4096):
            run = make_run(f"b{batch}", seeds=(1,))
            result = make_result(run, 1, 2.0, steps=4000)
            steps = result["series"]["step"]
            # 2.05 at 400 (1 + 1000 / batch) steps
            result["series"] |= {"tokens": [step * batch for step in steps], "loss": [
                1.9 + 3 * ((step - 4.5) / (1 + 1000 / batch))**-0.5 for step in steps]}
            result["evaluations"] = []
            runs.append(run)
            results.append(result)
        fit = analyse(make_study(runs, report={"fits": [{"kind": "critical_batch", "loss": 2.05}]}), results, None)[2][0]
        self.assertRegex(fit.sentence, r"in tokens at a training loss of 2.050: 1 k \(95.% interval 1 k to 1 k\)")
        self.assertEqual(fit.rows[1][0], "least steps")
        self.assertRegex(fit.rows[1][1], "^400 ")

    def test_isoflop(self):
        runs, results = [], []
        for budget in (1e12, 4e12, 16e12):
            for factor in (0.4, 0.7, 1.1, 1.6, 2.5):
                size = 0.5 * budget**0.5 * factor
                run = make_run(f"c{budget:g}-{factor}", seeds=(1,))
                result = make_result(run, 1, 3 - 0.1 * np.log(budget / 1e12) + 0.05 * np.log(factor)**2)
                tokens = result["series"]["tokens"][-1]
                runs.append(run)
                results.append(result | {"parameters": {"total": size, "active": size}, "flops_per_token": budget / tokens})
        fit = analyse(make_study(runs, report={"fits": [{"kind": "isoflop"}]}), results, None)[2][0]
        self.assertRegex(fit.sentence, r"grows as FLOPs\^b with b = 0.5 \(95.% interval")
        self.assertEqual([row[0] for row in fit.rows], ["1e12 FLOPs", "4e12 FLOPs", "1.6e13 FLOPs", "b"])

    def test_keys_are_checked_by_name(self):
        for fit, words in (({"kind": "cubic"}, "each has a kind, of lr_u_curve"), ("lr_u_curve", "each has a kind"),
                           ({"kind": "isoflop", "curvature": "own"}, "isoflop has no key curvature; it has metric"),
                           ({"kind": "lr_u_curve", "curvature": "both"}, "curvature: expected one of own, shared, not 'both'"),
                           ({"kind": "isoflop", "tolerance": True}, "tolerance: expected a number, not True"),
                           ({"kind": "lr_u_curve", "runs": "a"}, "runs: expected a list")):
            with self.subTest(fit=fit), self.assertRaisesRegex(ValueError, words):
                complete_fit(fit)
        self.assertEqual(complete_fit({"kind": "critical_batch", "loss": 2}), {"kind": "critical_batch", "loss": 2, "runs": ["*"]})
        run = make_run("one", seeds=(1,))
        for fit, words in (({"kind": "lr_u_curve", "runs": ["x*"]}, "no finished run is called like x"),
                           ({"kind": "lr_u_curve", "metric": "acc"}, "no result has the metric acc"),
                           ({"kind": "lr_u_curve", "metrics": "acc"}, "has no key metrics")):
            with self.subTest(fit=fit), self.assertRaisesRegex(ReportError, words):
                analyse(make_study([run], report={"fits": [fit]}), [make_result(run, 1, 2.0)], None)


if __name__ == "__main__":
    unittest.main(warnings="error")
