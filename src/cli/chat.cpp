// windowkv chat: a conversation, about a document or without one.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/generate_flags.h"
#include "cli/interrupt.h"
#include "cli/line_input.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/store_flags.h"
#include "cli/warm_up.h"
#include "windowkv/conversation.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct ChatFlags {
  ModelFlags model;
  PolicyFlags policy;
  PromptFlags prompt;
  StoreFlags store;
  GenerateFlags generate;
  std::string reasoning_format = "auto";
  bool verbose = false;
};

constexpr std::string_view kHelp =
    "/system TEXT   set the system message\n"
    "/budget N|P%   how much of the prompt to read for each token\n"
    "/stats         what the last answer took\n"
    "/save FILE     save the conversation with its keys and values\n"
    "/load FILE     go on with a saved conversation\n"
    "/clear         forget all questions and answers\n"
    "/quit          leave, as Ctrl-D does\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C stops an answer.\n";

class Chat {
 public:
  explicit Chat(const ChatFlags& flags)
      : policy_(flags.policy),
        verbose_(flags.verbose),
        task_(flags.policy.task.choice()),
        generate_(flags.generate.options(flags.prompt.escape)),
        system_(flags.prompt.read_system()),
        chat_template_(flags.prompt.read_chat_template()),
        document_(document_of(flags)),
        model_(flags.model.load()),
        engine_(*model_, flags.model.engine()),
        saves_(flags.store.save),
        prefix_(flags.store.load),
        conversation_(engine_, *model_, options(flags), store(flags)) {
    check_grammar(generate_, *model_);
    warm_up(*model_, flags.model);
    policy_ = policy_.for_model(*model_);
  }

  void run() {
    const std::string& name = model_->hparams().name;
    if (input_.on_terminal())
      print(
          fmt::format("{}; /help lists the commands, Ctrl-D leaves\n", name.empty() ? model_->path() : name));
    if (!prefix_.empty() && document_.empty()) {
      conversation_.load(prefix_);
      if (!system_.empty()) conversation_.set_system(system_);
    } else if (!prefix_.empty() && conversation_.store() != nullptr) {
      // The first question may go on where the document ends.
      const auto& saved = conversation_.store()->tokens();
      auto document = conversation_.document_tokens();
      if (document.size() < saved.size())
        document.insert(document.end(), saved.begin() + std::ssize(document), saved.end());
      warn_of_unused(prefix_, *conversation_.store(), document, model_->hparams().recurrent());
    }
    reading("reading the document", [&] { conversation_.read_document(); });
    if (!saves_.empty() && conversation_.store() != nullptr && !conversation_.store()->tokens().empty())
      conversation_.store()->save(saves_);
    while (const auto line = input_.read()) {
      if (line->find_first_not_of(" \t\n") == std::string::npos) continue;
      if (line->starts_with('/')) {
        if (!command(*line)) break;
      } else {
        failing([&] { answer(*line); });
      }
    }
    if (input_.on_terminal()) print("\n");
  }

 private:
  static std::string document_of(const ChatFlags& flags) {
    const auto& file = flags.prompt.file;
    if (file == "-") throw Error("questions come from standard input; give the document's file with -f");
    if (file.empty() && !flags.store.save.empty())
      throw Error(
          "--save-prefix saves the document, and there is none: give it with -f; /save keeps a conversation");
    if (file.empty()) return "";
    auto document = read_document(file, /*text_follows=*/false);
    if (document.find_first_not_of(" \t\r\n") == std::string::npos)
      throw Error(file + ": the document is empty");
    return document;
  }

  std::optional<PrefixStore> store(const ChatFlags& flags) const {
    const int64_t context =
        flags.generate.context > 0 ? flags.generate.context : model_->hparams().n_ctx_train;
    auto store = flags.store;
    if (document_.empty()) store.load.clear();  // a conversation's, see run()
    return store.make(*model_, context);
  }

  ConversationOptions options(const ChatFlags& flags) {
    ConversationOptions o;
    o.system = system_;
    o.document = document_;
    o.chat_template = chat_template_;
    o.context = std::max<int64_t>(0, flags.generate.context);
    o.generate = generate_;
    o.variables = flags.prompt.read_variables();
    o.generate.on_text = [this](std::string_view text) {
      progress_.reset();
      end_reasoning();
      print(text);
    };
    if (flags.reasoning_format != "none")
      o.on_reasoning = [this](std::string_view text) {
        progress_.reset();
        // Where nothing can be dimmed, marks tell what is which.
        if (!std::exchange(thinking_, true)) print(dims_ ? "\033[2m" : "<think>\n");
        print(text);
      };
    o.policy = [this](const std::string& question) {
      decision_ = task_(kNeutralTask, question);
      auto policy = policy_;
      if (conversation_.store() == nullptr) policy.recall = "off";
      return policy.make(model_->hparams(), decision_.task);
    };
    o.progress = [this](int64_t done, int64_t total) {
      if (progress_) progress_->update(done, total);
    };
    return o;
  }

