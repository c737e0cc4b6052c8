#include "server/stream.h"

#include <httplib.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/reasoning.h"
#include "server/call_parser.h"
#include "support/clock.h"

namespace windowkv::server {

namespace {

constexpr std::chrono::milliseconds kPatience{200};
/// Proxies and clients take a connection for dead that stays silent for long.
constexpr double kKeepAliveMs = 10e3;

void give_up(const std::vector<std::shared_ptr<Job>>& jobs) {
  for (const auto& job : jobs) job->answer->give_up();
}

/// What echo puts before an answer.
std::string echoed(const Completion& completion, size_t job, const Vocab& vocab) {
  if (!completion.request.echo) return "";
  const auto& prompt = completion.request.prompts[job];
  if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
  return vocab.text(std::get<std::vector<Token>>(prompt));
}

/// Parts the answer of one choice into reasoning, text and calls.
class Parts {
 public:
  Parts(const Job& job, const ToolRequest& tools) {
    if (job.reasoning != nullptr) reasoning_.emplace(*job.reasoning, job.ends_in_reasoning);
    if (tools.active()) calls_.emplace(tools.tools, tools.parallel);
  }

  void take_from(Delta& delta) {
    if (reasoning_) {
      auto parts = reasoning_->push(delta.text);
      delta.reasoning = std::move(parts.reasoning);
      delta.text = std::move(parts.content);
      if (delta.finished) {
        const auto rest = reasoning_->finish();
        delta.reasoning += rest.reasoning;
        delta.text += rest.content;
      }
    }
    if (!calls_) return;
    auto found = calls_->push(delta.text);
    if (delta.finished) found.text += calls_->finish().text;
    delta.text = std::move(found.text);
    delta.calls = std::move(found.calls);
  }

 private:
  std::optional<ReasoningSplitter> reasoning_;
  std::optional<CallParser> calls_;
};

/// The prompt's logprobs lack that of its first token.
void add_first_token(const Job& job, std::vector<TokenLogprob>& logprobs) {
  logprobs.insert(logprobs.begin(), TokenLogprob{job.prompt.front(), 0, {}});
}

/// A stream under way.
class Events {
 public:
  Events(Completion completion, const Service& service, std::function<void(bool whole)> ended)
      : completion_(std::move(completion)), ended_(std::move(ended)) {
    for (size_t job = 0; job < completion_.jobs.size(); ++job)
      for (int choice = 0; choice < completion_.request.choices; ++choice) {
        echoes_.push_back(echoed(completion_, job, service.vocab()));
        parts_.emplace_back(*completion_.jobs[job], completion_.request.tools);
      }
    told_.resize(echoes_.size(), false);
  }

  ~Events() {
    give_up(completion_.jobs);
    ended_(whole_);
  }

  /// Sends the next event; false where the client left.
  bool next(httplib::DataSink& sink) try {
    if (!sink.is_writable()) return false;
    if (!std::exchange(begun_, true))
      if (const auto begin = completion_.format->begin(); !begin.empty() && !write(sink, begin)) return false;
    bool finished = true;
    // A single job may be waited for; of several, what there is is taken.
    const auto patience = completion_.jobs.size() == 1 ? kPatience : kPatience / 10;
    for (size_t i = 0; i < completion_.jobs.size(); ++i) {
      auto& answer = *completion_.jobs[i]->answer;
      if (answer.finished()) continue;
      if (auto delta = answer.next(patience))
        if (!send(sink, i, std::move(*delta))) return false;
      finished = finished && answer.finished();
    }
    if (finished) return end(sink);
    if (ms_since(last_) > kKeepAliveMs) return write(sink, ": keep-alive\n\n");
    return true;
  } catch (const ApiError& e) {
    write(sink, sse(error_json(e)));
    sink.done();
    return true;
  }

 private:
  bool write(httplib::DataSink& sink, const std::string& text) {
    last_ = Clock::now();
    return sink.write(text.data(), text.size());
  }

  bool send(httplib::DataSink& sink, size_t job, Delta delta) {
    const int choice = static_cast<int>(job) * completion_.request.choices + delta.choice;
    const auto place = static_cast<size_t>(choice);
    parts_[place].take_from(delta);
    if (delta.text.empty() && delta.reasoning.empty() && delta.calls.empty() && delta.logprobs.empty() &&
        !delta.finished)
      return true;
    const bool first = !told_[place];
    if (first) delta.text = std::exchange(echoes_[place], "") + delta.text;
    told_[place] = true;
    return write(sink, completion_.format->event(choice, delta, first));
  }

  bool end(httplib::DataSink& sink) {
    std::vector<Usage> usages;
    for (const auto& job : completion_.jobs) usages.push_back(job->answer->usage());
    if (!write(sink, completion_.format->end(sum_of(usages)))) return false;
    whole_ = true;
    sink.done();
    return true;
  }

  Completion completion_;
  std::function<void(bool whole)> ended_;
  std::vector<std::string> echoes_;  ///< by choice of all jobs, as told_
  std::vector<bool> told_;           ///< whether something was sent of it
  std::vector<Parts> parts_;
  bool begun_ = false;
  bool whole_ = false;  ///< all of it was sent
  Clock::time_point last_ = Clock::now();
};

}  // namespace

void respond_at_once(const Completion& completion, const Service& service, const httplib::Request& request,
                     httplib::Response& response) {
  std::vector<ChoiceText> choices;
  std::vector<Usage> usages;
  try {
    for (size_t i = 0; i < completion.jobs.size(); ++i) {
      const auto& job = *completion.jobs[i];
      std::vector<ChoiceText> own(static_cast<size_t>(job.choices));
      std::vector<Parts> parts(own.size(), Parts(job, completion.request.tools));
      while (!job.answer->finished()) {
        auto delta = job.answer->next(kPatience);
        if (!delta) {
          if (!request.is_connection_closed()) continue;
          give_up(completion.jobs);
          response.status = kClientLeft;
          return;
        }
        const auto place = static_cast<size_t>(delta->choice);
        parts[place].take_from(*delta);
        auto& choice = own[place];
        choice.text += delta->text;
        choice.reasoning += delta->reasoning;
        choice.calls.insert(choice.calls.end(), delta->calls.begin(), delta->calls.end());
        choice.logprobs.insert(choice.logprobs.end(), delta->logprobs.begin(), delta->logprobs.end());
        if (delta->finished) choice.finished = delta->finished;
      }
      for (auto& choice : own) {
        choice.text = echoed(completion, i, service.vocab()) + choice.text;
        if (job.prompt_logprobs && &choice == own.data()) {
          add_first_token(job, choice.logprobs);
          choice.prompt_unscored = true;
        }
        choices.push_back(std::move(choice));
      }
      usages.push_back(job.answer->usage());
    }
  } catch (const ApiError&) {
    give_up(completion.jobs);
    throw;
  }
  response.set_content(text_of(completion.format->whole(choices, sum_of(usages))), kJson);
}

void respond_as_stream(Completion completion, const Service& service, httplib::Response& response,
                       std::function<void(bool whole)> ended) {
  auto events = std::make_shared<Events>(std::move(completion), service, std::move(ended));
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // nginx would collect them
  response.set_chunked_content_provider(
      kEvents, [events](size_t, httplib::DataSink& sink) { return events->next(sink); });
}

}  // namespace windowkv::server
