"""What a report compares: equal tokens alone, losses of one meaning, and no run that diverged."""
import csv
import io
import json
import unittest
from dataclasses import replace

from study_results import BATCH, loss_at, make_diverged, make_result, make_run, make_study, make_times  # puts scripts on the path

from study.comparability import are_equal
from study.report import analyse, answer_text, make_csv, make_page, warning_text
from study.statistics import ReportError
from study.u_curves import Point, u_curves
from test_study_report import Page

BASE, OTHER = make_run("base"), make_run("other")
FILTER = "data.instance_filter.repetition_max_count"


def results_of(runs, finals=(2.0, 1.9), steps=(400, 400)):
    """Each seed 0.1 above the one before; the last seed of the candidate 0.03 more."""
    return [make_result(run, seed, final + 0.1 * seed + (0.03 if run is not runs[0] and seed == 3 else 0.0), steps=length)
            for run, final, length in zip(runs, finals, steps) for seed in run.seeds]


def plain(text):
    return text.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ")


def report_of(runs, results, times=None, **study):
    """(data, comparisons, fits, sections, answer, text of the page)"""
    found = analyse(make_study(runs, **study), results, times)
    return *found, plain(answer_text(*found[:3])), plain(Page(make_page(*found)).text)


class EqualTokens(unittest.TestCase):
    def test_final_losses_of_equal_tokens(self):
        _, comparisons, _, _, answer, _ = report_of([BASE, OTHER], results_of([BASE, OTHER]))
        difference = comparisons["other"].differences["heldout"]
        self.assertAlmostEqual(difference.estimate.value, -0.09)
        self.assertIsNone(difference.tokens)
        self.assertIn("Other ends 0.0900 nats below base in mean held-out loss (95 % interval", answer)

    def test_the_lowest_mean_is_of_runs_with_the_most_seeds(self):
        single = make_run("single")
        results = results_of([BASE, OTHER]) + [make_result(single, 1, 1.5)]
        page = make_page(*analyse(make_study([BASE, OTHER, single]), results, None))
        self.assertRegex(page, r'class="best">2\.1100<')
        self.assertNotRegex(page, r'class="best">1\.5000<')

    def test_counts_that_differ_by_less_than_a_thousandth(self):
        self.assertTrue(are_equal(1000000, 1000999))
        self.assertFalse(are_equal(1000000, 1002000))
        results = results_of([BASE, OTHER])
        for result in results[3:]:
            result["tokens"] = result["series"]["tokens"][-1] = result["evaluations"][-1]["tokens"] = 400 * BATCH + 100
        data, comparisons, _, _ = analyse(make_study([BASE, OTHER]), results, None)
        self.assertEqual((warning_text(data, comparisons), comparisons["other"].differences["heldout"].tokens), ("", None))

    def test_held_out_losses_at_the_last_evaluation_that_both_have(self):
        # Ends at 400 and at 200 steps: the law of the longer one at step 200, not its end.
        results = results_of([BASE, OTHER], steps=(400, 200))
        for result in results[3:]:
            for one, step in zip(result["evaluations"], (50, 100, 150, 200)):
                one["values"] = {key: loss_at(step, 1.9 + 0.1 * result["seed"]) for key in one["values"]}
        data, comparisons, _, _, answer, page = report_of([BASE, OTHER], results)
        difference = comparisons["other"].differences["heldout"]
        self.assertAlmostEqual(difference.estimate.value, -0.1)
        self.assertEqual(difference.tokens, 200 * BATCH)
        self.assertIn("Other is 0.1000 nats below base in mean held-out loss at 102 k tokens, which both have (95 %", answer)
        self.assertIn("Runs end at different counts of tokens", warning_text(data, comparisons))
        self.assertRegex(page, r"-0.1000 -0.1000 to -0.1000 at 102 k tokens")
        self.assertNotIn('class="best"', make_page(*analyse(make_study([BASE, OTHER]), results, None)))

    def test_training_loss_where_the_shorter_run_ends(self):
        results = results_of([BASE, OTHER], steps=(400, 200))
        for result in results[3:]:
            result["series"]["loss"] = [loss_at(step - 4.5, 1.9 + 0.1 * result["seed"]) for step in range(10, 201, 10)]
        difference = analyse(make_study([BASE, OTHER]), results, None)[1]["other"].differences["loss"]
        self.assertAlmostEqual(difference.estimate.value, -0.1)
        self.assertEqual(difference.tokens, 190 * BATCH)  # the middle of its last 20 steps

    def test_without_an_evaluation_at_equal_tokens_the_training_loss_answers(self):
        results = results_of([BASE, OTHER], steps=(400, 200))
        for result in results[3:]:
            for one in result["evaluations"]:
                one["tokens"] -= 10 * BATCH
            result["evaluations"][-1]["tokens"] = 200 * BATCH
        for result in results[:3]:
            result["evaluations"] = result["evaluations"][-1:]
        _, comparisons, _, _, answer, page = report_of([BASE, OTHER], results)
        self.assertEqual(comparisons["other"].differences["heldout"].why, "no evaluation at equal tokens")
        self.assertRegex(answer, r"^No mean held-out loss at equal tokens. (Other|No difference).* training loss.* at 97.3 k tokens")
        self.assertIn("no evaluation at equal tokens", page)

    def test_ratios_of_one_are_no_more_and_no_less(self):
        _, _, _, _, answer, _ = report_of([BASE, OTHER], results_of([BASE, replace(OTHER, seeds=(1, 2))], finals=(2.0, 2.0)))
        self.assertIn("with as many tokens", answer)
        self.assertNotIn("1.00\N{MULTIPLICATION SIGN}", answer)

    def test_a_ratio_that_may_be_one_is_said(self):
        results = [make_result(BASE, seed, 2.0, pace=1.0) for seed in (1, 2, 3)]
        results += [make_result(OTHER, seed, 2.0 - gain) for seed, gain in zip((1, 2, 3), (0.001, 0.05, 0.001))]
        _, _, _, _, answer, _ = report_of([BASE, OTHER], results)
        self.assertRegex(answer, r"fewer tokens \(0\.\d\d to \d\.\d\d, 1 included\)")


