// Results of tasks: by hand, and for documents of the public package whose log-likelihoods are known (formula logits:
// log-likelihoods that need no model, from the package's own metric code).
#include "trainer/evaluation/task_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "support/catch.h"
#include "support/task_files.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// A row with what a result takes of it.
struct Scored {
  double log_likelihood;
  int64_t chars, bytes;
  double domain = 0;
};

struct Document {
  int64_t label;
  std::vector<Scored> rows;
};

/// The results by metric, of rows whose first character takes one byte.
std::map<std::string, double> results_of(const std::string& kind, const std::string& metric,
                                         const std::vector<Document>& documents,
                                         TaskMetricsVersion version = TaskMetricsVersion::v1) {
  auto task = MadeTask::of(kind, metric);
  const bool has_domain = metric == "pmi_dc";
  RowScores scores;
  int32_t next = 0;
  for (const auto& document : documents) {
    std::vector<std::pair<Ids, Ids>> ids;
    for (size_t i = 0; i < document.rows.size(); ++i) {
      ids.emplace_back(Ids{0}, Ids{next % 50, next / 50});
      ++next;
    }
    task.add(document.label, ids, has_domain ? std::optional(Ids{1}) : std::nullopt);
    for (size_t i = 0; i < document.rows.size(); ++i) {
      const auto& scored = document.rows[i];
      auto& row = task.rows[task.rows.size() - document.rows.size() + i];
      row.chars = scored.chars, row.bytes = scored.bytes;
      row.chars_v1 = scored.chars - 1, row.bytes_v1 = scored.bytes - 1;
      scores.log_likelihood.push_back(scored.log_likelihood);
      if (has_domain) scores.domain_log_likelihood.push_back(scored.domain);
      scores.ids.push_back(2);
    }
  }
  const TempFolder folder;
  const TaskFile file(task.write(folder), 50, 16);
  std::map<std::string, double> out;
  for (const auto& [name, value] : task_results(file, scores, version)) {
    CHECK(std::ranges::find(kTaskResults, name) != kTaskResults.end());
    out[name] = value;
  }
  return out;
}

/// `ll` is the score of the tables, LL / characters.
Scored by_char(double ll, int64_t chars) { return {ll * static_cast<double>(chars), chars, chars}; }

constexpr auto kV1 = TaskMetricsVersion::v1, kV2 = TaskMetricsVersion::v2;

}  // namespace

TEST_CASE("accuracy, losses and soft scores of two documents by hand") {
  const auto results =
      results_of("multiple_choice", "acc", {{1, {{-3.0, 5, 5}, {-2.0, 3, 4}}}, {0, {{-4.0, 3, 3}, {-1.0, 9, 9}}}});
  CHECK(results.size() == 5);
  CHECK(results.at("acc") == 0.5);
  CHECK(results.at("ce_loss") == Approx((2.0 / 2 + 4.0 / 2) / 2).epsilon(1e-14));
  CHECK(results.at("bpb") == Approx((2.0 / 3 + 4.0 / 2) / 2 / std::log(2.0)).epsilon(1e-14));
  const double first = 1 / (1 + std::exp(-1.0)), second = 1 / (1 + std::exp(3.0));
  CHECK(results.at("soft") == Approx((first + second) / 2).epsilon(1e-14));
  CHECK(results.at("soft_log") == Approx((std::log(first) + std::log(second)) / 2).epsilon(1e-14));
}

TEST_CASE("the first of equal scores is chosen") {
  const std::vector<Scored> tie{{-2.0, 5, 5}, {-2.0, 5, 5}, {-9.0, 5, 5}};
  CHECK(results_of("multiple_choice", "acc", {{0, tie}}).at("acc") == 1);
  CHECK(results_of("multiple_choice", "acc", {{1, tie}}).at("acc") == 0);
}

