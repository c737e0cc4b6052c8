#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "windowkv/error.h"
#include "windowkv/model.h"

namespace {

/// ggml's threads wait for each other at every node of a graph. OpenMP's default is to spin there for
/// milliseconds, which on a machine that also does something else keeps the awaited thread off its core:
/// decode falls from thousands of tokens a second to a few. A short spin costs nothing on an idle machine
/// (docs/performance.md). libgomp reads the setting when the program is loaded, hence the second start;
/// whoever set either variable keeps their choice.
void spin_briefly(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/1);
  execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace windowkv::cli;
  secure_standard_streams();
  spin_briefly(argv);
  CLI::App app{"windowkv: run GGUF models on long prompts with a fraction of the KV cache", "windowkv"};
  app.footer(
      "Examples:\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Who sent the letter?\"\n"
      "  windowkv chat -m model.gguf -f book.txt\n"
      "  windowkv inspect -m model.gguf\n"
      "\n"
      "windowkv COMMAND --help explains a command; --list-devices lists the devices that models can run on,\n"
      "--version prints the version.");
  app.set_help_flag();
  app.require_subcommand(1);
  for (auto add : {add_run, add_chat, add_serve, add_inspect, add_bench, add_calibrate, add_classify,
                   add_compare, add_longbench, add_niah, add_perplexity, add_prefix, add_ruler, add_turns,
                   add_rpc_server, add_oracle_check})
    add(app);

  auto fail = [](std::string_view what) { tell(fmt::format("windowkv: {}\n", what)); };
  try {
    run_command_line(app, {argv + 1, argv + argc});
    return 0;
  } catch (const UsageError& e) {
    fail(fmt::format("{} (see {})", e.what(), e.page));
    return kUsageExit;
  } catch (const ExitWith& e) {
    return e.code;
  } catch (const windowkv::Cancelled&) {
    fail("interrupted");
    return interrupted_exit();
  } catch (const std::bad_alloc&) {
    fail("out of memory");
  } catch (const std::exception& e) {
    fail(e.what());
  }
  return 1;
}
