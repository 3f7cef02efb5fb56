// Tasks scored by a model: the same as row by row, on any ranks, and what becomes of one that fails.
#include "trainer/task_score.h"

#include <cmath>
#include <filesystem>

#include "model/init.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/task_files.h"
#include "support/trainer_fixtures.h"
#include "trainer/evaluation/task_metrics.h"
#include "trainer/evaluator.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr int64_t kContext = 12;

struct Layout {
  int ranks = 1, expert = 1, zero_stage = 3;
};

ModelConfig model_of_task() {
  auto model = tiny_model();
  model.num_experts = 4;
  return model;
}

/// Calls `work` on every rank with a runner of random float64 weights.
void with_runners(const Layout& layout, const ModelConfig& model,
                  const std::function<void(StageRunner&, Communicator&)>& work) {
  run_ranks(layout.ranks, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = layout.ranks, .expert = layout.expert});
    auto options = runner_options(at::kDouble, layout.zero_stage == 3 ? Residency::pooled : Residency::resident);
    if (layout.zero_stage == 1) options.grads = Residency::resident;
    StageRunner runner(make_stages(model, mesh), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    work(runner, world);
  });
}

Ids some_ids(int64_t seed, int64_t count) {
  Ids ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((seed * 131 + i * i * 17 + i * 7) % 50));
  return ids;
}

/// Documents of 2 to 4 rows, contexts up to 20 ids long, some rows equal; every third has answers of one id.
MadeTask varied_task(const std::string& metric) {
  auto task = MadeTask::of("multiple_choice", metric);
  for (int64_t d = 0; d < 9; ++d) {
    std::vector<std::pair<Ids, Ids>> rows;
    for (int64_t i = 0; i < 2 + d % 3; ++i)
      rows.emplace_back(some_ids(d, 1 + 2 * d), some_ids(100 + 10 * (d / 2) + i, d % 3 == 0 ? 1 : 2 + (d + i) % 4));
    task.add(d % 2, rows, some_ids(3, 2));
  }
  return task;
}

/// The log-likelihood of ids [first, end of text) of a text of which the last `kContext` are seen.
double log_likelihood(StageRunner& runner, const Ids& text, int64_t first) {
  const int64_t length = std::ssize(text), end = length - 1, begin = std::max<int64_t>(0, end - kContext);
  const auto all = at::tensor(std::vector<int64_t>(text.begin(), text.end()), at::kLong);
  Batch batch{all.slice(0, begin, end).unsqueeze(0), all.slice(0, begin + 1, end + 1).unsqueeze(0).clone(),
              end - begin};
  if (first - 1 > begin) batch.targets_BS.slice(1, 0, first - 1 - begin).fill_(kIgnoredTarget);
  return runner.score(batch).sum().item<double>();
}

/// The scores of a task's rows, one forward each.
RowScores row_by_row(StageRunner& runner, const MadeTask& task) {
  RowScores scores;
  for (const auto& row : task.rows) {
    const auto& continuation = task.continuations.at(static_cast<size_t>(row.continuation));
    const auto after = [&](int64_t context) {
      auto text = task.contexts.at(static_cast<size_t>(context));
      const auto first = std::ssize(text);
      text.insert(text.end(), continuation.begin(), continuation.end());
      return log_likelihood(runner, text, first);
    };
    scores.log_likelihood.push_back(after(row.context));
    scores.ids.push_back(std::ssize(continuation));
    if (task.metadata.at("metric") == "pmi_dc") scores.domain_log_likelihood.push_back(after(row.domain));
  }
  return scores;
}

std::map<std::string, double> by_metric(const std::vector<EvalResult>& results) {
  std::map<std::string, double> out;
  for (const auto& result : results) out[result.metric] = result.value;
  return out;
}

std::unique_ptr<TaskScore> scorer(const std::string& path, int64_t max_tokens, bool without_drops = false) {
  return std::make_unique<TaskScore>(std::make_unique<const TaskFile>(path, 50, kContext),
                                     TaskScore::Options{kContext, max_tokens, TaskMetricsVersion::v1, without_drops});
}

bool never() { return false; }

/// Throws unless the results are the expected ones, and no others but the counts.
void ensure_results(const std::vector<EvalResult>& results, const std::map<std::string, double>& expected) {
  const auto ours = by_metric(results);
  ENSURE(ours.size() == expected.size() + 2, "{} results, not {}", ours.size(), expected.size() + 2);
  for (const auto& [metric, value] : expected)
    ENSURE(std::abs(ours.at(metric) - value) <= 1e-10 * std::abs(value), "{} is {}, not {}", metric, ours.at(metric),
           value);
}

