"""The statistics of studies, on synthetic data of which the answer is known. Seeds are fixed; tolerances follow from the noise."""
import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))  # last: it has a tokenize.py

from study.critical_batch import fit_critical_batch
from study.curves import Curve, equal_loss, smoothed, tokens_to_reach
from study.power_laws import fit_isoflop, fit_power_law, group_by_budget
from study.statistics import ReportError, mean_estimate, paired_difference
from study.u_curves import Point, u_curves


class Intervals(unittest.TestCase):
    def coverage(self, count, trials, draw):
        """The share of trials whose interval has the true mean in it."""
        covered = 0
        for _ in range(trials):
            values, mean = draw(count)
            estimate = mean_estimate(values)
            covered += estimate.low <= mean <= estimate.high
        return covered / trials

    def test_intervals_of_normal_values_cover_95_percent(self):
        # The standard error of a coverage of 95 % is 0.34 % in 4000 trials and 0.56 % in 1500.
        random = np.random.default_rng(0)
        for count, trials in ((2, 4000), (3, 4000), (5, 4000), (9, 4000), (10, 1000), (20, 1500)):
            with self.subTest(count=count):
                coverage = self.coverage(count, trials, lambda n: (random.normal(0.3, 2.0, n), 0.3))
                self.assertTrue(0.93 <= coverage <= 0.97, coverage)

    def test_the_bootstrap_covers_a_skewed_distribution(self):
        random = np.random.default_rng(1)
        self.assertGreater(self.coverage(20, 1000, lambda n: (random.exponential(1.0, n), 1.0)), 0.92)

    def test_paired_intervals_cover_95_percent_and_are_narrower(self):
        # Seeds shift both runs by 0.5, and each run by 0.02 of its own: what is left of the pair has a deviation of 0.028.
        random, covered, widths = np.random.default_rng(2), 0, []
        for _ in range(4000):
            shift = random.normal(0, 0.5, 3)
            candidate, baseline = (dict(enumerate(shift + mean + random.normal(0, 0.02, 3))) for mean in (1.9, 2.0))
            estimate = paired_difference(candidate, baseline).estimate
            covered += estimate.low <= -0.1 <= estimate.high
            widths.append(estimate.high - estimate.low)
        self.assertTrue(0.93 <= covered / 4000 <= 0.97, covered / 4000)
        # 2 t(2) / sqrt(3) deviations, whose mean of 3 values is 0.886 of the true one.
        self.assertAlmostEqual(np.mean(widths), 2 * 4.303 * 0.02 * np.sqrt(2) * 0.886 / np.sqrt(3), delta=0.003)

    def test_the_method_follows_from_the_number_of_values(self):
        self.assertEqual(mean_estimate(range(9)).method, "Student's t")
        self.assertEqual(mean_estimate(range(10)).method, "studentised bootstrap")
        self.assertEqual(mean_estimate(range(10)), mean_estimate(range(10)))
        three = mean_estimate([1.0, 2.0, 4.0])  # 7/3 -+ 4.3027 x 1.5275 / sqrt(3)
        self.assertAlmostEqual(three.low, 7 / 3 - 3.7946, places=4)
        self.assertAlmostEqual(three.high, 7 / 3 + 3.7946, places=4)

    def test_one_seed_has_no_interval(self):
        one = mean_estimate([2.5])
        self.assertEqual((one.value, one.low, one.high, one.method), (2.5, None, None, "no interval: one seed"))
        self.assertFalse(one.excludes_zero)

    def test_values_that_are_equal(self):
        self.assertEqual((mean_estimate([3.0] * 3).low, mean_estimate([3.0] * 12).high), (3.0, 3.0))
        one_differs = mean_estimate([0.0] * 11 + [1.0])  # many resamples have no spread
        self.assertEqual((one_differs.low, one_differs.method),
                         (None, "no interval: too many values are equal for a bootstrap"))

    def test_values_that_are_not_finite_are_refused(self):
        for values in ([], [1.0, float("nan")]):
            with self.assertRaises(ValueError):
                mean_estimate(values)

    def test_pairs_are_of_common_seeds(self):
        found = paired_difference({1: 2.0, 2: 3.0, 3: 9.0, 5: None}, {2: 2.5, 1: 1.0, 4: 7.0, 5: 1.0})
        self.assertEqual((found.by_seed, found.left_out), ({1: 1.0, 2: 0.5}, (3, 4, 5)))
        self.assertEqual((found.estimate.value, found.estimate.count), (0.75, 2))
        self.assertIsNone(paired_difference({1: 2.0}, {2: 2.5}).estimate)


