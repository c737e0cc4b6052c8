#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace windowkv::server {

void Histogram::add(double seconds) {
  const auto bound = std::ranges::lower_bound(kBounds, seconds);
  ++counts_[static_cast<size_t>(bound - kBounds.begin())];
  sum_ += seconds;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
  std::string out = fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
  int64_t below = 0;
  for (size_t i = 0; i < kBounds.size(); ++i)
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], below += counts_[i]);
  below += counts_.back();
  return out +
         fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2}\n{0}_count {1}\n", name, below, sum_.load());
}

std::string Metrics::text(int64_t stored_memory, int64_t stored_disk) const {
  std::string out;
  auto line = [&](std::string_view type, std::string_view name, std::string_view help, int64_t value) {
    out += fmt::format("# HELP windowkv_{0} {1}\n# TYPE windowkv_{0} {2}\nwindowkv_{0} {3}\n", name, help,
                       type, value);
  };
  line("counter", "requests_total", "Prompts taken.", requests);
  line("counter", "requests_refused_total", "Requests answered with an error.", refused);
  line("counter", "requests_cancelled_total", "Prompts whose client left.", cancelled);
  line("counter", "prompt_tokens_total", "Prompt tokens.", prompt_tokens);
  line("counter", "prompt_tokens_cached_total", "Prompt tokens that a stored prefix had.", cached_tokens);
  line("counter", "generated_tokens_total", "Generated tokens.", generated_tokens);
  line("counter", "prefix_hits_total", "Prompts that began with a stored prefix.", prefix_hits);
  line("counter", "decode_steps_total", "Decode steps, each of one token of every answer under way.",
       decode_steps);
  line("gauge", "requests_processing", "Answers under way.", processing);
  line("gauge", "requests_waiting", "Prompts in the queue.", waiting);
  line("gauge", "kv_resident_bytes", "K and V in caches, or set aside for them.", kv_resident);
  line("gauge", "kv_full_bytes", "What the prompts under way would take in full.", kv_full);
  line("gauge", "prefix_memory_bytes", "Stored prefixes in memory.", stored_memory);
  line("gauge", "prefix_disk_bytes", "Stored prefixes in files.", stored_disk);
  out += first_token.text("windowkv_time_to_first_token_seconds", "From arrival to the first token.");
  out += inter_token.text("windowkv_inter_token_seconds", "Between two tokens of an answer.");
  out += queue_time.text("windowkv_queue_seconds", "From arrival until the prompt is read.");
  return out;
}

}  // namespace windowkv::server
