// Chat templates. minja runs them in a child process each, whose coverage the fuzzer sees because the
// counters lie in memory that both share.
#include "model/chat_template.h"

#include <pthread.h>
#include <sanitizer/common_interface_defs.h>

#include <exception>
#include <vector>

#include "input.h"
#include "share_counters.h"

using namespace windowkv;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  fuzz::share_counters();
  // minja compiles its regular expressions when it comes to them: here, rather than in each child.
  try {
    apply_jinja(
        {"{%- set x, y = 1, 2 -%}{% macro m(a, b=1) %}{{ a }}{% endmacro %}{# c #}{% if not x is none and x "
         "or y in [1] %}"
         "{% elif x == 1 %}{% else %}{% endif %}{% for a, b in {'k': -1}.items() if a %}{{ m(a) ~ +b * 2 - 1 "
         "}}"
         "{% endfor %}{% set n.x = null %}{{ 'a' if x else 'b' }}{{ f(*x, **y) | trim }} text {{- x[1:] -}}",
         "", ""},
        {});
  } catch (const std::exception&) {
  }
  // A crash of the child is no crash of ours, and not the fuzzer's to write down.
  pthread_atfork(nullptr, nullptr, [] { __sanitizer_set_death_callback(nullptr); });
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<ChatMessage> messages = {{"system", "Be brief."},
                                                    {"user", "Who sent the letter?"},
                                                    {"assistant", "", {{"call00001", "find", "{\"x\": 1}"}}},
                                                    {"tool", "Ann", {}, "call00001"}};
  const std::string tools = R"([{"type": "function", "function": {"name": "find"}}])";
  fuzz::refuse_or([&] {
    apply({std::string(fuzz::text_of(data, size)), "<s>", "</s>"}, messages, tools, nullptr,
          {.seconds = 0.5, .memory = size_t{256} << 20});
  });
  return 0;
}