TEST_CASE("len_norm divides by characters, in v1 without the first one") {
  // v1: -10 / 5 against -8 / 3; v2: -10 / 6 against -8 / 4. The other way round with a one-letter answer.
  const std::vector<Document> documents{{0, {{-10.0, 6, 6}, {-8.0, 4, 4}}}, {0, {{-4.0, 3, 3}, {-1.8, 2, 2}}}};
  const auto v1 = results_of("multiple_choice", "len_norm", documents, kV1);
  const auto v2 = results_of("multiple_choice", "len_norm", documents, kV2);
  CHECK(v1.at("len_norm") == 0.5);  // -2 > -2.67; -2 < -1.8
  CHECK(v2.at("len_norm") == 0.5);
  CHECK(v1.at("ce_loss") == Approx((10.0 / 5 + 4.0 / 2) / 2).epsilon(1e-14));
  CHECK(v2.at("ce_loss") == Approx((10.0 / 6 + 4.0 / 3) / 2).epsilon(1e-14));
  const double gap = (-10.0 / 6) - (-8.0 / 4), second = (-4.0 / 3) - (-1.8 / 2);
  CHECK(v2.at("soft_log") == Approx((-std::log1p(std::exp(-gap)) - std::log1p(std::exp(-second))) / 2).epsilon(1e-13));
  // The versions agree on the first of these, and choose differently for the second.
  const std::vector<Document> turned{{0, {{-6.0, 4, 4}, {-3.2, 2, 2}}}};
  CHECK(results_of("multiple_choice", "len_norm", turned, kV1).at("len_norm") == 1);  // -2 > -3.2
  CHECK(results_of("multiple_choice", "len_norm", turned, kV2).at("len_norm") == 1);  // -1.5 > -1.6
  const std::vector<Document> v2_alone{{1, {{-6.0, 4, 4}, {-2.8, 2, 2}}}};
  CHECK(results_of("multiple_choice", "len_norm", v2_alone, kV1).at("len_norm") == 0);  // -2 > -2.8
  CHECK(results_of("multiple_choice", "len_norm", v2_alone, kV2).at("len_norm") == 1);  // -1.5 < -1.4
}

TEST_CASE("pmi_dc divides by the log-likelihood of the domain string, acc_uncond subtracts it") {
  // Ratios 0.5 and 0.9: the second. Differences +4 and +0.5: the first.
  const std::vector<Scored> rows{{-4.0, 5, 5, -8.0}, {-4.5, 5, 5, -5.0}};
  const auto results = results_of("multiple_choice", "pmi_dc", {{1, rows}});
  CHECK(results.at("pmi_dc") == 1);
  CHECK(results.at("acc_uncond") == 0);
  CHECK(results.at("soft") == Approx(1 / (1 + std::exp(0.5 - 0.9))).epsilon(1e-14));
  CHECK_THROWS_WITH(results_of("multiple_choice", "pmi_dc", {{1, {{-4.0, 5, 5, 0.0}, {-4.5, 5, 5, -5.0}}}}),
                    Catch::Contains("document 0, choice 0: pmi_dc divides by"));
}

TEST_CASE("f1 counts choice 0 as positive") {
  const std::vector<Scored> first{{-1.0, 2, 2}, {-2.0, 2, 2}}, second{{-2.0, 2, 2}, {-1.0, 2, 2}};
  // True positives 2, false positives 1, false negatives 1, and a true negative.
  const auto results =
      results_of("multiple_choice", "f1", {{0, first}, {0, first}, {1, first}, {0, second}, {1, second}});
  CHECK(results.at("f1") == Approx(2.0 * 2 / (2 * 2 + 1 + 1)).epsilon(1e-14));
  CHECK(results_of("multiple_choice", "f1", {{1, second}}).at("f1") == 0);
}