  void end_reasoning() {
    if (std::exchange(thinking_, false)) print(dims_ ? "\033[0m\n\n" : "\n</think>\n\n");
  }

  /// Work that reads a prompt, with its progress.
  void reading(const char* what, const std::function<void()>& work) {
    progress_.emplace(what);
    work();
    progress_.reset();
  }

  /// On a terminal an error does not end the conversation.
  void failing(const std::function<void()>& work) {
    try {
      work();
    } catch (const Cancelled&) {
      progress_.reset();
      forget_interrupt();
      if (interrupted() || !input_.on_terminal()) throw;
      tell("windowkv: the question was given up\n");
    } catch (const Error& e) {
      progress_.reset();
      if (!input_.on_terminal()) throw;
      tell(fmt::format("windowkv: {}\n", e.what()));
    }
  }

  void answer(const std::string& question) {
    const Conversation::Turn* turn = nullptr;
    reading("prefill", [&] { turn = &conversation_.ask(question); });
    end_reasoning();
    if (!turn->generation.text.ends_with('\n')) print("\n");
    if (input_.on_terminal()) print("\n");
    if (turn->dropped > 0)
      note(
          fmt::format("the conversation no longer fits in the context; the oldest {} forgotten",
                      turn->dropped == 1 ? "question was" : fmt::format("{} questions were", turn->dropped)));
    if (verbose_) stats();
    if (turn->generation.reason == StopReason::kCancelled) {
      forget_interrupt();
      if (interrupted() || !input_.on_terminal()) throw Cancelled();
    }
  }

  void stats() {
    const auto* turn = conversation_.last();
    if (turn == nullptr) throw Error("there is no answer yet");
    const RunReport report{
        *model_, *turn->policy,        turn->prompt, turn->sequence, turn->generation, decision_,
        0,       conversation_.store()};
    tell(summary_text(report));
  }

  /// False to leave.
  bool command(const std::string& line) {
    const auto end = std::min(line.find(' '), line.size());
    const auto name = line.substr(0, end);
    const auto first = line.find_first_not_of(' ', end);
    const auto rest = first == std::string::npos ? "" : line.substr(first);
    const auto need = [&](const char* what) {
      if (rest.empty()) throw Error(fmt::format("{} takes {}", name, what));
    };
    if (name == "/quit" || name == "/exit") return false;
    failing([&] {
      if (name == "/help") {
        print(kHelp);
      } else if (name == "/system") {
        conversation_.set_system(rest);
      } else if (name == "/clear") {
        conversation_.clear();
      } else if (name == "/stats") {
        stats();
      } else if (name == "/budget") {
        need("a number of tokens or a percentage");
        Budget::parse(rest);
        policy_.budget = rest;
      } else if (name == "/save") {
        need("the name of a file");
        conversation_.save(rest);
      } else if (name == "/load") {
        need("the name of a file");
        conversation_.load(rest);
      } else {
        throw Error(fmt::format("unknown command {}; /help lists the commands", name));
      }
    });
    return true;
  }

  PolicyFlags policy_;
  bool verbose_;
  eval::TaskChoice task_;
  TaskDecision decision_;
  GenerateOptions generate_;
  std::string system_, chat_template_, document_;
  std::unique_ptr<Model> model_;
  Engine engine_;
  std::string saves_, prefix_;
  std::optional<Progress> progress_;
  LineInput input_{"> "};
  const bool dims_ = isatty(STDOUT_FILENO) != 0;
  bool thinking_ = false;  ///< reasoning is being shown
  Conversation conversation_;
};

}  // namespace

void add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  flags->policy.recall = "auto";
  auto* command = app.add_subcommand("chat", "Talk with a model, about a document or without one");
  command->footer(
      "Type a question; /help lists the commands. The document is read once: each question reads only\n"
      "itself and the answer before it, and looks at everything. Questions may also be piped in, one a\n"
      "line.\n"
      "\n"
      "Examples:\n"
      "  windowkv chat -m model.gguf -f book.txt\n"
      "  windowkv chat -m model.gguf --system \"Answer in one sentence.\" --kv-budget 25%\n"
      "  printf 'Who wrote it?\\nWhen?\\n' | windowkv chat -m model.gguf -f book.txt");
  flags->model.add_to(*command);
  flags->prompt.add_to(*command, PromptFlags::Takes::kConversation);
  flags->policy.add_to(*command);
  flags->store.add_to(*command);
  command
      ->add_option(
          "--reasoning-format", flags->reasoning_format,
          "none: a model's reasoning is part of its answer; deepseek, auto: it is shown dimmed, and later "
          "turns have it as the chat template says")
      ->check(CLI::IsMember({"none", "deepseek", "auto"}).description(""))
      ->type_name("none|deepseek|auto")
      ->capture_default_str();
  flags->generate.plain.max_tokens = -1;
  flags->generate.add_to(*command);
  auto* output = command->add_option_group("Output");
  output->add_flag("-v,--verbose", flags->verbose, "report what each answer took, as /stats does");
  command->callback([flags] {
    catch_interrupts();
    Chat(*flags).run();
  });
}

}  // namespace windowkv::cli
