// isologit bench: how long logits and scores take here, beside what the machine could do.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/cpu.hpp"
#include "cli/bench_crossovers.hpp"
#include "cli/bench_data.hpp"
#include "cli/bench_forward.hpp"
#include "cli/bench_run.hpp"
#include "cli/row_options.hpp"
#include "cli/run_with_progress.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"
#include "isologit/score.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::cli {
namespace {

struct Arguments {
  std::string shape = "qwen3-0.6b";
  std::vector<std::int64_t> rows = {1, 4, 16, 64, 256};
  std::vector<std::string> kernels;
  std::vector<std::string> what = {"logits", "score"};
  std::optional<std::string> outliers;
  std::int64_t threads = 0;
  double seconds = 2;
  bool crossovers = false;
  bool forward = false;
  bool json = false;
};

struct Ceilings {
  double bytes_per_second = 0;
  std::vector<double> operations_per_second;  // one a kernel; 0: unknown
};

// One line of the result.
struct Measured {
  std::int64_t rows;
  std::size_t kernel;
  std::string what;
};

// Everything a bench holds while it runs.
struct Bench {
  BenchShape shape;
  int threads;
  std::vector<const kernels::Target*> kernels;
  std::vector<std::uint16_t> weight;
  std::vector<std::uint16_t> hidden;
  std::vector<std::int64_t> token_ids;
  Head head;