TEST_CASE("gold continuations have losses alone") {
  const std::vector<Document> documents{{0, {{-6.0, 4, 5}}}, {0, {{-3.0, 2, 2}}}};
  const auto v1 = results_of("gold", "bpb", documents, kV1), v2 = results_of("gold", "ce_loss", documents, kV2);
  CHECK(v1.size() == 2);
  CHECK(v1.at("ce_loss") == Approx((6.0 / 3 + 3.0 / 1) / 2).epsilon(1e-14));
  CHECK(v1.at("bpb") == Approx((6.0 / 4 + 3.0 / 1) / 2 / std::log(2.0)).epsilon(1e-14));
  CHECK(v2.at("bpb") == Approx((6.0 / 5 + 3.0 / 2) / 2 / std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("documents have means by id and by document, and bits per byte") {
  auto task = MadeTask::of("documents", "perplexity");
  task.add(0, {{{}, {1, 2, 3, 4, 5}}});
  task.add(0, {{{}, {6, 7}}});
  task.rows[0].bytes = 30;
  const TempFolder folder;
  const TaskFile file(task.write(folder), 50, 16);
  const auto results = task_results(file, {{-8.0, -3.0}, {}, {4, 1}}, kV1);
  REQUIRE(results.size() == 4);
  CHECK(results[0].metric == "perplexity");
  CHECK(results[0].value == Approx(std::exp(11.0 / 5)).epsilon(1e-14));
  CHECK(results[1].value == Approx(11.0 / 5).epsilon(1e-14));
  CHECK(results[2].metric == "ce_loss_by_document");
  CHECK(results[2].value == Approx((2.0 + 3.0) / 2).epsilon(1e-14));
  CHECK(results[3].value == Approx(11.0 / 34 / std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("a log-likelihood that is not finite ends an evaluation, and names its document") {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity(), -HUGE_VAL}) {
    try {
      results_of("multiple_choice", "acc", {{0, {{-1.0, 2, 2}, {-1.0, 2, 2}}}, {0, {{-1.0, 2, 2}, {bad, 2, 2}}}});
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::non_finite);
      CHECK_THAT(error.what(), Catch::Contains("document 1, choice 1"));
    }
  }
}

TEST_CASE("results of documents of the public package, from their log-likelihoods") {
  const double tolerance = 2e-7;  // of the tables' digits
  // piqa, document 0 (label 0): 165 and 167 characters; the tables have LL / characters in both versions.
  const std::vector<Document> piqa{{0, {by_char(-2.8758650, 165), by_char(-2.8551810, 167)}}};
  const auto v1 = results_of("multiple_choice", "len_norm", piqa, kV1);
  const auto v2 = results_of("multiple_choice", "len_norm", piqa, kV2);
  CHECK(v1.at("len_norm") == 0);
  CHECK(v2.at("ce_loss") == Approx(2.8758650).epsilon(tolerance));
  CHECK(v1.at("ce_loss") == Approx(2.8934009).epsilon(tolerance));
  CHECK(v2.at("bpb") == Approx(4.1489959).epsilon(tolerance));
  CHECK(v1.at("soft") == Approx(1 / (1 + std::exp(2.8934009 - 2.8723807))).epsilon(tolerance));
  // arc_easy, document 0 (label 0), by LL.
  const auto arc = results_of(
      "multiple_choice", "acc",
      {{0, {{-23.4228592, 19, 19}, {-11.9387608, 11, 11}, {-10.3697329, 13, 13}, {-13.4561319, 9, 9}}}}, kV2);
  CHECK(arc.at("acc") == 0);
  CHECK(arc.at("bpb") == Approx(1.7785285).epsilon(tolerance));
  // boolq, document 0 (label 1) and winogrande, document 0 (label 1).
  const auto boolq = results_of("multiple_choice", "acc", {{1, {{-9.4381695, 4, 4}, {-14.5930176, 3, 3}}}}, kV2);
  CHECK(boolq.at("acc") == 0);
  CHECK(boolq.at("bpb") == Approx(7.0177584).epsilon(tolerance));
  const auto winogrande =
      results_of("multiple_choice", "acc", {{1, {{-90.1303864, 29, 29}, {-90.1070023, 29, 29}}}}, kV2);
  CHECK(winogrande.at("acc") == 1);
  CHECK(winogrande.at("bpb") == Approx(4.4826522).epsilon(tolerance));
  // openbook_qa, document 0 (label 0).
  const auto openbook = results_of(
      "multiple_choice", "len_norm",
      {{0, {by_char(-2.0981936, 17), by_char(-2.2791870, 5), by_char(-3.0730159, 14), by_char(-2.3093052, 16)}}}, kV2);
  CHECK(openbook.at("len_norm") == 1);
  CHECK(openbook.at("bpb") == Approx(3.0270536).epsilon(tolerance));
}
