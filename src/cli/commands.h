#pragma once

#include <CLI/CLI.hpp>

/// The commands of `windowkv`, one file each. Each adds its flags and a callback; a callback that returns
/// normally means exit code 0, Error means 1, ExitWith (output.h) its own.
namespace windowkv::cli {

void add_run(CLI::App& app);
void add_chat(CLI::App& app);
void add_inspect(CLI::App& app);
void add_bench(CLI::App& app);
void add_calibrate(CLI::App& app);
void add_classify(CLI::App& app);
void add_compare(CLI::App& app);
void add_longbench(CLI::App& app);
void add_niah(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_prefix(CLI::App& app);
void add_ruler(CLI::App& app);
void add_turns(CLI::App& app);
void add_serve(CLI::App& app);
void add_rpc_server(CLI::App& app);
void add_oracle_check(CLI::App& app);

}  // namespace windowkv::cli