class Meaning(unittest.TestCase):
    AHEAD = make_run("ahead", "experts choose", model__routing="expert_choice")

    def masked(self, run, **other):
        return replace(run, overrides=run.overrides | {FILTER: 32} | other)

    def test_a_run_that_sees_later_tokens(self):
        _, comparisons, _, sections, answer, page = report_of([BASE, self.AHEAD], results_of([BASE, self.AHEAD]))
        note = "experts choose sees later tokens (model.routing: expert_choice, scope sequence): its losses are not those of a " \
               "causal model"
        self.assertTrue(answer.endswith(f"Not like for like: {note}."), answer)
        self.assertRegex(page, r"experts choose 2.1100 \* -0.0900 \*")
        self.assertIn(f"* {note}", page)
        for chart in sections["curves"]:
            self.assertIn(note, chart.note, chart.name)
        self.assertIn("experts choose", json.dumps([one.text for one in comparisons["ahead"].notes]))

    def test_two_runs_that_both_see_later_tokens_are_alike(self):
        runs = [replace(BASE, overrides=self.AHEAD.overrides), self.AHEAD]
        _, comparisons, _, _, answer, page = report_of(runs, results_of(runs))
        self.assertEqual(comparisons["ahead"].notes, ())
        self.assertNotIn("Not like for like", answer)
        self.assertRegex(page, r"experts choose 2.1100 \* -0.0900 -0")  # its own loss is not a causal model's all the same
        runs[0] = replace(runs[0], overrides=self.AHEAD.overrides | {"model.expert_choice_scope": "micro_batch"})
        self.assertIn("Not like for like", report_of(runs, results_of(runs))[4])

    def test_capacity_by_score(self):
        run = make_run("capacity", model__capacity_factor=1.25, model__capacity_order="score")
        self.assertIn("(model.capacity_order: score)", report_of([BASE, run], results_of([BASE, run]))[4])
        run = make_run("capacity", model__capacity_factor=1.25, model__capacity_order="position")
        self.assertNotIn("Not like for like", report_of([BASE, run], results_of([BASE, run]))[4])

    def test_masked_targets_are_of_the_training_loss_alone(self):
        runs = [BASE, self.masked(OTHER)]
        _, comparisons, _, sections, answer, page = report_of(runs, results_of(runs))
        note = "other has masked targets (data.instance_filter), which count as a loss of 0 in its training loss"
        self.assertEqual([one.text for one in comparisons["other"].notes_of(False)], [note])
        self.assertEqual(comparisons["other"].notes_of(True), [])
        self.assertIn(note, answer)  # it has tokens to equal training loss
        self.assertRegex(page, r"other 2.1100 -0.0900 -[^*]* fewer \*")
        self.assertEqual([chart.name for chart in sections["curves"] if note in chart.note], ["loss_tokens", "loss_flops", "difference"])
        same = [self.masked(BASE), self.masked(OTHER)]
        self.assertNotIn("Not like for like", report_of(same, results_of(same))[4])

    def test_other_data(self):
        results = results_of([BASE, OTHER])
        for result in results[3:]:
            result["data"] = {"train": "c3", "evaluation": "d4"}
        answer = report_of([BASE, OTHER], results)[4]
        self.assertIn("other and base train on different data: so are their training losses", answer)
        self.assertIn("other and base are evaluated on different data", answer)
        for result in results[3:]:
            result["data"] = {"train": None, "evaluation": None}  # files that were not there are not compared
        self.assertNotIn("different data", report_of([BASE, OTHER], results)[4])

    def test_longer_sequences(self):
        run = make_run("long", data__sequence_length=512)
        self.assertIn("long and base have sequences of 512 and 256 tokens", report_of([BASE, run], results_of([BASE, run]))[4])


