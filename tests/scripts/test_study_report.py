"""The report of a study on synthetic results: what it says, what it says of what is missing, and that it is one safe page."""
import csv
import io
import json
import re
import tempfile
import unittest
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from study_results import BATCH, loss_at, make_result, make_run, make_study, make_times  # puts scripts on the path

from study.axes import Scale
from study.comparison import answer
from study.formats import count, number, short, signed
from study.report import analyse, answer_text, make_csv, make_page, warning_text, write_report
from study.statistics import ReportError

DENSE, MOE = make_run("dense", "dense twin"), make_run("moe")
FINALS = ((DENSE, (2.0, 2.1, 2.2)), (MOE, (1.9, 1.98, 2.06)))  # differences of -0.10, -0.12 and -0.14
TIMES = make_times(dense=(0.1, 0.3, 0.11), moe=(0.2, 0.21, 0.1))


def two_runs(seeds=(1, 2, 3)):
    return [make_result(run, seed, finals[seed - 1]) for run, finals in FINALS for seed in seeds]


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what a test asks for."""
    VOID = {"meta"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.words, self.links, self.scripts, self.tags = [], [], [], [], [], set()
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[key] for key in ("href", "src", "data") if key in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        opened = self.open.pop()
        assert opened == tag, f"</{tag}> in <{opened}>"

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(study, results, times=None):
    return Page(make_page(*analyse(study, results, times)))


class Answers(unittest.TestCase):
    def answer(self, study, results, times=None):
        data, comparisons, fits, _ = analyse(study, results, times)
        return answer_text(data, comparisons, fits).replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ")

    def test_a_difference_with_its_interval(self):
        # The mean of -0.10, -0.12 and -0.14 is -0.12 -+ 4.3027 x 0.02 / sqrt(3).
        text = self.answer(make_study([DENSE, MOE]), two_runs())
        self.assertIn("Moe ends 0.1200 nats below dense twin in mean held-out loss "
                      "(95 % interval -0.1697 to -0.0703, 3 seeds); it reaches the final training loss of dense twin with", text)

    def test_one_seed_has_no_interval(self):
        text = self.answer(make_study([DENSE, MOE]), two_runs(seeds=(2,)))
        self.assertIn("Moe ends 0.1200 nats below dense twin in mean held-out loss (no interval: one seed)", text)
        self.assertNotIn("95 %", text)

    def test_a_difference_that_is_not_shown(self):
        results = [make_result(run, seed, final) for run, finals in
                   ((DENSE, (2.0, 2.1, 2.2)), (MOE, (2.05, 2.0, 2.21))) for seed, final in zip((1, 2, 3), finals)]
        self.assertIn("No difference between moe and dense twin is shown in mean held-out loss: -0.0133 nats (95 % interval",
                      self.answer(make_study([DENSE, MOE]), results))

    def test_one_of_many(self):
        runs = [make_run(name) for name in ("base", "good", "bad", "same", "single")]
        finals = {"base": (2.0, 2.0, 2.0), "good": (1.8, 1.81, 1.8), "bad": (2.3, 2.31, 2.3), "same": (1.99, 2.02, 2.0),
                  "single": (1.5,)}
        results = [make_result(run, seed, final) for run in runs for seed, final in enumerate(finals[run.name], 1)]
        text = self.answer(make_study(runs), results)
        # A run of one seed may lead by chance: the lowest is of those with an interval.
        self.assertIn("Lowest of 3 variants: good ends 0.1967 nats below base", text)
        self.assertIn("; shown lower: good; shown higher: bad; not distinguished: same; 1 other without an interval.", text)
        worse = [result for result in results if result["run"] in ("base", "bad")]
        both = self.answer(make_study([*runs[:1], runs[2], make_run("absent")]), worse)
        self.assertIn("Bad ends 0.3033 nats above base", both)

    def test_no_variant_below_the_baseline(self):
        runs = [make_run(name, seeds=(1, 2)) for name in ("base", "near", "far")]
        results = [make_result(run, seed, final + 0.01 * seed) for run, final in zip(runs, (2.0, 2.1, 2.3)) for seed in (1, 2)]
        self.assertIn("No variant ends below base; the nearest: near ends 0.1000 nats above", self.answer(make_study(runs), results))

    def test_without_evaluations_training_loss_decides(self):
        results = [result | {"evaluations": []} for result in two_runs()]
        text = self.answer(make_study([DENSE, MOE]), results)
        self.assertIn("Moe ends 0.1200 nats below dense twin in training loss (95 % interval", text)
        page = page_of(make_study([DENSE, MOE]), results)
        self.assertNotIn("chart-heldout_tokens", page.ids)

    def test_tokens_to_equal_loss(self):
        # loss_at falls by power -0.5 of steps: three times the pace, the same final loss at a third of the steps.
        results = [make_result(DENSE, seed, 2.0, steps=1200) for seed in (1, 2, 3)]
        for seed in (1, 2, 3):
            fast = make_result(MOE, seed, 2.0, steps=1200)
            fast["series"]["loss"] = [loss_at(3 * (step - 4.5), 2.0) for step in range(10, 1201, 10)]
            results.append(fast)
        data, comparisons, _, _ = analyse(make_study([DENSE, MOE]), results, None)
        found = comparisons["moe"].ahead
        self.assertAlmostEqual(found.ratio.value, 3.0, delta=0.01)  # windows of 20 steps
        self.assertIn("it reaches the final training loss of dense twin with 3.00× fewer tokens (3.00 to 3.00)",
                      answer(data, comparisons))
        self.assertEqual(comparisons["moe"].behind.num_reached, 0)
        text = page_of(make_study([DENSE, MOE]), results).text
        self.assertIn("moe to the final loss of dense twin training loss 3.00× fewer (3.00 to 3.00)", text)
        self.assertNotIn("dense twin to the final loss of moe training loss", text)
        back = page_of(make_study([DENSE, MOE], baseline="moe"), results).text
        self.assertIn("not reached baseline: 3.00× fewer", back)


class Missing(unittest.TestCase):
    def test_runs_without_a_result_are_named_and_pairs_are_of_common_seeds(self):
        results = [result for result in two_runs() if (result["run"], result["seed"]) != ("dense", 3)]
        data, comparisons, _, _ = analyse(make_study([DENSE, MOE]), results, None)
        self.assertEqual(comparisons["moe"].differences["heldout"].left_out, (3,))
        self.assertAlmostEqual(comparisons["moe"].differences["heldout"].estimate.value, -0.11)
        self.assertEqual(warning_text(data, comparisons),
                         "1 of 6 runs have no result (failed or not run yet): dense seed 3. Differences to the baseline are "
                         "of the seeds that both have: moe.")
        self.assertIn("2 of 3 seeds", page_of(make_study([DENSE, MOE]), results).text)

    def test_no_baseline(self):
        page = page_of(make_study([DENSE, MOE]), two_runs()[3:])
        self.assertIn("The baseline has no final loss: nothing is compared with it.", page.text)
        self.assertIn("Lowest mean held-out loss of 1 run: moe with 1.9800 (3 seeds)", page.text)

    def test_an_evaluation_of_an_earlier_step_is_not_the_final_one(self):
        results = two_runs()
        results[0]["evaluations"].pop()
        data, comparisons, _, _ = analyse(make_study([DENSE, MOE]), results, None)
        self.assertIn("Not every held-out loss of the last step is there: dense twin seed 1.", warning_text(data, comparisons))
        self.assertEqual(sorted(comparisons["moe"].differences["heldout"].by_seed), [2, 3])

    def test_nothing_is_missing(self):
        data, comparisons, _, _ = analyse(make_study([DENSE, MOE]), two_runs(), None)
        self.assertEqual(warning_text(data, comparisons), "")

    def test_what_cannot_be_reported_is_refused(self):
        study = make_study([DENSE, MOE])
        with self.assertRaisesRegex(ReportError, "no run is finished yet"):
            analyse(study, [], None)
        with self.assertRaisesRegex(ReportError, "run dense, seed 1: two results"):
            analyse(study, two_runs() + two_runs()[:1], None)
        with self.assertRaisesRegex(ReportError, "run other, seed 9: a result that the study has no run for"):
            analyse(study, [make_result(make_run("other"), 9, 2.0)], None)
        with self.assertRaisesRegex(ReportError, "report.metrics: no result has eval/x/acc; there are dead_experts, eval/cpp"):
            analyse(make_study([DENSE, MOE], report={"metrics": ["eval/x/acc"]}), two_runs(), None)

    def test_smoothing_of_short_runs(self):
        unnamed = {"smooth_steps": 0}
        self.assertEqual(analyse(make_study([DENSE, MOE], report=unnamed), two_runs(), None)[0].smooth_steps, 50)
        short_run = [make_result(DENSE, 1, 2.0, steps=100)]
        self.assertEqual(analyse(make_study([DENSE, MOE], report=unnamed), short_run, None)[0].smooth_steps, 20)
        with self.assertRaisesRegex(ReportError, "report.smooth_steps is 200, longer than a run of 100 steps"):
            analyse(make_study([DENSE, MOE], report={"smooth_steps": 200}), short_run, None)


class Axes(unittest.TestCase):
    def test_time_is_steps_by_the_median_step_time(self):
        data, _, _, sections = analyse(make_study([DENSE, MOE]), two_runs(), TIMES)
        self.assertEqual([run.step_time for run in data.runs], [0.11, 0.2])
        self.assertAlmostEqual(float(data.seconds_at(data.runs[0].seeds[1], 400 * BATCH)), 44.0)
        chart = next(chart for chart in sections["curves"] if chart.name == "loss_time")
        self.assertEqual(chart.x_label, "steps × step time measured alone, s")
        self.assertAlmostEqual(chart.lines[0].x[-1], 390 * 0.11)  # the middle of the last 20 steps

    def test_time_to_equal_loss(self):
        results = two_runs()
        page = page_of(make_study([DENSE, MOE]), results, TIMES)
        tokens, time = re.search(r"moe to the final loss of dense twin training loss (\S+)× fewer \(\S+ to \S+\) (\S+)× less",
                                 page.text).groups()
        self.assertAlmostEqual(float(time), float(tokens) * 0.11 / 0.2, delta=0.02)

    def test_times_that_were_not_measured(self):
        page = page_of(make_study([DENSE, MOE]), two_runs())
        self.assertNotIn("chart-loss_time", page.ids)
        self.assertIn("step times: not measured", page.text)
        part = make_times(dense=(0.1, 0.3, 0.11))
        _, _, _, sections = analyse(make_study([DENSE, MOE]), two_runs(), part)
        chart = next(chart for chart in sections["curves"] if chart.name == "loss_time")
        self.assertEqual([line.label for line in chart.lines], ["dense twin"])
        self.assertIn("step time not measured: moe", chart.note)

    def test_a_tree_counts_through_the_fork(self):
        trunk = make_run("trunk", seeds=(1,))
        child = replace(make_run("child", seeds=(1,), parent="trunk"), parent_step=200)
        parent = {"run": "trunk", "seed": 1, "step": 200, "config_hash": "hash of trunk", "tokens": 200 * BATCH,
                  "flops": 3e6 * 200 * BATCH}
        times = make_times(trunk=(0.5,), child=(0.1,))
        trunk_result = make_result(trunk, 1, 2.0) | {"flops_per_token": 3e6}
        results = [trunk_result, make_result(child, 1, 1.8, steps=100, parent=parent)]
        data, comparisons, _, _ = analyse(make_study([trunk, child]), results, times)
        end = results[1]["tokens"]
        self.assertEqual(end, 300 * BATCH)
        self.assertAlmostEqual(float(data.by_name["child"].seeds[1].flops_at(end)), results[1]["flops"])
        self.assertAlmostEqual(float(data.seconds_at(data.by_name["child"].seeds[1], end)), 200 * 0.5 + 100 * 0.1)
        curve = data.by_name["child"].seeds[1].curve()
        self.assertEqual((curve.tokens[0], curve.tokens[-1]), (210 * BATCH, 290 * BATCH))
        continued = results[1]["series"] | {"step": list(range(210, 301, 10))}  # steps that count on from the fork
        again = analyse(make_study([trunk, child]), [results[0], results[1] | {"series": continued}], times)[0]
        self.assertAlmostEqual(float(again.seconds_at(again.by_name["child"].seeds[1], end)), 200 * 0.5 + 100 * 0.1)

    def test_ticks(self):
        self.assertEqual(Scale(0.0, 1.1e6, 0, 100, False).ticks(6), [0.0, 2e5, 4e5, 6e5, 8e5, 1e6])
        self.assertTrue(np.allclose(Scale(4e-4, 9e-3, 0, 100, True).ticks(5), [5e-4, 1e-3, 2e-3, 5e-3]))
        self.assertAlmostEqual(float(Scale(1.0, 100.0, 0, 100, True)(10.0)), 50.0)


class Files(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def test_the_same_results_give_the_same_bytes(self):
        study = make_study([DENSE, MOE])
        first, second = (write_report(study, json.loads(json.dumps(two_runs())), TIMES, self.folder / name) for name in "ab")
        self.assertEqual([path.name for path in first], [
            "index.html", "results.csv", "loss_tokens.png", "loss_flops.png", "loss_time.png", "difference.png",
            "heldout_tokens.png"])
        for one, other in zip(first, second):
            self.assertEqual(one.read_bytes(), other.read_bytes(), one.name)
        self.assertEqual(sorted(path.name for path in (self.folder / "a").iterdir()), sorted(path.name for path in first))
        for path in first[2:]:
            self.assertEqual(path.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_the_page_is_whole_and_asks_no_network(self):
        text = make_page(*analyse(make_study([DENSE, MOE]), two_runs(), TIMES))
        page = Page(text)
        self.assertNotRegex(text, r"https?:|//[a-z]|@import|url\((?!#)")
        self.assertEqual(page.links, ["results.csv"])
        self.assertFalse(page.tags & {"link", "img", "iframe", "object", "base"})
        self.assertEqual(len(page.ids), len(set(page.ids)))
        charts = [json.loads(script) for script in page.scripts[:-1]]
        self.assertEqual(len(charts), sum(name.startswith("chart-") for name in page.ids))
        for chart in charts:
            for line in chart["lines"]:
                self.assertEqual({len(line[key]) for key in ("x", "at", "value")}, {len(line.get("band", line["x"]))})
        # The texts are those of the tables: no other code writes numbers.
        loss = next(chart for chart in charts if chart["xLabel"] == "tokens")["lines"][0]
        self.assertEqual((loss["at"][-1], loss["value"][-1], loss["band"][-1]), ("200 k", "2.1018", "2.0018 to 2.2018"))

    def test_all_text_is_escaped(self):
        bad = '</script><script>alert(1)</script>"\'&<b>$x$'
        run, base = make_run("r", bad, seeds=(1,), a__b=bad), make_run("base", seeds=(1,))
        results = [make_result(base, 1, 2.0) | {"version": bad, "config_hash": bad}, make_result(run, 1, 1.9)]
        for result in results:
            values = result["evaluations"][-1]["values"]
            values[f"eval/{bad}/acc"] = 0.5
        study = make_study([base, run], name=bad, question=bad, paper=bad, report={"metrics": [f"eval/{bad}/acc"]})
        text = make_page(*analyse(study, results, make_times(r=(0.1,), base=(0.2,)) | {"machine": bad}))
        self.assertNotIn("<script>alert", text)
        self.assertNotIn("<b>", text)
        self.assertEqual(Page(text).text.count("<b>$x$"), Page(text).text.count("alert(1)"))
        self.assertGreater(Page(text).text.count("alert(1)"), 10)
        write_report(study, results, None, self.folder)

    def test_the_table_of_results(self):
        rows = list(csv.DictReader(io.StringIO(make_csv(analyse(make_study([DENSE, MOE]), two_runs(), TIMES)[0]))))
        self.assertEqual([(row["run"], row["seed"]) for row in rows], [(run, seed) for run in ("dense", "moe") for seed in "123"])
        self.assertEqual((rows[4]["heldout"], rows[4]["eval/cpp_heldout/loss"], rows[4]["tokens"], rows[4]["flops"],
                          rows[4]["step_time_s"]), ("1.98", "1.78", str(400 * BATCH), f"{6e6 * 400 * BATCH:.6g}", "0.2"))

    def test_a_named_metric_is_in_the_tables(self):
        results = two_runs()
        for result in results:
            result["evaluations"][-1]["values"]["eval/arc/acc"] = 0.25 + 0.01 * result["seed"]
        page = page_of(make_study([DENSE, MOE], report={"metrics": ["eval/arc/acc"]}), results)
        self.assertIn("arc/acc", page.text)
        self.assertIn("0.2700", page.text)
        self.assertNotIn("Metrics", page.text)

    def test_many_metrics_have_a_table_of_their_own(self):
        study = make_study([DENSE, MOE], report={"metrics": ["lr", "loss", "max_expert_load", "grad_norm", "router_entropy"]})
        results = two_runs()
        for result in results:
            bins = len(result["series"]["step"])
            result["series"] |= {"grad_norm": [0.4] * bins, "router_entropy": [1.5 + 0.1 * (result["run"] == "moe")] * bins}
        page = page_of(study, results)
        self.assertRegex(page.text, r"Metrics run learning rate gradient norm router entropy dense twin baseline 0.002000 0.400 "
                                    r"1.500 moe 0.002000 0.000000 \(0.000000 to 0.000000\) 0.400 .* 1.600 \+0.100 ")

    def test_numbers_as_text(self):
        self.assertEqual([short(value) for value in (0, 0.00123, 1.2e18, 1234567, 2e-5, 43.21, -0.5)],
                         ["0", "0.00123", "1.2e18", "1.23e6", "2e\N{MINUS SIGN}5", "43.2", "\N{MINUS SIGN}0.5"])
        self.assertEqual([count(value) for value in (512, 512000, 1.28e6, 999.9e6, 130e9)],
                         ["512", "512 k", "1.28 M", "1 B", "130 B"])
        self.assertEqual([signed(0.00001), signed(-0.00001), signed(0.5), number(-1.5, 1)],
                         ["0.0000", "0.0000", "+0.5000", "\N{MINUS SIGN}1.5"])


if __name__ == "__main__":
    unittest.main(warnings="error")