  MatrixView rows(std::int64_t count) const {
    return {hidden.data(), DType::bf16, count, shape.hidden_size, shape.hidden_size};
  }
  double bytes(std::int64_t rows) const {
    return 2.0 * static_cast<double>((shape.vocab_size + rows) * shape.hidden_size);
  }
  double operations(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(shape.vocab_size * shape.hidden_size);
  }
};

// The named kernels, or the best of each arithmetic.
Outcome<std::vector<const kernels::Target*>> choose_kernels(const std::vector<std::string>& names) {
  std::vector<const kernels::Target*> chosen;
  if (names.empty()) {
    for (const Arithmetic arithmetic : {Arithmetic::exact, Arithmetic::fast}) {
      const Result<const kernels::Target*> kernel = kernels::choose("", arithmetic);
      if (kernel) chosen.push_back(*kernel);
    }
    if (chosen.empty()) return failure(kernels::choose("", Arithmetic::exact).error());
    return chosen;
  }
  for (const std::string& name : names) {
    Result<const kernels::Target*> kernel = kernels::choose(name, Arithmetic::exact);
    if (!kernel) {
      if (Result<const kernels::Target*> fast = kernels::choose(name, Arithmetic::fast)) kernel = fast;
    }
    if (!kernel) return usage_error("--" + kernel.error().message);
    chosen.push_back(*kernel);
  }
  return chosen;
}

Bench make_bench(BenchShape shape, std::vector<const kernels::Target*> kernels, int threads, std::int64_t most_rows,
                 std::optional<float> outliers) {
  Bench bench{std::move(shape), threads, std::move(kernels), {}, {}, {}, {}};
  const std::int64_t size = bench.shape.hidden_size;
  bench.weight = normal_bf16(bench.shape.vocab_size * size, 0.02F, 1, threads);
  bench.hidden = normal_bf16(most_rows * size, 1.0F, 2, threads);
  if (outliers) scale_outliers(bench.hidden, size, *outliers);
  for (std::int64_t i = 0; i < most_rows; ++i) bench.token_ids.push_back(i * 7919 % bench.shape.vocab_size);
  bench.head.weight = {bench.weight.data(), DType::bf16, bench.shape.vocab_size, size, size};
  bench.head.vocab_size = bench.shape.vocab_size;
  bench.head.transforms.has_softcap = bench.shape.softcap > 0;
  bench.head.transforms.softcap = bench.shape.softcap;
  return bench;
}

// All tiles of logits, which nothing reads.
void make_logits(const Bench& bench, const kernels::Target& kernel, std::int64_t rows) {
  const MatrixView hidden = bench.rows(rows);
  tiles::Tiles tiles({bench.head, 0}, hidden, {}, kernel, bench.threads);
  const std::int64_t block = tiles.block_rows(rows);
  for (std::int64_t begin = 0; begin < rows; begin += block) {
    std::vector<std::int64_t> indices;
    for (std::int64_t i = begin; i < std::min(begin + block, rows); ++i) indices.push_back(i);
    tiles.take(indices);
    tiles.run([](int, const tiles::RowTile&) {}, {});
  }
}

// What `score` computes, or with `everything` all that one pass can give.
void make_score(const Bench& bench, const kernels::Target& kernel, std::int64_t rows, bool everything) {
  constexpr std::int64_t kIds = 8;
  constexpr std::int64_t kTop = 20;
  const auto count = static_cast<std::size_t>(rows);
  std::vector<float> floats[9];
  std::vector<std::int64_t> ids[3];
  std::vector<std::int64_t> given;
  const auto to_floats = [&](std::size_t i, std::int64_t each) {
    floats[i].resize(count * static_cast<std::size_t>(each));
    return floats[i].data();
  };
  const auto to_ids = [&](std::size_t i, std::int64_t each) {
    ids[i].resize(count * static_cast<std::size_t>(each));
    return ids[i].data();
  };
  const std::vector<float> temperatures = {0.7F};
  ScoreRequest request;
  request.hidden = bench.rows(rows);
  request.token_ids = {bench.token_ids.data(), count};
  request.logprobs = to_floats(0, 1);
  request.lse = to_floats(1, 1);
  request.entropy = to_floats(2, 1);
  request.argmax = to_ids(0, 1);
  request.rank = to_ids(1, 1);
  if (everything) {
    request.temperatures = temperatures;
    request.raw_logprobs = to_floats(3, 1);
    request.sum_p2 = to_floats(4, 1);
    request.log_kept = to_floats(5, 1);
    request.support.last_id = bench.shape.vocab_size - bench.shape.vocab_size / 10;
    for (std::int64_t i = 0; i < rows * kIds; ++i) given.push_back(i * 104729 % bench.shape.vocab_size);
    request.ids_per_row = kIds;
    request.ids = given;
    request.ids_logprobs = to_floats(6, kIds);
    request.top_k = kTop;
    request.top_k_ids = to_ids(2, kTop);
    request.top_k_logprobs = to_floats(7, kTop);
  }
  ScoreOptions options;
  options.threads = bench.threads;
  options.kernel = kernel.name();
  options.arithmetic = kernel.arithmetic();
  if (const auto scored = isologit::score(bench.head, request, options); !scored) throw std::bad_alloc();
}

std::vector<Timed> make_calls(const Bench& bench, const std::vector<Measured>& lines) {
  std::vector<Timed> calls;
  for (const Measured& line : lines) {
    const kernels::Target& kernel = *bench.kernels[line.kernel];
    calls.push_back({[&bench, &kernel, line] {
                       if (line.what == "logits") {
                         make_logits(bench, kernel, line.rows);
                       } else {
                         make_score(bench, kernel, line.rows, line.what == "everything");
                       }
                     },
                     {}});
  }
  return calls;
}

// What is told of a run.
struct Report {
  const Bench& bench;
  const Ceilings& ceilings;
  const std::vector<Measured>& lines;
  const std::vector<Timed>& calls;
  const std::vector<ByRows>& by_rows;         // empty: not asked for
  const std::vector<OperatorTimes>& forward;  // likewise