def bins_of(losses, bin_steps, batch=512, start=0):
    steps = [bin_steps * (index + 1) for index in range(len(losses))]
    return {"bin_steps": bin_steps, "step": steps, "tokens": [start + step * batch for step in steps], "loss": losses}


class Smoothing(unittest.TestCase):
    def test_windows_are_full_and_stand_in_their_middle(self):
        curve = smoothed(bins_of([5.0, 3.0, 4.0, 2.0], 10), "loss", 20)
        self.assertEqual(curve.tokens.tolist(), [5120, 10240, 15360])
        self.assertEqual(curve.values.tolist(), [4.0, 3.5, 3.0])

    def test_a_straight_line_stays_where_it_is(self):
        series = bins_of((6 - 1e-4 * (np.arange(40) * 5120 + 2560 + 1e5)).tolist(), 10, start=100000)
        curve = smoothed(series, "loss", 50, start_tokens=100000)
        self.assertTrue(np.allclose(curve.values, 6 - 1e-4 * curve.tokens))

    def test_a_short_last_bin_weighs_less(self):
        series = bins_of([4.0, 1.0], 10)
        series["step"][1] = 15
        self.assertAlmostEqual(smoothed(series, "loss", 20).final, (4.0 * 10 + 1.0 * 5) / 15)

    def test_what_is_missing_or_too_short(self):
        self.assertIsNone(smoothed(bins_of([5.0, None], 10), "loss", 10))
        self.assertIsNone(smoothed(bins_of([5.0], 10), "lr", 10))
        with self.assertRaisesRegex(ReportError, "smooth_steps is 30, longer than a run of 20 steps"):
            smoothed(bins_of([5.0, 4.0], 10), "loss", 30)


class TokensToEqualLoss(unittest.TestCase):
    def power(self, factor, noise=0.0, seed=0, count=2000):
        """1.5 + (tokens factor / 1e6)^-0.5 in windows of 10 steps of 1000 tokens."""
        tokens = 1e4 * np.arange(1, count + 1)
        random = np.random.default_rng(seed)
        return Curve(tokens, 1.5 + (tokens * factor / 1e6)**-0.5 + random.normal(0, noise, count))

    def test_a_curve_of_three_times_the_pace(self):
        found = equal_loss({1: self.power(3.0)}, {1: self.power(1.0)})
        self.assertAlmostEqual(found.crossings[1].tokens, 2e7 / 3, delta=2e7 / 3 * 1e-5)  # linear between points
        self.assertAlmostEqual(found.ratio.value, 3.0, places=4)
        self.assertFalse(found.ratio.has_interval)
        back = equal_loss({1: self.power(1.0)}, {1: self.power(3.0)})
        self.assertEqual((back.crossings[1].status, back.ratio, back.num_reached), ("not reached", None, 0))

    def test_noise_gives_an_interval_with_the_truth_in_it(self):
        # Smoothed noise of 0.002 at a slope of 0.5 x 0.387 per unit of log tokens shifts a crossing by about 1 %.
        fast, slow = ({seed: self.power(factor, 0.002, seed + offset) for seed in range(5)}
                      for factor, offset in ((3.0, 0), (1.0, 50)))
        ratio = equal_loss(fast, slow).ratio
        self.assertAlmostEqual(ratio.value, 3.0, delta=3 * 0.04)
        self.assertLess(ratio.low, 3.0)
        self.assertGreater(ratio.high, 3.0)
        self.assertLess(ratio.high - ratio.low, 0.3)

    def test_intervals_of_ratios_cover_95_percent(self):
        # 400 trials have a standard error of 1.1 %: 91 to 99 % is within 3.5 of them.
        trials = 400
        for count in (3, 5):
            covered = 0
            for trial in range(trials):
                fast, slow = ({seed: self.power(factor, 0.02, 1000 * trial + seed + offset, count=200) for seed in range(count)}
                              for factor, offset in ((3.0, 0), (1.0, 500)))
                ratio = equal_loss(fast, slow).ratio
                covered += ratio.low <= 3.0 <= ratio.high
            self.assertTrue(0.91 <= covered / trials <= 0.99, (count, covered / trials))

    def test_crossings_of_a_noisy_curve_are_not_early(self):
        # The first crossing of white noise of 0.02 at this slope is some 30 % early.
        target = 1.5 + (1e7 / 1e6)**-0.5
        estimates, firsts = [], []
        for seed in range(30):
            curve = self.power(1.0, 0.02, seed)
            curve.values[-1] = target - 0.01
            estimates.append(tokens_to_reach(curve, target).tokens)
            firsts.append(curve.tokens[np.argmax(curve.values <= target)])
        self.assertAlmostEqual(np.mean(np.log(estimates)), np.log(1e7), delta=0.05)
        self.assertLess(np.mean(np.log(firsts)), np.log(1e7) - 0.2)

    def test_linear_in_log_tokens_between_points(self):
        curve = Curve(np.array([100.0, 400.0]), np.array([3.0, 1.0]))
        self.assertAlmostEqual(tokens_to_reach(curve, 2.0).tokens, 200.0)
        self.assertEqual(tokens_to_reach(curve, 0.9).status, "not reached")
        self.assertEqual(tokens_to_reach(curve, 3.5).status, "before the first point")
        self.assertAlmostEqual(tokens_to_reach(curve, 1.0).tokens, 400.0)

    def test_one_seed_that_does_not_reach_it_leaves_no_mean(self):
        curve = Curve(np.array([100.0, 400.0]), np.array([3.0, 1.0]))
        short = Curve(np.array([100.0, 400.0]), np.array([3.0, 1.5]))
        found = equal_loss({1: curve, 2: short, 3: curve}, {1: curve, 2: curve, 4: curve})
        self.assertEqual((found.ratio, found.num_reached, sorted(found.crossings)), (None, 1, [1, 2]))
        self.assertIsNone(equal_loss({1: curve}, {2: curve}))
        self.assertIsNone(equal_loss({1: None}, {1: curve}))


