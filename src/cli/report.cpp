#include "cli/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/layer_ranges.h"
#include "cli/output.h"
#include "cli/store_flags.h"
#include "windowkv/selection.h"

namespace windowkv::cli {

using nlohmann::ordered_json;

ordered_json trace_json(const RunReport& r) {
  const auto& hp = r.model.hparams();
  ordered_json trace;
  trace["model"] = {{"path", r.model.path()},
                    {"name", hp.name},
                    {"family", hp.family},
                    {"type", r.model.weight_type()},
                    {"layers", hp.n_layer},
                    {"full_layers", hp.full_layers()},
                    {"recurrent_layers", hp.n_recurrent_layers()},
                    {"shared_layers", hp.shared_layers},
                    {"heads", hp.n_head},
                    {"kv_heads", hp.n_head_kv},
                    {"head_size", hp.d_head},
                    {"embedding", hp.n_embd},
                    {"vocabulary", hp.n_vocab},
                    {"trained_context", hp.n_ctx_train},
                    {"calibration", r.model.calibration()}};
  trace["policy"] = r.policy.name();
  if (const auto* c = r.policy.config()) {
    trace["task"] = to_string(c->task);
    trace["task_decision"] = {{"source", to_string(r.task.source)}, {"probability", r.task.probability}};
    trace["preset"] = c->preset;
    trace["config"] = {{"omega", c->omega},
                       {"alpha", c->alpha},
                       {"p", c->p},
                       {"gamma", c->gamma},
                       {"lambda", c->lambda},
                       {"pyramid", to_string(c->pyramid)},
                       {"windows", to_string(c->windows)},
                       {"heads", to_string(c->heads)},
                       {"decide", to_string(c->decider)},
                       {"rows", to_string(c->rows)},
                       {"recent", c->recent},
                       {"sinks", c->sinks},
                       {"spread", spread_stride(*c, r.sequence.prompt_tokens)},
                       {"spread_weight", c->spread_weight},
                       {"budget", r.policy.budget()->resolve(r.sequence.prompt_tokens)}};
  } else {
    trace["task"] = nullptr;
    trace["task_decision"] = nullptr;
    trace["preset"] = nullptr;
    trace["config"] = nullptr;
    if (const auto budget = r.policy.budget())
      trace["config"] = {{"budget", budget->resolve(r.sequence.prompt_tokens)}};
  }
  trace["prompt_tokens"] = r.sequence.prompt_tokens;
  trace["reused_tokens"] = r.sequence.reused_tokens;
  trace["recall"] = r.policy.recall();
  trace["total"] = r.policy.total();
  trace["evictions"] = r.sequence.evictions.count;
  trace["reads_store"] = r.sequence.reads_store;
  trace["store"] = nullptr;
  if (r.store != nullptr)
    trace["store"] = {{"tokens", r.store->tokens().size()},
                      {"type_k", to_string(r.store->types().k)},
                      {"type_v", to_string(r.store->types().v)},
                      {"bytes", r.store->bytes()},
                      {"snapshots", r.store->snapshots()},
                      {"place", r.store->place() == PrefixStoreOptions::Place::kMemory ? "ram" : "disk"}};
  trace["budget"] = nullptr;
  if (const auto budget = r.policy.budget())
    trace["budget"] = {{"text", budget->text()},
                       {"tokens", budget->resolve(r.sequence.prompt_tokens)},
                       {"below_floor", budget->below_floor(r.sequence.prompt_tokens)}};
  trace["tokens"] = r.prompt;
  trace["groups"] = ordered_json::array();
  for (const auto& g : r.sequence.groups)
    trace["groups"].push_back({{"first_layer", g.group.first_layer},
                               {"last_layer", g.group.last_layer},
                               {"budget", g.budget},
                               {"windows", g.windows},
                               {"kept", g.kept}});
  for (size_t i = 0; i < r.sequence.groups.size(); ++i)
    if (const auto& heads = r.sequence.groups[i].kept_by_head; !heads.empty())
      trace["groups"][i]["kept_by_head"] = heads;
  const auto& bytes = r.sequence.bytes;
  const auto& types = r.sequence.kv_types;
  trace["kv"] = {
      {"type_k", to_string(types.k)}, {"type_v", to_string(types.v)},    {"bytes", bytes.kept},
      {"bytes_full", bytes.full},     {"state_bytes", hp.state_bytes()}, {"peak_bytes", bytes.peak}};
  trace["timing_ms"] = {{"load", r.load_ms},
                        {"prefill", r.sequence.timing.total},
                        {"selection", r.sequence.timing.selection},
                        {"first_token", r.first_token_ms()},
                        {"decode", r.generation.decode_ms}};
  trace["generated"] = r.generation.tokens;
  trace["stop_reason"] = to_string(r.generation.reason);
  trace["text"] = r.generation.text;
  return trace;
}

ordered_json answer_json(const RunReport& r) {
  ordered_json answer = {{"text", r.generation.text},
                         {"stop_reason", to_string(r.generation.reason)},
                         {"prompt_tokens", r.sequence.prompt_tokens},
                         {"generated_tokens", r.generation.tokens.size()}};
  const auto trace = trace_json(r);
  for (const auto& [name, value] : trace.items())
    if (name != "tokens" && name != "groups" && name != "generated") answer[name] = value;
  return answer;
}

std::string json_text(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string summary_text(const RunReport& r) {
  const auto& s = r.sequence;
  const auto& hp = r.model.hparams();
  const auto n = static_cast<double>(s.prompt_tokens);
  const double mean =
      std::accumulate(s.kept.begin(), s.kept.end(), 0.0) / std::max(1, hp.row_layer(hp.n_layer));
  const auto layers = kept_by_layers(hp, s.kept);
  auto rate = [](double count, double ms) { return ms > 0 ? count / ms * 1000 : 0.0; };
  std::string text;
  auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<12}{}\n", name, value);
  };
  std::string policy(r.policy.name());
  if (const auto* c = r.policy.config())
    policy += fmt::format(", {} ({}), preset {}", to_string(c->task), describe(r.task), c->preset);
  const auto budget = r.policy.budget();
  if (budget) policy += ", budget " + budget->text();
  if (const auto* c = r.policy.config();
      c != nullptr && c->pyramid == Pyramid::kMeasured && r.policy.total() == 0)
    policy += ", calibration " + (r.model.calibration().empty() ? "none" : r.model.calibration());
  line("policy", policy);
  line("prompt",
       fmt::format(
           "{} tokens{}", s.prompt_tokens,
           s.reused_tokens > 0 ? fmt::format(", {} of them from the prefix store", s.reused_tokens) : ""));
  if (budget && budget->below_floor(s.prompt_tokens))
    line("kept", fmt::format("all tokens: prompts of up to {} tokens are kept whole", budget->floor()));
  else
    line("kept", fmt::format("{:.1f} tokens per layer on average ({:.1f} %): {}", mean, 100 * mean / n,
                             fmt::join(layers, ", ")));
  if (s.reads_store)
    line("KV cache",
         fmt::format("{} read of {} ({:.1f} %), in the store; peak {} beside it", bytes_text(s.bytes.kept),
                     bytes_text(s.bytes.full),
                     100.0 * static_cast<double>(s.bytes.kept) / static_cast<double>(s.bytes.full),
                     bytes_text(s.bytes.peak)));
  else
    line("KV cache",
         fmt::format("{}{} kept of {} ({:.1f} %){}, peak {}",
                     s.kv_types == KvTypes{}
                         ? ""
                         : fmt::format("K {}, V {}; ", to_string(s.kv_types.k), to_string(s.kv_types.v)),
                     bytes_text(s.bytes.kept), bytes_text(s.bytes.full),
                     100.0 * static_cast<double>(s.bytes.kept) / static_cast<double>(s.bytes.full),
                     s.bytes.padding > 0 ? fmt::format(", and {} empty, as KV heads keep different numbers",
                                                       bytes_text(s.bytes.padding))
                                         : "",
                     bytes_text(s.bytes.peak)));
  if (r.store != nullptr)
    line("store", fmt::format("{} tokens, {}", r.store->tokens().size(), describe(*r.store)));
  line("prefill", fmt::format("{:.1f} ms, {:.0f} tokens/s, including {:.1f} ms of selection ({:.2f} %)",
                              s.timing.total, rate(n - static_cast<double>(s.reused_tokens), s.timing.total),
                              s.timing.selection, 100 * s.timing.selection / s.timing.total));
  if (!r.generation.tokens.empty()) line("first token", fmt::format("{:.1f} ms", r.first_token_ms()));
  if (r.generation.decoded > 0)
    line("decode", fmt::format("{} tokens, {:.1f} tokens/s ({:.2f} ms/token)", r.generation.decoded,
                               rate(static_cast<double>(r.generation.decoded), r.generation.decode_ms),
                               r.generation.decode_ms / static_cast<double>(r.generation.decoded)));
  if (s.recalls.count > 0)
    line("recall", fmt::format("chosen again {} times, {:.2f} ms each", s.recalls.count,
                               s.recalls.ms / static_cast<double>(s.recalls.count)));
  if (r.policy.total() > 0)
    line("total",
         s.evictions.count == 0
             ? fmt::format("{} tokens a layer, never reached", r.policy.total())
             : fmt::format("{} tokens a layer; some dropped {} times, {:.2f} ms each", r.policy.total(),
                           s.evictions.count, s.evictions.ms / static_cast<double>(s.evictions.count)));
  return text;
}

}  // namespace windowkv::cli