  double floor_seconds(const Measured& line) const {
    const double peak = ceilings.operations_per_second[line.kernel];
    const double read = bench.bytes(line.rows) / ceilings.bytes_per_second;
    return peak > 0 ? std::max(read, bench.operations(line.rows) / peak) : read;
  }
};

std::string machine_text(const Bench& bench) { return fmt::format("{}, threads {}", processor_name(), bench.threads); }

nlohmann::ordered_json forward_json(const Report& of) {
  nlohmann::ordered_json lines;
  for (const OperatorTimes& one : of.forward) {
    lines.push_back({{"rows", one.rows},
                     {"kernel", one.kernel->name()},
                     {"threads", of.bench.threads},
                     {"operator", one.name},
                     {"ms", one.timed.median() * 1e3},
                     {"ms_min", one.timed.seconds.front() * 1e3},
                     {"ms_max", one.timed.seconds.back() * 1e3}});
  }
  return lines;
}

std::string as_json(const Report& of) {
  const Bench& bench = of.bench;
  nlohmann::ordered_json json = {{"shape", bench.shape.name},
                                 {"vocab_size", bench.shape.vocab_size},
                                 {"hidden_size", bench.shape.hidden_size},
                                 {"machine", machine_text(bench)},
                                 {"read_gb_per_s", of.ceilings.bytes_per_second / 1e9},
                                 {"kernels", nlohmann::ordered_json::array()},
                                 {"results", nlohmann::ordered_json::array()}};
  for (std::size_t k = 0; k < bench.kernels.size(); ++k) {
    json["kernels"].push_back(
        {{"name", bench.kernels[k]->name()}, {"peak_gflop_per_s", of.ceilings.operations_per_second[k] / 1e9}});
  }
  for (std::size_t i = 0; i < of.lines.size(); ++i) {
    const Measured& line = of.lines[i];
    const Timed& timed = of.calls[i];
    const kernels::Target& kernel = *bench.kernels[line.kernel];
    json["results"].push_back({{"rows", line.rows},
                               {"kernel", kernel.name()},
                               {"arithmetic", arithmetic_name(kernel.arithmetic())},
                               {"threads", bench.threads},
                               {"what", line.what},
                               {"ms", timed.median() * 1e3},
                               {"ms_min", timed.seconds.front() * 1e3},
                               {"ms_max", timed.seconds.back() * 1e3},
                               {"gb_per_s", bench.bytes(line.rows) / timed.median() / 1e9},
                               {"gflop_per_s", bench.operations(line.rows) / timed.median() / 1e9},
                               {"floor_ms", of.floor_seconds(line) * 1e3}});
  }
  for (std::size_t k = 0; k < of.by_rows.size(); ++k) {
    const ByRows& one = of.by_rows[k];
    json["crossovers"].push_back({{"kernel", one.kernel->name()},
                                  {"rows", kCrossoverRows},
                                  {"ms", nlohmann::ordered_json::array()},
                                  {"faster_than_next_from", nullptr},
                                  {"chosen_from", one.kernel->entry().from_rows}});
    auto& last = json["crossovers"].back();
    for (const double seconds : one.seconds) last["ms"].push_back(seconds * 1e3);
    if (k + 1 == of.by_rows.size()) continue;
    if (const auto from = crossover(one.seconds, of.by_rows[k + 1].seconds)) last["faster_than_next_from"] = *from;
  }
  if (!of.forward.empty()) json["forward"] = forward_json(of);
  return json.dump(2) + "\n";
}

std::string forward_text(const std::vector<OperatorTimes>& forward) {
  std::vector<std::vector<std::string>> table = {{"rows", "kernel", "operator", "ms", "spread", "us a row"}};
  for (const OperatorTimes& one : forward) {
    const double seconds = one.timed.median();
    table.push_back({fmt::format("{}", one.rows), std::string(one.kernel->name()), one.name,
                     fmt::format("{:.3f}", seconds * 1e3),
                     fmt::format("{:.3f} to {:.3f}", one.timed.seconds.front() * 1e3, one.timed.seconds.back() * 1e3),
                     fmt::format("{:.1f}", seconds * 1e6 / static_cast<double>(one.rows))});
  }
  return "\n" + column_table(table);
}

// The least ms by rows, and where they cross.
std::string crossovers_text(const std::vector<ByRows>& by_rows) {
  std::vector<std::vector<std::string>> table = {{"rows"}};
  for (const std::int64_t rows : kCrossoverRows) table.front().push_back(fmt::format("{}", rows));
  std::string text;
  for (std::size_t k = 0; k < by_rows.size(); ++k) {
    const kernels::Target& kernel = *by_rows[k].kernel;
    table.push_back({std::string(kernel.name())});
    for (const double seconds : by_rows[k].seconds) table.back().push_back(fmt::format("{:.1f}", seconds * 1e3));
    if (k + 1 == by_rows.size()) continue;
    const auto rows = crossover(by_rows[k].seconds, by_rows[k + 1].seconds);
    const std::string from = rows ? fmt::format("from {} rows on", *rows)
                                  : fmt::format("for no number of rows up to {}", kMostCrossoverRows);
    text += fmt::format("  {} is faster than {} {}; chosen from {} on\n", kernel.name(), by_rows[k + 1].kernel->name(),
                        from, kernel.entry().from_rows);
  }
  return "\n" + column_table(table) + "\n" + text;
}

std::string as_table(const Report& of) {
  const Bench& bench = of.bench;
  std::string text =
      field_table({{"shape", fmt::format("{}: weight [{}, {}] bf16, {}", bench.shape.name, bench.shape.vocab_size,
                                         bench.shape.hidden_size, bytes_text(bench.weight.size() * 2))},
                   {"machine", machine_text(bench)},
                   {"reads memory at", fmt::format("{:.1f} GB/s", of.ceilings.bytes_per_second / 1e9)}});
  std::vector<std::vector<std::string>> rows = {
      {"rows", "kernel", "what", "ms", "spread", "GB/s", "of reading", "GFLOP/s", "of multiply-adds", "x floor"}};
  for (std::size_t i = 0; i < of.lines.size(); ++i) {
    const Measured& line = of.lines[i];
    const Timed& timed = of.calls[i];
    const double seconds = timed.median();
    const double bytes = bench.bytes(line.rows) / seconds;
    const double operations = bench.operations(line.rows) / seconds;
    const double peak = of.ceilings.operations_per_second[line.kernel];
    rows.push_back(
        {fmt::format("{}", line.rows), std::string(bench.kernels[line.kernel]->name()), line.what,
         fmt::format("{:.1f}", seconds * 1e3),
         fmt::format("{:.1f} to {:.1f}", timed.seconds.front() * 1e3, timed.seconds.back() * 1e3),
         fmt::format("{:.1f}", bytes / 1e9), fmt::format("{:.0f} %", 100 * bytes / of.ceilings.bytes_per_second),
         fmt::format("{:.1f}", operations / 1e9), peak > 0 ? fmt::format("{:.0f} %", 100 * operations / peak) : "",
         fmt::format("{:.2f}", seconds / of.floor_seconds(line))});
  }
  return text + "\n" + column_table(rows);
}

Outcome<Ending> run(const Arguments& arguments) {
  const Outcome<BenchShape> shape = parse_shape(arguments.shape);
  if (!shape) return tl::unexpected(shape.error());
  std::optional<float> outliers;
  if (arguments.outliers) {
    const auto parsed = parse_f32("--outliers", *arguments.outliers, "a number above 0, such as 40",
                                  [](float x) { return x > 0 && x < 0x1p60F; });
    if (!parsed) return tl::unexpected(parsed.error());
    outliers = *parsed;
  }
  auto kernels = choose_kernels(arguments.kernels);
  if (!kernels) return tl::unexpected(kernels.error());
  const int threads = arguments.threads > 0 ? static_cast<int>(arguments.threads) : base::available_threads();
  std::int64_t most = *std::max_element(arguments.rows.begin(), arguments.rows.end());
  if (arguments.crossovers) most = std::max(most, kMostCrossoverRows);
  const Bench bench = make_bench(*shape, *kernels, threads, most, outliers);

  Ceilings ceilings;
  ceilings.bytes_per_second = read_rate(std::as_bytes(std::span(bench.weight)), threads);
  std::vector<Measured> lines;
  for (const std::int64_t rows : arguments.rows) {
    for (std::size_t k = 0; k < bench.kernels.size(); ++k) {
      for (const std::string& what : arguments.what) lines.push_back({rows, k, what});
    }
  }
  for (const kernels::Target* kernel : bench.kernels) {
    ceilings.operations_per_second.push_back(multiply_add_rate(*kernel, threads, arguments.seconds));
  }
  std::vector<Timed> calls = make_calls(bench, lines);
  Progress progress(::isatty(STDERR_FILENO) == 1, Progress::Clock::now());
  const auto told = [&progress](double share) {
    std::fputs(progress.update(share, Progress::Clock::now()).c_str(), stderr);
  };
  time_in_turn(calls, arguments.seconds, told);
  std::vector<ByRows> by_rows;
  if (arguments.crossovers) {
    by_rows = measure_by_rows(bench.head, bench.rows(kMostCrossoverRows), threads, arguments.seconds, told);
  }
  std::vector<OperatorTimes> forward;
  if (arguments.forward) {
    forward = measure_forward(bench.shape.hidden_size, arguments.rows, bench.kernels, threads, arguments.seconds, told);
  }
  std::fputs(progress.clear().c_str(), stderr);
  const Report report{bench, ceilings, lines, calls, by_rows, forward};
  if (arguments.json) return Ending{as_json(report), {}};
  return Ending{as_table(report) + (arguments.crossovers ? crossovers_text(by_rows) : "") +
                    (arguments.forward ? forward_text(forward) : ""),
                {}};
}

constexpr const char* kFooter =
    "Data: random normal bf16, weight of deviation 0.02, hidden of 1. `logits` makes all tiles of logits and keeps\n"
    "none; `score` is what the verb score computes; `everything` adds raw_logprob, sum_p2, log_kept over a range, 8\n"
    "ids a row, the first 20 ids and a temperature. Calls are timed in turn, 3 to 9 times each: the median, and the\n"
    "least and the greatest time. GB/s counts the weight and the rows read once, GFLOP/s 2 N V H operations; beside\n"
    "them what they are of the rates at which this machine, in the same run, reads that memory and does that\n"
    "kernel's multiply-adds out of registers. The floor is the greater of the two times those rates allow.";

}  // namespace