/// What a single rank gives row by row.
std::map<std::string, double> expected_results(const MadeTask& task, const std::string& path) {
  std::map<std::string, double> expected;
  with_runners({}, model_of_task(), [&](StageRunner& runner, Communicator&) {
    const TaskFile file(path, 50, kContext);
    for (const auto& [metric, value] : task_results(file, row_by_row(runner, task), TaskMetricsVersion::v1))
      expected[metric] = value;
  });
  return expected;
}

}  // namespace

TEST_CASE("a task's results are those of its rows one by one, in any layout and packing") {
  for (const std::string metric : {"acc", "len_norm", "pmi_dc", "f1"}) {
    const auto task = varied_task(metric);
    const TempFolder folder;
    const auto path = task.write(folder);
    const auto expected = expected_results(task, path);
    CHECK(expected.at(metric) >= 0);
    CHECK(expected.at("ce_loss") > 0);
    const int64_t max_tokens = metric == "acc" ? 1 : 40;
    for (const Layout& layout : {Layout{}, Layout{2, 1, 3}, Layout{4, 1, 1}, Layout{2, 2, 1}, Layout{4, 2, 3}})
      with_runners(layout, model_of_task(), [&](StageRunner& runner, Communicator& world) {
        const auto results = scorer(path, max_tokens)->run(runner, world, never);
        ENSURE(results, "it was stopped");
        ensure_results(*results, expected);
        ENSURE(by_metric(*results).at("documents") == 9, "documents");
        ENSURE(by_metric(*results).at("truncated") > 0, "nothing was cut");
      });
  }
}

TEST_CASE("answers of one id share the tokens of their question") {
  MadeTask task;
  for (int64_t d = 0; d < 3; ++d)
    task.add(1, {{some_ids(d, 10), {5}}, {some_ids(d, 10), {6}}, {some_ids(d, 10), {7}}, {some_ids(d, 10), {8}}});
  const TempFolder folder;
  const auto path = task.write(folder);
  const auto score = scorer(path, 24);
  CHECK(score->size().tokens == 3 * 10);
  CHECK(score->size().sequences == 3);
  const auto expected = expected_results(task, path);
  with_runners({}, model_of_task(), [&](StageRunner& runner, Communicator& world) {
    ensure_results(*score->run(runner, world, never), expected);
  });
}

TEST_CASE("documents are scored window by window, each without what lies before it") {
  auto task = MadeTask::of("documents", "perplexity");
  const std::vector<Ids> documents{some_ids(1, 30), some_ids(2, 5), some_ids(3, 13)};
  for (const auto& document : documents) task.add(0, {{{}, document}});
  const TempFolder folder;
  const auto path = task.write(folder);
  double nats = 0, ids = 0, of_documents = 0;
  with_runners({}, model_of_task(), [&](StageRunner& runner, Communicator&) {
    for (const auto& document : documents) {
      double sum = 0;
      for (size_t begin = 0; begin + 1 < document.size(); begin += kContext) {
        const size_t end = std::min(begin + kContext + 1, document.size());
        sum -= log_likelihood(
            runner, Ids(document.begin() + static_cast<int64_t>(begin), document.begin() + static_cast<int64_t>(end)),
            1);
      }
      nats += sum;
      ids += static_cast<double>(document.size() - 1);
      of_documents += sum / static_cast<double>(document.size() - 1);
    }
  });
  for (const Layout& layout : {Layout{}, Layout{4, 2, 3}})
    with_runners(layout, model_of_task(), [&](StageRunner& runner, Communicator& world) {
      const auto results = by_metric(*scorer(path, 30)->run(runner, world, never));
      const auto check = [&](const std::string& metric, double value) {
        ENSURE(std::abs(results.at(metric) - value) <= 1e-10 * value, "{} is {}, not {}", metric, results.at(metric),
               value);
      };
      check("ce_loss", nats / ids);
      check("perplexity", std::exp(nats / ids));
      check("ce_loss_by_document", of_documents / 3);
      check("bpb", nats / (2 * (30 + 5 + 13)) / std::log(2.0));
    });
}

TEST_CASE("a model with a capacity is scored without drops, which its results say") {
  const auto task = varied_task("acc");
  const TempFolder folder;
  const auto path = task.write(folder);
  auto expected = expected_results(task, path);
  expected["without_drops"] = 1;
  auto model = model_of_task();
  model.capacity_factor = 0.5;
  for (const Layout& layout : {Layout{}, Layout{2, 2, 3}})
    with_runners(layout, model, [&](StageRunner& runner, Communicator& world) {
      ensure_results(*scorer(path, 40, /*without_drops=*/true)->run(runner, world, never), expected);
    });
}