class Diverged(unittest.TestCase):
    WILD = make_run("wild", "no truncation")

    def results(self):
        """The second seed of OTHER and all of WILD diverge."""
        results = results_of([BASE, OTHER, self.WILD], (2.0, 1.9, 1.9), (400,) * 3)
        results[4] = make_diverged(results[4], 301)
        return results[:6] + [make_diverged(result, 100 * result["seed"] + 5) for result in results[6:]]

    def test_they_are_in_no_mean_and_no_difference(self):
        data, comparisons, _, _, answer, _ = report_of([BASE, OTHER, self.WILD], self.results())
        self.assertEqual([run.name for run in data.runs], ["base", "other"])
        self.assertAlmostEqual(data.mean_final(data.by_name["other"], "heldout").value, (2.0 + 2.23) / 2)
        self.assertEqual(sorted(comparisons), ["other"])
        self.assertEqual(comparisons["other"].differences["heldout"].left_out, (2,))
        self.assertIn("2 seeds)", answer)
        self.assertIn("Diverged: other in seed 2 (at step 301), no truncation in all 3 seeds (at step 105, 205 and 305).", answer)
        self.assertEqual(warning_text(data, comparisons),
                         "Runs that diverged are in no mean, fit or difference: other in seed 2 (at step 301), no truncation in all "
                         "3 seeds (at step 105, 205 and 305). Differences to the baseline are of the seeds that both have: other.")

    def test_they_are_in_the_table_the_details_and_the_csv(self):
        found = analyse(make_study([BASE, OTHER, self.WILD]), self.results(), None)
        page = Page(make_page(*found)).text
        self.assertIn("other seed 2 diverged at step 301", page)
        self.assertIn("no truncation diverged at step 105, 205 and 305", page)
        self.assertIn("2 diverged at step 301", page)
        rows = [row for row in csv.DictReader(io.StringIO(make_csv(found[0]))) if row["diverged_at_step"]]
        self.assertEqual([(row["run"], row["seed"], row["diverged_at_step"], row["heldout"], row["loss"]) for row in rows],
                         [("other", "2", "301", "", "")] + [("wild", seed, f"{seed}05", "", "") for seed in "123"])

    def test_they_are_in_the_charts_up_to_there_and_do_not_choose_the_frame(self):
        *_, sections, _, _ = report_of([BASE, OTHER, self.WILD], self.results(), make_times(base=(0.1,), other=(0.2,), wild=(0.1,)))
        for chart in sections["curves"]:
            lines = [line for line in chart.lines if line.diverged]
            if not chart.name.startswith("loss_"):
                self.assertEqual(lines, [], chart.name)
                continue
            self.assertEqual([line.label for line in lines], ["other, seed 2: diverged at step 301"] + [
                f"no truncation, seed {seed}: diverged at step {seed}05" for seed in (1, 2, 3)])
            self.assertGreater(lines[0].y[-1], 9.0)
            self.assertLess(chart.y_range[1], 4.0)
        tokens = next(chart for chart in sections["curves"] if chart.name == "loss_tokens")
        self.assertEqual(tokens.lines[-1].x[-1], 300 * BATCH)
        self.assertIn("cross: diverged, not smoothed", tokens.note)

    def test_a_run_that_diverged_at_once(self):
        results = self.results()[:4] + [make_diverged(make_result(OTHER, 2, 1.9), 1), self.results()[5]]
        self.assertEqual((results[4]["steps"], results[4]["series"]["loss"]), (0, []))
        data, _, _, _, answer, _ = report_of([BASE, OTHER], results, report={"smooth_steps": 0})
        self.assertEqual(data.smooth_steps, 50)  # of the finished runs
        self.assertIn("Diverged: other in seed 2 (at step 1).", answer)

    def test_where_all_diverged_nothing_is_compared(self):
        with self.assertRaisesRegex(ReportError, r"every finished run diverged: no truncation in seeds 1 and 2 \(at step 105 and 205\)"):
            analyse(make_study([self.WILD]), self.results()[6:8], None)

    def test_fits_name_them(self):
        lrs = (1e-3, 2e-3, 4e-3, 8e-3)
        runs = [make_run(f"lr={lr:g}", f"lr={lr:g}", seeds=(1,), optimizer__lr=lr) for lr in lrs]
        results = [make_result(run, 1, final) for run, final in zip(runs, (2.2, 2.0, 2.1, 2.0))]
        results[3] = make_diverged(results[3], 41)
        fits = [{"kind": "lr_u_curve"}, {"kind": "power_law"}]
        *_, found, _, _, page = report_of(runs, results, report={"fits": fits})
        self.assertRegex(found[0].sentence, r"0\.002\d+ \(no interval: as many coefficients as points\), diverged at 0.008\.")
        for fit in found:
            self.assertIn("left out, diverged: lr=0.008 (at step 41)", fit.notes)
        self.assertIn("Runs that diverged are in no mean, fit or difference: lr=0.008 (at step 41).", page)

    def test_a_lowest_loss_beside_runs_that_diverged_is_no_reason_to_extend_the_range(self):
        falling = [Point(lr, 1, loss) for lr, loss in zip((1e-3, 2e-3, 4e-3), (2.3, 2.2, 2.1))]
        for diverged, words in (((8e-3,), "0.004: runs beyond it diverged: add values between"), ((), "0.004: extend it"),
                                ((5e-4,), "0.004: extend it")):
            self.assertTrue(u_curves({"a": falling}, diverged={"a": diverged})["a"].refused.endswith(words))


if __name__ == "__main__":
    unittest.main(warnings="error")
