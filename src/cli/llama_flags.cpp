#include "cli/llama_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>

namespace windowkv::cli {

namespace {

using enum Takes;
using enum Fate;

Meaning gpu_layers(const std::string& value) {
  if (value == "0") return {kOurs, "--device=cpu"};
  if (value == "auto" || value == "all" || value == "-1" || value == "-2") return {kIgnored, ""};
  if (value.empty() || value.find_first_not_of("0123456789") != std::string::npos)
    return {kRefused, fmt::format("it takes a number, auto or all, not \"{}\"", value)};
  // No model has so many layers: the usual way to say "all of them".
  if (value.size() > 2 || value == "99") return {kIgnored, ""};
  return {kRefused,
          fmt::format("layers are placed by device, not by number: --device CUDA0,cpu with --tensor-split "
                      "{},N puts {} layers on the GPU and N on the CPU",
                      value, value)};
}

constexpr std::array<std::string_view, 4> kOnWords = {"on", "1", "true", "enabled"};
constexpr std::array<std::string_view, 4> kOffWords = {"off", "0", "false", "disabled"};
constexpr std::array<std::string_view, 2> kAutoWords = {"auto", "-1"};

bool is_among(std::string_view word, std::span<const std::string_view> words) {
  return std::ranges::find(words, word) != words.end();
}

Meaning flash_attention(const std::string& value) {
  if (!value.empty() && !is_switch_word(value))
    return {kRefused, fmt::format("it takes on, off or auto, not \"{}\"", value)};
  const bool off = is_among(value, kOffWords);
  return {kIgnored,
          off ? fmt::format("-fa {} is ignored: the device decides which attention kernel runs", value) : ""};
}

Meaning split_mode(const std::string& value) {
  if (value == "layer") return {kIgnored, ""};
  if (value == "none") return {kRefused, "name the one GPU to use, as in --device CUDA0"};
  return {kRefused, "a model is split by layers only (--device, --tensor-split)"};
}

Meaning load_mode(const std::string& value) {
  if (value == "auto" || value == "mmap") return {kIgnored, ""};
  if (value == "none") return {kOurs, "--no-mmap"};
  if (value == "mlock" || value == "mmap+mlock") return {kOurs, "--mlock"};
  return {kRefused, "use --no-mmap or --mlock"};
}

Meaning reasoning_budget(const std::string& value) {
  if (value == "0") return {kOurs, "--reasoning=off"};
  if (value == "-1") return {kIgnored, ""};
  return {kRefused, "reasoning cannot be cut off; --reasoning off has the model answer at once"};
}

constexpr std::string_view kOnePrompt =
    "windowkv run answers one prompt and ends; give it with -p, -f or on standard input";
constexpr std::string_view kSamplers = "the samplers are --top-k, --top-p, --min-p, --temp and the penalties";
constexpr std::string_view kDraft = "there is no speculative decoding";
constexpr std::string_view kWholeLayers =
    "layers are placed with --device and --tensor-split, their experts with --n-cpu-moe";
constexpr std::string_view kRope = "RoPE is scaled as the model file says";
constexpr std::string_view kAdapters =
    "adapters are not loaded; merge them into the model with llama-export-lora";
constexpr std::string_view kTextOnly = "only text is supported";

constexpr LlamaFlag kFlags[] = {
    // The model and where it runs
    {"-hf, -hfr", kValue, kOurs, "--hf-repo"},
    {"-hff", kValue, kOurs, "--hf-file"},
    {"-hft", kValue, kOurs, "--hf-token"},
    {"-mu, --model-url", kValue, kRefused, "download the file first and give it with -m"},
    {"-dr, --docker-repo", kValue, kRefused, "give a model file with -m"},
    {"-dev", kValue, kOurs, "--device"},
    {"-ts", kValue, kOurs, "--tensor-split"},
    {"-ngl, --gpu-layers, --n-gpu-layers", kValue, kOurs, "", gpu_layers},
    {"-sm, --split-mode", kValue, kOurs, "", split_mode},
    {"-mg, --main-gpu", kValue, kRefused, "name the GPU to use, as in --device CUDA0"},
    {"-ncmoe", kValue, kOurs, "--n-cpu-moe"},
    {"-cmoe", kNothing, kOurs, "--cpu-moe"},
    {"-ot, --override-tensor, --moe-cache-mib, -ncffn, --n-cpu-ffn", kValue, kRefused, kWholeLayers},
    {"-kvo, --kv-offload", kNothing, kIgnored},
    {"-nkvo, --no-kv-offload", kNothing, kRefused,
     "the cache is where its layers are; use --device cpu for both"},
    {"--mmap, --repack, --no-host, --op-offload, --check-tensors, --swa-full, --warmup", kNothing, kIgnored},
    {"-nr, --no-repack", kNothing, kOurs, "--no-repack"},
    {"--no-op-offload", kNothing, kIgnored, "ignored: operations run where their weights are"},
    {"-lm, --load-mode", kValue, kOurs, "", load_mode},
    {"-lzm, --lazy-mode", kValue, kIgnored},
    {"-fit, --fit", kSwitch, kIgnored},
    {"-fitt, --fit-target, -fitc, --fit-ctx", kValue, kIgnored,
     "ignored: windowkv plans memory before it starts and rejects what does not fit"},
    {"--override-kv", kValue, kRefused, "change the file's metadata instead, with gguf_set_metadata.py"},
    {"--lora*, --control-vector*", kValue, kRefused, kAdapters},
    {"-mm, -mmu, --mmproj*, --image*, --audio*, --video*", kValue, kRefused, kTextOnly},
    {"--rope-*, --yarn-*", kValue, kRefused, kRope},
    {"-gan, --grp-attn-n, -gaw, --grp-attn-w", kValue, kRefused, "there is no group attention"},
    // Processors
    {"-tb, --threads-batch", kValue, kIgnored, "ignored: prefill and decode both use the threads of -t"},
    {"-C, --cpu-mask*, -Cr, --cpu-range*, --cpu-strict*, -Cb, -Crb", kValue, kRefused,
     "use taskset to choose CPUs"},
    {"--prio*", kValue, kRefused, "use nice to change the priority"},
    {"--numa", kValue, kRefused, "use numactl to choose NUMA nodes"},
    {"--poll*", kValue, kIgnored},
    // The cache and batches
    {"-c, --ctx-size", kValue, kIgnored, "ignored: the cache is sized by the prompt"},
    {"-ctk", kValue, kOurs, "--kv-type-k"},
    {"-ctv", kValue, kOurs, "--kv-type-v"},
    {"-fa, --flash-attn", kSwitch, kIgnored, "", flash_attention},
    {"-b, --batch-size, -dt, --defrag-thold", kValue, kIgnored},
    {"-ub, --ubatch-size", kValue, kOurs, "--chunk"},
    {"--keep", kValue, kRefused,
     "the cache keeps what --kv chooses; --sinks N always keeps the first N tokens"},
    {"-np", kValue, kOurs, "--parallel"},
    {"--parallel", kValue, kRefused, "only windowkv serve answers several prompts at a time"},
    {"--context-shift", kNothing, kIgnored, "ignored: an answer ends at the end of the trained context"},
    {"--no-context-shift", kNothing, kIgnored},
    {"-ctxcp, --ctx-checkpoints, --swa-checkpoints, -cram, --cache-ram", kValue, kIgnored},
    {"--prompt-cache*", kValue, kRefused, "use --save-prefix FILE, and later --prefix FILE with the same -f"},
    // The prompt
    {"-sys", kValue, kOurs, "--system-prompt"},
    {"-sysf", kValue, kOurs, "--system-prompt-file"},
    {"-bf, --binary-file", kValue, kRefused, "use -f FILE, which takes UTF-8 text"},
    {"-no-cnv, --no-conversation", kNothing, kOurs, "--no-chat"},
    {"-cnv, --conversation", kNothing, kIgnored,
     "windowkv run answers one prompt and ends; the chat template is always applied"},
    {"-st, --single-turn", kNothing, kIgnored},
    {"-i, --interactive, -if, --interactive-first, -mli, --multiline-input", kNothing, kRefused, kOnePrompt},
    {"--in-prefix*, --in-suffix*", kValue, kRefused,
     "write it into the prompt; use --no-chat if the template should not be applied"},
    {"--jinja", kNothing, kIgnored},
    {"--no-jinja", kNothing, kIgnored, "ignored: the model's chat template is always run as Jinja"},
    {"--skip-chat-parsing, --no-skip-chat-parsing", kNothing, kIgnored},
    {"-rea", kValue, kOurs, "--reasoning"},
    {"--reasoning-budget", kValue, kOurs, "", reasoning_budget},
    {"--reasoning-format", kValue, kRefused,
     "only windowkv serve and chat tell reasoning apart; here it is part of the answer"},
    {"--reasoning*", kValue, kRefused, "reasoning is switched with --reasoning on, off or auto"},
    // The answer
    {"-r, --reverse-prompt", kValue, kOurs, "--stop"},
    {"-jf", kValue, kOurs, "--json-schema-file"},
    {"--samplers, --sampler-seq, --sampling-seq, --top-nsigma, --top-n-sigma, --xtc-*, --typical*, --dry-*, "
     "--adaptive-*, --dynatemp-*, --mirostat*, -l, --logit-bias",
     kValue, kRefused, kSamplers},
    {"-bs, --backend-sampling", kNothing, kIgnored},
    {"-md, --model-draft, -hfd, -hfrd, --hf-repo-draft, -td, -tbd, -devd, -ngld, -otd, -ctkd, -ctvd, -Cd, "
     "-Crd, -Cbd, -cmoed, -ncmoed, --spec-*, --draft*, --threads-draft*, --device-draft, --gpu-layers-draft, "
     "--n-gpu-layers-draft, --cache-type-k-draft, --cache-type-v-draft",
     kValue, kRefused, kDraft},
    // The server
    {"-to", kValue, kOurs, "--timeout"},
    {"--webui, --ui, --metrics, --slots, --props, -cb, --cont-batching, -nocb, --no-cont-batching, "
     "--cache-prompt, --warmup, --kv-unified, -kvu",
     kNothing, kIgnored},
    {"--threads-http", kValue, kOurs, "--max-connections"},
    {"--cache-reuse, -sps, --slot-prompt-similarity", kValue, kIgnored,
     "ignored: any request reuses the longest stored prefix of its prompt"},
    {"--no-cache-prompt", kNothing, kOurs, "--no-store"},
    {"--slot-save-path", kValue, kOurs, "--store-dir"},
    {"--ssl-*", kValue, kRefused, "put nginx or another proxy in front of the server for HTTPS"},
    {"--path, --api-prefix, --models-dir, --models-preset, --models-max", kValue, kRefused,
     "windowkv serve serves one model, under fixed paths"},
    {"--embedding, --embeddings, --rerank, --reranking", kNothing, kRefused,
     "windowkv serve generates text only"},
    // What is printed
    {"--no-display-prompt, --perf, --no-perf, --simple-io, --log-disable, --log-prefix, --no-log-prefix, "
     "--log-timestamps, --no-log-timestamps, --no-log-jsonl",
     kNothing, kIgnored},
    {"--display-prompt", kNothing, kIgnored, "ignored: the prompt is not printed before its answer"},
    {"--verbose-prompt", kNothing, kIgnored, "ignored: --trace FILE holds the prompt's tokens"},
    {"-co, --color, --log-colors", kSwitch, kIgnored},
    {"-lv, --verbosity, --log-verbosity", kValue, kIgnored},
    {"--log-verbose", kNothing, kOurs, "--verbose"},
    {"--log-file", kValue, kRefused, "send standard error to a file, with 2>FILE"},
    {"--log-jsonl", kNothing, kRefused, "use --json or --trace FILE"},
    {"-sp, --special", kNothing, kRefused, "--trace FILE holds the answer's tokens, special ones too"},
    {"-ptc, --print-token-count", kValue, kIgnored},
};

bool matches(std::string_view pattern, std::string_view name) {
  return pattern.ends_with('*') ? name.starts_with(pattern.substr(0, pattern.size() - 1)) : name == pattern;
}

bool has_name(const LlamaFlag& flag, std::string_view name) {
  for (auto rest = flag.names; !rest.empty();) {
    const auto end = std::min(rest.find(','), rest.size());
    if (matches(rest.substr(0, end), name)) return true;
    rest.remove_prefix(std::min(end + 2, rest.size()));
  }
  return false;
}

}  // namespace

bool is_switch_word(std::string_view word) {
  return is_among(word, kOnWords) || is_among(word, kOffWords) || is_among(word, kAutoWords);
}

const LlamaFlag* find_llama_flag(std::string_view name) {
  const auto* found = std::ranges::find_if(kFlags, [&](const auto& flag) { return has_name(flag, name); });
  return found == std::end(kFlags) ? nullptr : found;
}

}  // namespace windowkv::cli
