#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <new>
#include <span>
#include <string_view>

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

/// llama.cpp's short names of more than one letter, which CLI11 does not know.
void spell_out(std::span<char*> arguments) {
  static char k[] = "--cache-type-k";
  static char v[] = "--cache-type-v";
  static char devices[] = "--device";
  static char split[] = "--tensor-split";
  for (auto& argument : arguments) {
    if (std::string_view(argument) == "-ctk") argument = k;
    if (std::string_view(argument) == "-ctv") argument = v;
    if (std::string_view(argument) == "-dev") argument = devices;
    if (std::string_view(argument) == "-ts") argument = split;
  }
}

}  // namespace

int main(int argc, char** argv) {
  spin_briefly(argv);
  spell_out({argv, static_cast<size_t>(argc)});
  using namespace windowkv::cli;
  CLI::App app{
      "windowkv: long prompts through GGUF models with about 12 % of the KV cache.\n"
      "Start with:  windowkv run -m MODEL.gguf -f DOCUMENT.txt -p \"Question: ...\"",
      "windowkv"};
  app.set_version_flag("--version", WINDOWKV_VERSION);
  app.footer("windowkv COMMAND --help explains a command.");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  for (auto add : {add_run, add_inspect, add_bench, add_calibrate, add_classify, add_compare, add_longbench,
                   add_niah, add_ruler, add_rpc_server, add_oracle_check})
    add(app);

  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    fmt::print(stderr, "windowkv: {}; see windowkv --help\n", e.what());
    return 2;
  } catch (const ExitWith& e) {
    return e.code;
  } catch (const windowkv::Cancelled&) {
    fmt::print(stderr, "windowkv: interrupted\n");
    return interrupted_exit();
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "windowkv: out of memory\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "windowkv: {}\n", e.what());
  }
  return 1;
}
