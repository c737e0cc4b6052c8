#include "cli/hub_flags.h"

#include <fmt/format.h>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "hub/hub.h"

namespace windowkv::cli {

void HubFlags::add_to(CLI::App& group, CLI::Option& model) {
  auto* repo =
      group
          .add_option("--hf-repo", request.repo,
                      "Hugging Face repository to take the model from, in place of -m (also -hf); it is "
                      "downloaded once, into the cache that llama.cpp uses too; without QUANT: Q4_K_M, "
                      "else Q8_0, else the first file")
          ->type_name("USER/REPO[:QUANT]")
          ->excludes(&model)
          // Runs before CLI11 looks for what is required.
          ->each([&model](const std::string&) { model.required(false); });
  group.add_option("--hf-file", request.file, "file of that repository, in place of QUANT (also -hff)")
      ->type_name("FILE")
      ->needs(repo);
  group.add_option("--hf-token", request.token, "access token (default: the value of HF_TOKEN; also -hft)")
      ->type_name("TOKEN")
      ->needs(repo);
  group.add_flag("--offline", request.offline, "take the model from the cache, without network access");
}

std::string HubFlags::find() const {
  Progress progress("download");
  hub::Listener listener;
  listener.cancelled = interrupted;
  listener.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  listener.note = [&](const std::string& line) {
    progress.clear();
    tell(fmt::format("windowkv: {}\n", line));
  };
  return hub::find_model(request, listener).string();
}

}  // namespace windowkv::cli