class UCurves(unittest.TestCase):
    LRS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)

    def points(self, best, noise=0.0, random=None, seeds=2, lrs=LRS, curvature=0.05):
        """Losses of seeds that differ by a level each."""
        return [Point(lr, seed, 2 + 0.03 * seed + curvature * np.log(lr / best)**2 + (random.normal(0, noise) if noise else 0))
                for lr in lrs for seed in range(seeds)]

    def test_the_optimum_of_an_exact_curve(self):
        curve = u_curves({"a": self.points(1.7e-3)})["a"]
        self.assertAlmostEqual(curve.optimum.value, 1.7e-3, places=8)
        self.assertAlmostEqual(curve.lowest, 2.015)
        self.assertLess(curve.largest_residual, 1e-9)

    def test_its_interval_covers_95_percent(self):
        random, covered, trials = np.random.default_rng(3), 0, 1500
        for _ in range(trials):
            optimum = u_curves({"a": self.points(1.7e-3, 0.006, random)})["a"].optimum
            covered += optimum.low <= 1.7e-3 <= optimum.high
        self.assertTrue(0.93 <= covered / trials <= 0.97, covered / trials)

    def test_a_shared_curvature_narrows_the_intervals_of_a_ladder(self):
        random, covered, trials = np.random.default_rng(4), 0, 500
        best = {"small": 2.2e-3, "middle": 2e-3, "large": 1.8e-3}
        for _ in range(trials):
            groups = {name: self.points(lr, 0.002, random, seeds=1, lrs=self.LRS[:4]) for name, lr in best.items()}
            shared = u_curves(groups, shared_curvature=True)
            covered += sum(shared[name].optimum.low <= lr <= shared[name].optimum.high for name, lr in best.items())
        self.assertTrue(0.93 <= covered / trials / 3 <= 0.97, covered / trials / 3)
        own = u_curves(groups)
        for name, lr in best.items():
            # 1 degree of freedom each, and 12 - 3 - 3 - 1 = 5 together: t quantiles of 12.7 and 2.6.
            self.assertIn("1 degrees", own[name].optimum.method)
            self.assertIn("5 degrees", shared[name].optimum.method)
            self.assertLess(np.log(shared[name].optimum.high / shared[name].optimum.low), 0.3)

    def test_what_has_no_minimum_is_refused(self):
        edge = self.points(1e-4)
        downward = [Point(point.x, point.seed, -point.loss) for point in self.points(2e-3)]
        self.assertIn("edge of the range, 0.0005: extend it", u_curves({"a": edge})["a"].refused)
        self.assertIn("edge of the range", u_curves({"a": downward})["a"].refused)
        self.assertIn("2 different values", u_curves({"a": self.points(2e-3, lrs=self.LRS[:2])})["a"].refused)
        # An arch with a dent in the middle of it.
        dented = [Point(lr, 0, loss) for lr, loss in zip(self.LRS, (2.0, 2.3, 1.99, 2.3, 2.0))]
        self.assertIn("opens downward", u_curves({"a": dented})["a"].refused)
        falling = [Point(lr, 0, loss) for lr, loss in zip(self.LRS, (3.0, 2.5, 2.0, 1.49, 1.5))]
        self.assertRegex(u_curves({"a": falling})["a"].refused, "^the fitted minimum, 0.01.*, is outside the range")

    def test_a_minimum_that_the_points_do_not_bound(self):
        exact = u_curves({"a": self.points(2e-3, seeds=1, lrs=self.LRS[1:4])})["a"].optimum
        self.assertEqual((exact.low, exact.method), (None, "no interval: as many coefficients as points"))
        flat = [Point(lr, 0, loss) for lr, loss in zip(self.LRS, (2.01, 2.05, 1.99, 2.06, 2.0))]
        flat.append(Point(1.6e-2, 0, 2.08))
        found = u_curves({"a": flat})["a"].optimum
        self.assertEqual(found.method, "no interval: the curvature is not distinguished from 0")

    def test_one_group_that_is_refused_leaves_the_others(self):
        found = u_curves({"a": self.points(1e-4), "b": self.points(2e-3)}, shared_curvature=True)
        self.assertTrue(found["a"].refused)
        self.assertAlmostEqual(found["b"].optimum.value, 2e-3)