VerbRun bench_verb(Options& options) {
  const auto arguments = std::make_shared<Arguments>();
  options.about("Measure how long logits and scores take here, and what bounds them");
  options.text("--shape", "NAME|V,H", arguments->shape, "V,H or one of " + shape_names() + "; by default qwen3-0.6b");
  options.list("--rows", "N,...", arguments->rows, 1, 1 << 20, "Numbers of hidden rows; by default 1,4,16,64,256");
  options.list("--kernel", "NAME,...", arguments->kernels,
               "Kernels of `isologit kernels`; by default the best exact and fast");
  options.list("--what", "WHAT,...", arguments->what, {"logits", "score", "everything"},
               "logits, score, everything; by default the first two");
  options.text("--outliers", "X", arguments->outliers, "Multiply 8 of every 4096 hidden channels by X");
  declare_threads(options, arguments->threads);
  options.positive("--seconds", "S", arguments->seconds,
                   "No further repeats of what took so long in all; 2 by default");
  options.flag("--crossovers", arguments->crossovers,
               "Also: from how many rows on each exact kernel is faster than the next");
  options.flag("--forward", arguments->forward,
               "Also: the operators of a layer before such a head, by the exact kernels");
  declare_json(options, arguments->json);
  options.footer(kFooter);
  return [arguments] { return run(*arguments); };
}

}  // namespace isologit::detail::cli
