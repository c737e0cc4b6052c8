#include "cli/warm_up.h"

#include <algorithm>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "model/loaded_model.h"
#include "windowkv/policy.h"

namespace windowkv::cli {

namespace {

bool on_local_gpus(const Backends& backends) {
  for (size_t device = 0; device < backends.device_count(); ++device)
    if (backends.layer_runs()[device].count() > 0 && (backends.is_cpu(device) || backends.is_remote(device)))
      return false;
  return true;
}

}  // namespace

void warm_up(const Model& model, const ModelFlags& flags) {
  if (flags.no_warmup || !on_local_gpus(*model.loaded().backends)) return;
  // As few as large products have kernels for, and as choosing takes.
  const std::vector<Token> prompt(static_cast<size_t>(std::min(256, model.hparams().n_ctx_train)), 0);
  Progress progress("compiling the GPU's kernels");
  PrefillOptions options;
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total + 1); };
  const auto policy = make_policy("windowkv", {.budget = Budget::percent(25)});
  Engine engine(model, flags.engine());
  Sequence sequence;
  engine.prefill(sequence, prompt, *policy, options);
  const Step step{&sequence, 0};
  engine.decode_greedy(std::span(&step, 1));
  engine.decode(sequence, 0);
}

}  // namespace windowkv::cli