TEST_CASE("a task whose file is gone on one rank is marked failed on all, and the next one is scored") {
  const auto task = varied_task("acc");
  const TempFolder folder;
  const auto good = task.write(folder);
  const auto expected = expected_results(task, good);
  with_runners({.ranks = 2}, model_of_task(), [&](StageRunner& runner, Communicator& world) {
    const TempFolder mine;
    auto own = task;
    own.metadata["name"] = "own";
    const auto path = own.write(mine);
    std::vector<std::unique_ptr<EvalTask>> tasks;
    tasks.push_back(scorer(path, 40));
    tasks.push_back(scorer(good, 40));
    if (world.rank() == 1) std::filesystem::resize_file(path, 0);
    const auto results = Evaluator(std::move(tasks)).evaluate(runner, world, /*last=*/true, never);
    ENSURE(results, "it was stopped");
    ENSURE(metric_key(results->front()) == "eval/own/failed" && results->front().value == 1, "it is not marked failed");
    ensure_results({results->begin() + 1, results->end()}, expected);
  });
}

TEST_CASE("weights that are not finite end an evaluation on all ranks, which names the task") {
  const auto task = varied_task("acc");
  const TempFolder folder;
  const auto path = task.write(folder);
  for (const int ranks : {1, 2}) {
    try {
      with_runners({.ranks = ranks}, model_of_task(), [&](StageRunner& runner, Communicator& world) {
        auto& head = *runner.units().back();
        head.shard.fill_(NAN);
        head.invalidate();
        scorer(path, 40)->run(runner, world, never);
      });
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::non_finite);
      CHECK_THAT(error.what(), Catch::Contains("evaluation task made: document 0"));
    }
  }
}

TEST_CASE("a task stops between its forwards") {
  const TempFolder folder;
  const auto path = varied_task("acc").write(folder);
  with_runners({.ranks = 2}, model_of_task(), [&](StageRunner& runner, Communicator& world) {
    int asked = 0;
    ENSURE(!scorer(path, 1)->run(runner, world, [&] { return ++asked == 3; }), "it went on");
    ENSURE(asked == 3, "{} forwards", asked);
  });
}

TEST_CASE("a run scores its tasks in each evaluation, and the final ones in the last") {
  const TempFolder folder;
  auto often = varied_task("len_norm"), at_end = MadeTask::of("gold", "bpb");
  often.metadata["name"] = "often";
  at_end.metadata["name"] = "at_end";
  for (int64_t d = 0; d < 3; ++d) at_end.add(0, {{some_ids(d, 4), some_ids(d + 9, 3)}});
  auto config = tiny_run(folder / "run");
  config.evaluation.every_steps = 2;
  config.evaluation.context = kContext;
  config.evaluation.tasks = {often.write(folder)};
  config.evaluation.final_tasks = {config.evaluation.tasks[0], at_end.write(folder)};
  const auto alone = run_single(config).metrics;
  REQUIRE(alone.size() == 3 + 2);
  CHECK(alone[2].at("step") == 2);
  CHECK(alone[2].at("eval/often/documents") == 9);
  CHECK(alone[2].contains("eval/often/len_norm"));
  CHECK(alone[2].contains("eval/often/soft_log"));
  CHECK_FALSE(alone[2].contains("eval/at_end/bpb"));
  CHECK(alone[4].at("step") == 3);
  CHECK(alone[4].contains("eval/often/len_norm"));
  CHECK(alone[4].at("eval/at_end/bpb").get<double>() > 0);
  CHECK(alone[4].at("eval/at_end/truncated") == 0);

  config.run.folder = folder / "two";
  run_to_the_end(2, config);
  const auto two = metrics_of(config.run.folder);
  for (const auto* const key : {"eval/often/len_norm", "eval/often/ce_loss", "eval/at_end/bpb"})
    CHECK(two.at(4).at(key).get<double>() == Approx(alone[4].at(key).get<double>()).epsilon(1e-9));
}

TEST_CASE("a task of another tokenizer is refused before the first step") {
  const TempFolder folder;
  auto task = varied_task("acc");
  task.metadata["vocab_size"] = "51";
  auto config = tiny_run(folder / "run");
  config.evaluation.context = kContext;
  config.evaluation.tasks = {task.write(folder)};
  CHECK_THROWS_WITH(run_single(config),
                    Catch::StartsWith("evaluation task made: task file ") && Catch::Contains("model.vocab_size = 50"));
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
}