class PowerLaws(unittest.TestCase):
    FLOPS = np.geomspace(1e17, 1e20, 8)

    def losses(self, noise=0.0, random=None):
        return 1.7 + 0.9 * (self.FLOPS / 1e18)**-0.2 + (random.normal(0, noise, 8) if noise else 0)

    def test_the_coefficients_of_an_exact_law(self):
        fit = fit_power_law(self.FLOPS, self.losses())
        self.assertAlmostEqual(fit.irreducible.value, 1.7, places=5)
        self.assertAlmostEqual(fit.exponent.value, 0.2, places=5)
        self.assertAlmostEqual(fit.factor.value / (0.9 * 1e18**0.2), 1.0, places=3)

    def test_intervals_cover_95_percent(self):
        # 500 trials have a standard error of 1 %: 91.5 to 98.5 % is within 3.5 of them.
        random, trials, covered = np.random.default_rng(5), 500, np.zeros(3)
        for _ in range(trials):
            fit = fit_power_law(self.FLOPS, self.losses(0.005, random))
            mean, half = fit.predict(1e21)
            covered += [fit.irreducible.low <= 1.7 <= fit.irreducible.high, fit.exponent.low <= 0.2 <= fit.exponent.high,
                        abs(mean - (1.7 + 0.9 * 1e3**-0.2)) <= half]
        self.assertTrue(((0.915 <= covered / trials) & (covered / trials <= 0.985)).all(), covered / trials)

    def test_a_given_floor_leaves_two_coefficients(self):
        fit = fit_power_law(self.FLOPS[:3], self.losses()[:3], irreducible=1.7)
        self.assertAlmostEqual(fit.exponent.value, 0.2, places=6)
        self.assertTrue(fit.exponent.has_interval)
        self.assertEqual(fit.irreducible.method, "no interval: given")

    def test_what_cannot_be_fitted(self):
        three = fit_power_law(self.FLOPS[:3], self.losses()[:3])
        self.assertEqual((three.refused, three.exponent.method), ("", "no interval: as many coefficients as points"))
        self.assertIsNone(three.predict(1e21)[1])
        self.assertIn("2 different values", fit_power_law([1e17, 1e18, 1e18], [3.0, 2.5, 2.6]).refused)
        self.assertEqual(fit_power_law(self.FLOPS, 2 + 0.1 * np.arange(8)).refused, "the loss does not fall")

    def iso_groups(self, noise, random):
        """Parabolas about N = 0.1 C^0.46, of five sizes at each budget."""
        return {flops: [Point(size, seed, 3 - 0.1 * np.log10(flops) + 0.08 * np.log(size / (0.1 * flops**0.46))**2
                              + 0.02 * seed + random.normal(0, noise))
                        for size in 0.1 * flops**0.46 * np.array([0.3, 0.6, 1.1, 2.0, 3.5]) for seed in range(2)]
                for flops in (1e17, 1e18, 1e19, 1e20)}

    def test_isoflop(self):
        fit = fit_isoflop(self.iso_groups(1e-9, np.random.default_rng(6)))
        self.assertAlmostEqual(fit.exponent.value, 0.46, places=5)
        self.assertAlmostEqual(fit.factor.value, 0.1, places=5)
        self.assertAlmostEqual(float(fit.size(1e21)) / (0.1 * 1e21**0.46), 1.0, places=4)
        random, covered = np.random.default_rng(7), 0
        for _ in range(400):
            noisy = fit_isoflop(self.iso_groups(0.005, random)).exponent
            covered += noisy.low <= 0.46 <= noisy.high
        self.assertTrue(0.91 <= covered / 400 <= 0.985, covered / 400)

    def test_isoflop_of_too_few_budgets(self):
        groups = self.iso_groups(0.001, np.random.default_rng(8))
        two = fit_isoflop({flops: groups[flops] for flops in (1e17, 1e20)})
        self.assertAlmostEqual(two.exponent.value, 0.46, delta=0.01)
        self.assertEqual(two.exponent.method, "no interval: as many coefficients as points")
        one = fit_isoflop({1e17: groups[1e17], 1e20: groups[1e20][:4]})
        self.assertEqual(one.refused, "1 budgets have a minimum, and a power law needs 2")

    def test_budgets_are_of_near_values(self):
        groups = group_by_budget([1.02e18, 5e18, 1e18, 5.2e18, 9e18], 0.05)
        self.assertEqual(sorted(map(sorted, groups.values())), [[0, 2], [1, 3], [4]])
        self.assertAlmostEqual(min(groups) / 1e18, np.sqrt(1.02))


