// isologit logits: the logits themselves, written block by block.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/digest.hpp"
#include "cli/input_rows.hpp"
#include "cli/run_with_progress.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"
#include "io/safetensors_writer.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {
namespace {

struct Arguments : RowArguments {
  std::string dtype = "f32";
};

struct Job {
  InputRows rows;
  RowRange ids;
  DType dtype = DType::f32;

  std::int64_t row_bytes() const { return (ids.end - ids.begin) * static_cast<std::int64_t>(dtype_size(dtype)); }
};

struct Written {
  ScoreReport report;
  double seconds = 0;
  std::string digest;
};

// The rows that are held at a time. The core passes over the weight once for
// each 120 of them.
std::int64_t block_rows(const Job& job) {
  constexpr std::int64_t kMostBytes = std::int64_t{128} << 20;
  constexpr std::int64_t kRowsOfAPass = 120;
  const std::int64_t rows = std::max<std::int64_t>(kMostBytes / job.row_bytes(), 1);
  return rows > kRowsOfAPass ? rows / kRowsOfAPass * kRowsOfAPass : rows;
}

const char* safetensors_name(DType dtype) {
  return dtype == DType::f32 ? "F32" : dtype == DType::bf16 ? "BF16" : "F16";
}

Result<ScoreReport> write_blocks(const Head& head, const Job& job, const ScoreOptions& options, io::TensorStream& file,
                                 Digest& digest) {
  const MatrixView& hidden = job.rows.hidden;
  const std::int64_t most = std::min(block_rows(job), std::max<std::int64_t>(hidden.rows, 1));
  std::vector<std::byte> block(static_cast<std::size_t>(most * job.row_bytes()));
  ScoreReport total;
  // Once without a row, if there is none: the report names the kernel then too.
  for (std::int64_t begin = 0; begin == 0 || begin < hidden.rows; begin += most) {
    const std::int64_t count = std::min(most, hidden.rows - begin);
    ScoreRequest request;
    request.hidden = hidden;
    request.hidden.rows = count;
    request.hidden.data = static_cast<const std::byte*>(hidden.data) +
                          begin * hidden.row_stride * static_cast<std::int64_t>(dtype_size(hidden.dtype));
    request.temperatures = job.rows.temperatures;
    if (job.rows.temperatures.size() > 1) {
      request.temperatures =
          request.temperatures.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    }
    request.logits = {block.data(), job.dtype, job.ids.end - job.ids.begin, job.ids.begin, job.ids.end - job.ids.begin};
    ScoreOptions of_block = options;
    of_block.progress = [&](double done) {
      const auto share =
          (static_cast<double>(begin) + static_cast<double>(count) * done) / static_cast<double>(hidden.rows);
      return options.progress(share);
    };
    Result<ScoreReport> report = score(head, request, of_block);
    if (!report) return report;
    const auto bytes = std::span(block).first(static_cast<std::size_t>(count * job.row_bytes()));
    digest.add(bytes);
    if (auto appended = file.append(bytes); !appended) return tl::unexpected(appended.error());
    total.kernel = report->kernel;
    total.arithmetic = report->arithmetic;
    total.threads = report->threads;
    total.rows += report->rows;
    total.logit_fallbacks += report->logit_fallbacks;
  }
  return total;
}

Outcome<Written> write(const Head& head, const Job& job, io::NewFile& file, const ScoreOptions& options) {
  Result<io::TensorStream> logits = io::TensorStream::begin(file, "logits", safetensors_name(job.dtype),
                                                            {job.rows.hidden.rows, job.ids.end - job.ids.begin});
  if (!logits) return failure(logits.error());
  Written written;
  Digest digest;
  const auto call = [&](const ScoreOptions& with_progress) {
    return write_blocks(head, job, with_progress, *logits, digest);
  };
  const auto done = run_with_progress(options, call, written.report, written.seconds);
  if (!done) return tl::unexpected(done.error());
  if (const Result<void> finished = logits->finish(); !finished) return failure(finished.error());
  written.digest = digest.text();
  return written;
}

std::string as_json(const Arguments& arguments, const io::Checkpoint& checkpoint, const Job& job,
                    const Written& written) {
  const ScoreReport& report = written.report;
  const nlohmann::ordered_json json = {{"model", arguments.model},
                                       {"input", arguments.input},
                                       {"rows", job.rows.count()},
                                       {"first_id", job.ids.begin},
                                       {"ids", job.ids.end - job.ids.begin},
                                       {"dtype", arguments.dtype},
                                       {"vocab_size", checkpoint.head.vocab_size},
                                       {"hidden_size", checkpoint.head.weight.cols},
                                       {"kernel", report.kernel},
                                       {"arithmetic", arithmetic_name(report.arithmetic)},
                                       {"threads", report.threads},
                                       {"seconds", written.seconds},
                                       {"logit_fallbacks", report.logit_fallbacks},
                                       {"output", *arguments.output},
                                       {"digest", written.digest}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string as_table(const Arguments& arguments, const io::Checkpoint& checkpoint, const Job& job,
                     const Written& written) {
  const ScoreReport& report = written.report;
  const auto& temperatures = job.rows.temperatures;
  const auto slice = [](const RowRange& range, bool told) {
    const std::int64_t count = range.end - range.begin;
    return told ? fmt::format("{} ({} to {})", count, range.begin, range.end - 1) : fmt::format("{}", count);
  };
  const std::string temperature = temperatures.empty()    ? "1"
                                  : arguments.temperature ? fmt::format("{}", temperatures[0])
                                                          : "one per row";
  return field_table({{"model", arguments.model},
                      {"head", describe_head(checkpoint)},
                      {"transforms", transforms_text(checkpoint.head.transforms)},
                      {"vocabulary", fmt::format("{}", checkpoint.head.vocab_size)},
                      {"input", fmt::format("{}  hidden_states {} [*, {}]", arguments.input,
                                            dtype_name(job.rows.hidden.dtype), job.rows.hidden.cols)},
                      {"rows", slice(job.rows.range, arguments.rows.has_value())},
                      {"ids", slice(job.ids, arguments.vocab.has_value())},
                      {"temperature", temperature},
                      {"kernel", kernel_text(report.kernel, report.threads, report.arithmetic)},
                      {"time", duration_text(written.seconds)},
                      {"settled again", fmt::format("{} logits by exact accumulation", report.logit_fallbacks)},
                      {"output", fmt::format("{}  logits {} [{}, {}]", *arguments.output, arguments.dtype,
                                             job.rows.count(), job.ids.end - job.ids.begin)},
                      {"", ""},
                      {"digest", "sha256 " + written.digest}});
}

Outcome<Job> make_job(const Arguments& arguments, const RowOptions& options, const io::Captured& captured,
                      const io::Checkpoint& checkpoint) {
  const Outcome<InputRows> rows = choose_rows(arguments.input, captured, checkpoint, options);
  if (!rows) return tl::unexpected(rows.error());
  Job job{*rows, {0, checkpoint.head.vocab_size}, *parse_dtype(arguments.dtype)};
  if (options.vocab) {
    const Outcome<RowRange> ids = resolve_ids(*options.vocab, checkpoint.head.vocab_size);
    if (!ids) return tl::unexpected(ids.error());
    job.ids = *ids;
  }
  return job;
}

Outcome<Ending> run(const Arguments& arguments) {
  const Outcome<RowOptions> options = parse_row_options(arguments);
  if (!options) return tl::unexpected(options.error());
  const Outcome<io::Checkpoint> checkpoint = open_model(arguments);
  if (!checkpoint) return tl::unexpected(checkpoint.error());
  const Result<io::Captured> captured = io::read_hidden_rows(arguments.input);
  if (!captured) return failure(captured.error());
  const Outcome<Job> job = make_job(arguments, *options, *captured, *checkpoint);
  if (!job) return tl::unexpected(job.error());

  Outcome<std::optional<io::NewFile>> output = begin_output(arguments.output, checkpoint->directory);
  if (!output) return tl::unexpected(output.error());
  const Outcome<Written> written = write(checkpoint->head, *job, **output, options->compute);
  if (!written) return tl::unexpected(written.error());
  std::string text = arguments.json ? as_json(arguments, *checkpoint, *job, *written)
                                    : as_table(arguments, *checkpoint, *job, *written);
  return Ending{std::move(text), std::move(*output)};
}

constexpr const char* kFooter =
    "The input is a safetensors file with hidden_states [T, H] (bf16, f16 or f32) and optionally temperatures [T] "
    "(f32).\n"
    "The output gets logits [rows, ids], after softcap, scale and temperature: each is the real number of the last of\n"
    "these steps, rounded once to the dtype (with --arithmetic fast, the f32 logit rounded to it). It is written "
    "block\n"
    "by block and need not fit into memory.\n"
    "\n"
    "The JSON object has model, input, rows, first_id, ids (how many), dtype, vocab_size, hidden_size, kernel,\n"
    "arithmetic, threads, seconds (with writing), logit_fallbacks, output, digest (SHA-256 of the tensor's bytes).\n"
    "\n"
    "Exit code: 0, 1 for a failure, 2 for a wrong command line, 130 when interrupted.";

}  // namespace

VerbRun logits_verb(Options& options) {
  const auto arguments = std::make_shared<Arguments>();
  options.about("Write the logits of captured rows, each rounded once");
  arguments->declare(options, "Only ids A to B - 1",
                     "Divide all logits by T, rounded to f32; not with an input that has temperatures");
  options.required("--output", "FILE", arguments->output, "Where to write the logits");
  options.choice("--dtype", "NAME", arguments->dtype, {"f32", "bf16", "f16"}, "f32, the default, bf16 or f16");
  options.footer(kFooter);
  return [arguments] { return run(*arguments); };
}

}  // namespace isologit::detail::cli
