// Chat templates: Jinja as its users know it, the assistant's reasoning, and what names a template.
#include "model/chat_template.h"

#include <gtest/gtest.h>

#include "jinja/lexer.h"
#include "model/reasoning.h"
#include "windowkv/error.h"

namespace windowkv {
namespace {

std::string shown(const std::string& source, const std::string& variables = "") {
  return apply_jinja({source, "<s>", "</s>", variables}, {{"user", "Hi"}});
}

std::string refusal(const std::string& source) {
  try {
    check_template(source);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

// The texts are Python's Jinja's, with transformers' settings.
TEST(Jinja, ReadsWhatMinjasParserDoesNot) {
  EXPECT_EQ(shown(R"({{ 'a' 'b' "\u00e9\x41\q" }})"),
            "ab\xC3\xA9"
            "A\\q");
  EXPECT_EQ(shown("{{ x is undefined }}{{ messages is not undefined }}{{ 4 is divisibleby 2 }}"),
            "TrueTrueTrue");
  EXPECT_EQ(shown("{{ messages | first | length }}{{ [3, 1, 2] | sort | reverse | join(',') }}"), "23,2,1");
  EXPECT_EQ(shown("{% macro m(x) %}({{ x }}{% endmacro %}{{ m('b').startswith('(b') }}{{ m() }}"), "True(");
  EXPECT_EQ(shown("{{ '{}-{n}'.format(1, n='x') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }}"),
            "1-x ['a', 'b'] ['a', 'b,c']");
  EXPECT_EQ(shown("{% raw %}{{ x }}{% endraw %}{# none #}"), "{{ x }}");
  EXPECT_EQ(shown("{{ {'a': [1, 2.5, none, true]} | tojson }}{{ {'b': 1} | tojson(indent=2) }}"),
            "{\"a\": [1, 2.5, null, true]}{\n  \"b\": 1\n}");
  EXPECT_EQ(shown("{{ 'é😀' | tojson(ensure_ascii=True) }}{{ 'é😀' | length }}"), R"("\u00e9\ud83d\ude00"2)");
}

TEST(Jinja, HasItsRulesAndNotMinjas) {
  EXPECT_EQ(shown("{{ 'a' ~ 'b' == 'ab' and 'yes' }}"), "yes");
  EXPECT_EQ(shown("{% if {} %}full{% else %}empty{% endif %}{{ 7 // -2 }} {{ -7 % 3 }} {{ 1 / 2 }}"),
            "empty-4 2 0.5");
  EXPECT_EQ(shown("{{ x is false }}{{ none is none }}{{ x is none }}{{ '' in [''] }}{{ [0] == [0] }}"),
            "FalseTrueFalseTrueTrue");
  EXPECT_EQ(shown("{{ 'grün'[1:3] }}{{ [1][5] is defined }}{{ [1, 2, 3][::-1] }}"),
            "r\xC3\xBC"
            "False[3, 2, 1]");
  // White space is taken off before blocks and not before {{.
  EXPECT_EQ(shown("a\n    {{ 'b' }}\n    {% if true %}\n  c\n    {% endif %}\nd\n"), "a\n    b\n  c\nd");
  // What is set in one round of a loop is not there in the next.
  EXPECT_EQ(shown("{% for i in [1, 2] %}{% if loop.first %}{% set x = i %}{% endif %}{{ x }},{% endfor %}"),
            "1,,");
  EXPECT_EQ(shown("{% for i in range(9) if i % 2 %}{% if i > 5 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
            "135");
}

TEST(Jinja, TellsWhatIsMissingFromNone) {
  EXPECT_EQ(shown("[{{ x | trim }}{{ messages[0].y | string }}{{ none | string }}]{{ x is iterable }}{{ none "
                  "is iterable }}"),
            "[None]TrueFalse");
}

TEST(Jinja, ErrorsNameTheLine) {
  EXPECT_EQ(refusal("{{ messages }}\n"), "");
  EXPECT_EQ(refusal("chatml"), "");
  EXPECT_NE(refusal("a\n{% if x %}\n{{ x }}").find("line 2: endif is missing"), std::string::npos);
  EXPECT_NE(refusal("a\n\n{{ x | nothing }}").find("line 3: there is no filter named nothing"),
            std::string::npos);
  EXPECT_NE(refusal("{{ 'a }}").find("line 1: a string has no end"), std::string::npos);
  EXPECT_NE(refusal("{{ '\\ud800' }}").find("line 1: an escape names no character"), std::string::npos);
  EXPECT_NE(refusal("{% endfor %}").find("line 1: unexpected endfor"), std::string::npos);
  EXPECT_NE(refusal(std::string(100'000, '{') + std::string(100'000, '(')), "");
  EXPECT_NE(refusal("{{ " + std::string(100'000, '(')).find("line 1"), std::string::npos);
}

TEST(ChatTemplateVariables, ReachTheTemplate) {
  const std::string source =
      "{{ messages[0].content }}{{ '' if enable_thinking else '<think></think>' }}{{ effort }}";
  EXPECT_EQ(shown(source), "Hi");
  EXPECT_EQ(shown(source, R"({"enable_thinking": false, "effort": "low"})"), "Hi<think></think>low");
  // What is said is the conversation's to tell.
  EXPECT_EQ(shown("{{ messages[0].content }}", R"({"messages": []})"), "Hi");
}

const std::vector<ChatMessage> kThoughtful = {
    {"user", "Why?"}, {"assistant", "Because.", {}, "", "Hm."}, {"user", "Really?"}};

TEST(Reasoning, GoesToTemplatesThatReadIt) {
  for (const char* member : {"reasoning_content", "reasoning", "thinking"}) {
    const auto source = "{% for m in messages %}{% if m." + std::string(member) + " %}<{{ m." + member +
                        " }}>{% endif %}{{ m.content }}{% endfor %}";
    EXPECT_EQ(apply_jinja({source, "", ""}, kThoughtful), "Why?<Hm.>Because.Really?");
  }
  // As a part of the content.
  EXPECT_EQ(apply_jinja({"{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for "
                         "b in m.content %}"
                         "{{ '[' + b.thinking + ']' if b['type'] == 'thinking' else b.text }}{% endfor %}{% "
                         "endif %}{% endfor %}",
                         "", ""},
                        kThoughtful),
            "Why?[Hm.]Because.Really?");
  // One that cuts it off the text, and one that knows of none.
  EXPECT_EQ(apply_jinja(
                {"{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip() }}{% endfor %}", "", ""},
                kThoughtful),
            "Why?Because.Really?");
  EXPECT_EQ(apply_jinja({"{% for m in messages %}{{ m.content }}{% endfor %}", "", ""}, kThoughtful),
            "Why?Because.Really?");
}

TEST(Reasoning, IsPartedFromAnswersHoweverTheyCome) {
  struct Case {
    const char* chat_template;
    bool inside;
    std::string answer, reasoning, content;
  };
  const std::vector<Case> cases = {
      {"", false, "\n<think>\nA <b>\n</think>\n\nYes.\n", "A <b>", "Yes.\n"},
      {"", true, " A\n\nB </think>Yes", "A\n\nB", "Yes"},
      {"", true, "cut off ", "cut off", ""},
      {"", false, "No <think>x</think>", "", "No <think>x</think>"},
      {"", false, " <thi", "", " <thi"},
      {"", false, "<think>\n\n</think>\n\nYes", "", "Yes"},
      {"[THINK]", false, "[THINK]A[/THINK]Yes", "A", "Yes"},
      {"<|channel|>analysis", false,
       "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>Yes", "A", "Yes"},
      {"<|channel|>analysis", false, "<|channel|>final<|message|>Yes", "", "Yes"},
  };
  for (const auto& c : cases)
    for (size_t step = 1; step <= c.answer.size(); ++step) {
      ReasoningSplitter splitter(reasoning_format(c.chat_template), c.inside);
      ReasoningSplitter::Parts all;
      const auto add = [&](const ReasoningSplitter::Parts& parts) {
        all.reasoning += parts.reasoning;
        all.content += parts.content;
      };
      for (size_t at = 0; at < c.answer.size(); at += step)
        add(splitter.push(std::string_view(c.answer).substr(at, step)));
      add(splitter.finish());
      EXPECT_EQ(all.reasoning, c.reasoning) << c.answer << " by " << step;
      EXPECT_EQ(all.content, c.content) << c.answer << " by " << step;
    }
  EXPECT_TRUE(ends_in_reasoning(reasoning_format(""), "<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(ends_in_reasoning(reasoning_format(""), "<think>\n\n</think>\n\n"));
}

}  // namespace
}  // namespace windowkv