class CriticalBatchSize(unittest.TestCase):
    BATCHES = 1024.0 * 2**np.arange(6)

    def steps(self, noise=0.0, random=None, critical=6000):
        return 500 * (1 + critical / self.BATCHES) * (np.exp(random.normal(0, noise, 6)) if noise else 1)

    def test_an_exact_curve(self):
        fit = fit_critical_batch(self.BATCHES, self.steps())
        self.assertAlmostEqual(fit.batch.value, 6000, delta=0.1)
        self.assertAlmostEqual(fit.steps.value, 500, delta=0.01)
        self.assertAlmostEqual(fit.tokens.value, 3e6, delta=10)
        steps, tokens = self.steps(), self.steps() * self.BATCHES
        product = (steps / fit.steps.value - 1) * (tokens / fit.tokens.value - 1)
        self.assertTrue(np.allclose(product, 1, atol=1e-4), product)

    def test_intervals_cover_95_percent(self):
        # 6000 is in the middle of the batches, where steps and tokens are known equally well; 2000 is not.
        random, trials = np.random.default_rng(9), 1500
        for critical in (6000, 2000):
            covered = np.zeros(3)
            for _ in range(trials):
                fit = fit_critical_batch(self.BATCHES, self.steps(0.05, random, critical))
                covered += [fit.batch.low <= critical <= fit.batch.high, fit.steps.low <= 500 <= fit.steps.high,
                            fit.tokens.low <= 500 * critical <= fit.tokens.high]
            self.assertTrue(((0.93 <= covered / trials) & (covered / trials <= 0.97)).all(), (critical, covered / trials))

    def test_batches_far_from_it_are_refused(self):
        self.assertIn("2 different", fit_critical_batch([1, 2, 2], [9, 8, 8]).refused)
        self.assertIn("try smaller ones", fit_critical_batch(self.BATCHES, 500 + 2e4 / self.BATCHES).refused)
        self.assertIn("try larger ones", fit_critical_batch(self.BATCHES, 1e7 / self.BATCHES).refused)


if __name__ == "__main__":
    unittest.main(warnings="error")
