#include "jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "jinja/lexer.h"
#include "jinja/nodes.h"

namespace windowkv {

namespace {

using jinja::Expression;
using jinja::Node;
using jinja::Value;
using minja::ArgumentsExpression;
using minja::Location;
using Kind = JinjaToken::Kind;

/// What a template may nest.
constexpr int kDeepest = 400;

class Parser {
 public:
  explicit Parser(std::string source)
      : source_(std::make_shared<std::string>(std::move(source))), pieces_(jinja_pieces(*source_)) {}

  Node whole() {
    auto node = body({});
    if (piece_ < pieces_.size()) fail(tokens()[0].at, fmt::format("unexpected {}", tokens()[0].text));
    return node;
  }

 private:
  // Tokens of the tag that is read.

  const std::vector<JinjaToken>& tokens() const { return pieces_[piece_].tokens; }
  const JinjaToken& now() const { return tokens()[token_]; }
  const JinjaToken& next() const { return tokens()[std::min(token_ + 1, tokens().size() - 1)]; }
  [[noreturn]] void fail(size_t at, const std::string& what) const { throw JinjaError(*source_, at, what); }
  [[noreturn]] void unexpected(const char* wanted) const {
    fail(now().at, now().kind == Kind::kEnd ? fmt::format("{} is missing at the end of a tag", wanted)
                                            : fmt::format("\"{}\" where {} should be", now().text, wanted));
  }
  Location here() const { return {source_, now().at}; }
  static bool is(const JinjaToken& token, std::string_view text) {
    return (token.kind == Kind::kSign || token.kind == Kind::kName) && token.text == text;
  }
  bool is(std::string_view text) const { return is(now(), text); }
  bool take(std::string_view text) {
    const bool taken = is(text);
    if (taken) ++token_;
    return taken;
  }
  void expect(const char* text) {
    if (!take(text)) unexpected(text);
  }
  std::string name(const char* what = "a name") {
    if (now().kind != Kind::kName) unexpected(what);
    return tokens()[token_++].text;
  }

  struct Depth {
    explicit Depth(Parser& owner) : parser(owner) {
      if (++parser.depth_ > kDeepest) parser.fail(0, "it is nested too deeply");
    }
    ~Depth() { --parser.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    Parser& parser;
  };

  // Expressions, from what binds least.

  Expression expression(bool with_choice = true) {
    const Depth depth(*this);
    auto value = either();
    while (with_choice && is("if")) {
      const auto at = here();
      ++token_;
      auto condition = either();
      Expression otherwise;
      if (take("else")) otherwise = expression();
      value = jinja::make_choice(at, std::move(condition), std::move(value), std::move(otherwise));
    }
    return value;
  }

  Expression either() {
    auto left = both();
    while (is("or")) left = binary("or", std::move(left), &Parser::both);
    return left;
  }

  Expression both() {
    auto left = negated();
    while (is("and")) left = binary("and", std::move(left), &Parser::negated);
    return left;
  }

  Expression negated() {
    if (!is("not")) return compared();
    const Depth depth(*this);
    const auto at = here();
    ++token_;
    return jinja::make_not(at, negated());
  }

  /// Reads the sign and what stands behind it.
  Expression binary(const std::string& op, Expression left, Expression (Parser::*right)()) {
    const auto at = here();
    ++token_;
    auto operand = (this->*right)();
    return jinja::make_binary(at, op, std::move(left), std::move(operand));
  }

  Expression compared() {
    auto left = added();
    Expression all;
    for (;;) {
      const auto at = here();
      const bool not_in = is("not") && is(next(), "in");
      constexpr std::array<std::string_view, 7> kSigns = {"==", "!=", "<", ">", "<=", ">=", "in"};
      const auto* sign = std::ranges::find_if(kSigns, [&](std::string_view s) { return is(s); });
      if (!not_in && sign == kSigns.end()) return all ? all : left;
      token_ += not_in ? 2 : 1;
      auto right = added();
      auto one = jinja::make_binary(at, not_in ? "in" : std::string(*sign), std::move(left), right);
      if (not_in) one = jinja::make_not(at, std::move(one));
      all = all ? jinja::make_binary(at, "and", std::move(all), std::move(one)) : std::move(one);
      left = std::move(right);
    }
  }

  Expression added() {
    auto left = concatenated();
    while (is("+") || is("-")) left = binary(now().text, std::move(left), &Parser::concatenated);
    return left;
  }

  Expression concatenated() {
    auto left = multiplied();
    while (is("~")) left = binary("~", std::move(left), &Parser::multiplied);
    return left;
  }

  Expression multiplied() {
    auto left = raised();
    while (is("*") || is("/") || is("//") || is("%"))
      left = binary(now().text, std::move(left), &Parser::raised);
    return left;
  }

  Expression raised() {
    auto left = unary();
    while (is("**")) left = binary("**", std::move(left), &Parser::unary);
    return left;
  }

  Expression unary() { return filtered(signed_value()); }

  Expression signed_value() {
    if (!is("-") && !is("+")) return behind(primary());
    const Depth depth(*this);
    const auto at = here();
    const bool minus = is("-");
    ++token_;
    auto inner = signed_value();
    if (!minus) return inner;
    return jinja::make_binary(at, "-", literal(at, int64_t{0}), std::move(inner));
  }

  static Expression literal(const Location& at, const Value& value) {
    return std::make_shared<minja::LiteralExpr>(at, value);
  }

  Expression primary() {
    const Depth depth(*this);
    const auto at = here();
    switch (now().kind) {
      case Kind::kString: {
        std::string text;
        while (now().kind == Kind::kString) text += tokens()[token_++].text;
        return literal(at, text);
      }
      case Kind::kNumber: {
        const auto number = nlohmann::ordered_json::parse(now().text, nullptr, /*allow_exceptions=*/false);
        if (!number.is_number()) fail(now().at, fmt::format("{} is no number", now().text));
        ++token_;
        return literal(at, number.is_number_unsigned() ? Value(number.get<int64_t>()) : Value(number));
      }
      case Kind::kName:
        return named();
      case Kind::kSign:
        if (take("(")) return bracketed(at);
        if (take("[")) return std::make_shared<minja::ArrayExpr>(at, list("]"));
        if (take("{")) return object(at);
        break;
      case Kind::kEnd:
        break;
    }
    unexpected("a value");
  }

  Expression named() {
    static const std::set<std::string_view> kReserved = {"and", "or", "not", "if", "else", "in", "is"};
    const auto at = here();
    if (kReserved.contains(now().text)) unexpected("a value");
    const auto text = name();
    if (text == "true" || text == "True") return literal(at, true);
    if (text == "false" || text == "False") return literal(at, false);
    if (text == "none" || text == "None") return literal(at, nullptr);
    return std::make_shared<minja::VariableExpr>(at, text);
  }

  /// Up to the closing bracket, which is taken.
  std::vector<Expression> list(const char* close) {
    std::vector<Expression> all;
    while (!take(close)) {
      all.push_back(expression());
      if (!is(close)) expect(",");
    }
    return all;
  }

  Expression bracketed(const Location& at) {
    if (take(")")) return std::make_shared<minja::ArrayExpr>(at, std::vector<Expression>());
    auto first = expression();
    if (take(")")) return first;
    expect(",");
    auto all = list(")");
    all.insert(all.begin(), std::move(first));
    return std::make_shared<minja::ArrayExpr>(at, std::move(all));
  }

  Expression object(const Location& at) {
    std::vector<std::pair<Expression, Expression>> all;
    while (!take("}")) {
      auto key = expression();
      expect(":");
      all.emplace_back(std::move(key), expression());
      if (!is("}")) expect(",");
    }
    return std::make_shared<minja::DictExpr>(at, std::move(all));
  }

  /// Members, subscripts and calls behind a value.
  Expression behind(Expression value) {
    for (;;) {
      const auto at = here();
      if (take(".")) {
        if (now().kind == Kind::kNumber) {
          value = jinja::make_member(at, std::move(value),
                                     literal(at, static_cast<int64_t>(std::stoll(now().text))));
          ++token_;
          continue;
        }
        const auto member = name("the name of a member");
        if (is("("))
          value = jinja::make_method(at, member, std::move(value), arguments());
        else
          value = jinja::make_member(at, std::move(value), literal(at, member));
      } else if (take("[")) {
        value = subscript(at, std::move(value));
      } else if (is("(")) {
        value = std::make_shared<minja::CallExpr>(at, std::move(value), arguments());
      } else {
        return value;
      }
    }
  }

  Expression subscript(const Location& at, Expression value) {
    std::array<Expression, 3> parts;
    size_t i = 0;
    for (; !is("]"); ++i) {
      if (i == parts.size()) unexpected("]");
      if (!is(":")) parts[i] = expression();
      if (!is(":")) break;
      ++token_;
      if (is("]")) {
        ++i;
        break;
      }
    }
    if (i == 0 && !parts[0]) unexpected("a value");
    expect("]");
    if (i == 0) return jinja::make_member(at, std::move(value), std::move(parts[0]));
    return jinja::make_slice(at, std::move(value), std::move(parts[0]), std::move(parts[1]),
                             std::move(parts[2]));
  }

  ArgumentsExpression arguments() {
    using Op = minja::UnaryOpExpr::Op;
    ArgumentsExpression all;
    expect("(");
    while (!take(")")) {
      const auto at = here();
      if (now().kind == Kind::kName && is(next(), "=")) {
        auto key = name();
        ++token_;
        all.kwargs.emplace_back(std::move(key), expression());
      } else if (take("*")) {
        all.args.push_back(std::make_shared<minja::UnaryOpExpr>(at, expression(), Op::Expansion));
      } else if (take("**")) {
        all.args.push_back(std::make_shared<minja::UnaryOpExpr>(at, expression(), Op::ExpansionDict));
      } else {
        all.args.push_back(expression());
      }
      if (!is(")")) expect(",");
    }
    return all;
  }

  jinja::Function filter_named() {
    const auto at = now().at;
    const auto text = name("the name of a filter");
    const auto function = jinja::filter(text);
    if (function == nullptr) fail(at, fmt::format("there is no filter named {}", text));
    return function;
  }

  /// Filters and tests behind a value.
  Expression filtered(Expression value) {
    for (;;) {
      const auto at = here();
      if (take("|")) {
        const auto function = filter_named();
        value =
            jinja::make_call(at, function, std::move(value), is("(") ? arguments() : ArgumentsExpression());
        value = behind(std::move(value));
      } else if (take("is")) {
        const bool negated = take("not");
        value = tested(at, std::move(value));
        if (negated) value = jinja::make_not(at, std::move(value));
      } else {
        return value;
      }
    }
  }

  Expression tested(const Location& at, Expression value) {
    const auto named_at = now().at;
    const auto text = name("the name of a test");
    if (text == "defined") return jinja::make_defined(at, std::move(value));
    if (text == "undefined") return jinja::make_not(at, jinja::make_defined(at, std::move(value)));
    if (text == "none") return jinja::make_none_test(at, std::move(value));
    const auto function = jinja::test(text);
    if (function == nullptr) fail(named_at, fmt::format("there is no test named {}", text));
    ArgumentsExpression args;
    const bool word = now().kind == Kind::kName && !is("else") && !is("or") && !is("and") && !is("is") &&
                      !is("if") && !is("not") && !is("in") && !is("recursive");
    if (is("("))
      args = arguments();
    else if (word || now().kind == Kind::kString || now().kind == Kind::kNumber || is("[") || is("{"))
      args.args.push_back(behind(primary()));
    return jinja::make_call(at, function, std::move(value), std::move(args));
  }

  /// a, b without brackets is a list.
  Expression expressions() {
    const auto at = here();
    auto first = expression();
    if (!is(",")) return first;
    std::vector<Expression> all{std::move(first)};
    while (take(","))
      if (now().kind != Kind::kEnd) all.push_back(expression());
    return std::make_shared<minja::ArrayExpr>(at, std::move(all));
  }

  // Tags.

  void begin_tag() { token_ = 0; }
  void end_tag() {
    if (now().kind != Kind::kEnd) unexpected("the end of the tag");
    ++piece_;
    begin_tag();
  }

  /// Up to a tag with one of these names, which is not read.
  Node body(const std::set<std::string_view>& ends) {
    const Depth depth(*this);
    std::vector<Node> nodes;
    const Location at{source_, piece_ < pieces_.size() ? pieces_[piece_].at : 0};
    while (piece_ < pieces_.size()) {
      const auto& piece = pieces_[piece_];
      begin_tag();
      if (piece.kind == JinjaPiece::Kind::kText) {
        nodes.push_back(std::make_shared<minja::TextNode>(Location{source_, piece.at}, piece.text));
        ++piece_;
      } else if (piece.kind == JinjaPiece::Kind::kOutput) {
        nodes.push_back(jinja::make_output(here(), expressions()));
        end_tag();
      } else {
        if (now().kind == Kind::kName && ends.contains(now().text)) break;
        if (auto node = block()) nodes.push_back(std::move(node));
      }
    }
    if (nodes.size() == 1) return nodes.front();
    return std::make_shared<minja::SequenceNode>(at, std::move(nodes));
  }

  /// Takes the tag with that name, which must be there.
  void close(const char* wanted, size_t opened) {
    if (piece_ >= pieces_.size()) fail(opened, fmt::format("{} is missing", wanted));
    begin_tag();
    expect(wanted);
    end_tag();
  }

  Node block() {
    const auto at = here();
    const auto keyword = name("the name of a block");
    if (keyword == "if") return condition(at);
    if (keyword == "for") return loop(at);
    if (keyword == "set") return assignment(at);
    if (keyword == "macro") return macro(at);
    if (keyword == "call") return call(at);
    if (keyword == "filter") {
      const auto function = filter_named();
      return filtered_block(at, "", function, "endfilter");
    }
    if (keyword == "generation") {  // marks for training
      end_tag();
      auto inner = body({"endgeneration"});
      close("endgeneration", at.pos);
      return inner;
    }
    if (keyword == "break" || keyword == "continue") {
      end_tag();
      return std::make_shared<minja::LoopControlNode>(
          at, keyword == "break" ? minja::LoopControlType::Break : minja::LoopControlType::Continue);
    }
    if (keyword == "do") {
      auto value = expressions();
      end_tag();
      auto none = literal(at, "");
      // Computed, and not shown.
      return jinja::make_output(at, jinja::make_choice(at, std::move(value), none, none));
    }
    fail(at.pos, fmt::format("unexpected {}", keyword));
  }

  Node filtered_block(const Location& at, std::string variable, jinja::Function function, const char* end) {
    auto args = is("(") ? arguments() : ArgumentsExpression();
    end_tag();
    auto inner = body({end});
    close(end, at.pos);
    return jinja::make_filtered(at, std::move(variable), std::move(inner), function, std::move(args));
  }

  Node condition(const Location& at) {
    std::vector<std::pair<Expression, Node>> branches;
    for (;;) {
      auto test = expressions();
      end_tag();
      branches.emplace_back(std::move(test), body({"elif", "else", "endif"}));
      if (piece_ >= pieces_.size()) fail(at.pos, "endif is missing");
      begin_tag();
      if (take("elif")) continue;
      if (take("else")) {
        end_tag();
        branches.emplace_back(nullptr, body({"endif"}));
      }
      close("endif", at.pos);
      return jinja::make_if(at, std::move(branches));
    }
  }

  Node loop(const Location& at) {
    std::vector<std::string> variables;
    const bool brackets = take("(");
    do variables.push_back(name());
    while (take(","));
    if (brackets) expect(")");
    expect("in");
    auto iterable = expression(/*with_choice=*/false);
    Expression filter;
    if (take("if")) filter = expression();
    if (is("recursive")) fail(now().at, "recursive loops are not supported");
    end_tag();
    auto inner = body({"else", "endfor"});
    Node otherwise;
    if (piece_ < pieces_.size() && is("else")) {
      ++token_;
      end_tag();
      otherwise = body({"endfor"});
    }
    close("endfor", at.pos);
    return jinja::make_for(at, std::move(variables), std::move(iterable), std::move(filter), std::move(inner),
                           std::move(otherwise));
  }

  Node assignment(const Location& at) {
    std::vector<std::string> names{name()};
    std::string space;
    if (take(".")) {
      space = names.front();
      names.front() = name();
    }
    while (take(",")) names.push_back(name());
    if (take("=")) {
      auto value = expressions();
      end_tag();
      return std::make_shared<minja::SetNode>(at, space, names, std::move(value));
    }
    if (!space.empty() || names.size() > 1) unexpected("=");
    if (take("|")) {
      const auto function = filter_named();
      return filtered_block(at, names.front(), function, "endset");
    }
    end_tag();
    auto inner = body({"endset"});
    close("endset", at.pos);
    return std::make_shared<minja::SetTemplateNode>(at, names.front(), std::move(inner));
  }

  Node macro(const Location& at) {
    auto title = name();
    minja::Expression::Parameters parameters;
    expect("(");
    while (!take(")")) {
      auto parameter = name();
      auto otherwise = take("=") ? expression() : nullptr;
      parameters.emplace_back(std::move(parameter), std::move(otherwise));
      if (!is(")")) expect(",");
    }
    end_tag();
    auto inner = body({"endmacro"});
    close("endmacro", at.pos);
    return jinja::make_macro(at, std::move(title), std::move(parameters), std::move(inner));
  }

  Node call(const Location& at) {
    if (is("(")) fail(now().at, "call blocks with arguments are not supported");
    auto target = expression();
    end_tag();
    auto inner = body({"endcall"});
    close("endcall", at.pos);
    return std::make_shared<minja::CallNode>(at, std::move(target), std::move(inner));
  }

  std::shared_ptr<std::string> source_;
  std::vector<JinjaPiece> pieces_;
  size_t piece_ = 0, token_ = 0;
  int depth_ = 0;
};

std::string with_plain_breaks(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
    if (!pair) out += source[i] == '\r' ? '\n' : source[i];
  }
  return out;
}

}  // namespace

std::shared_ptr<minja::TemplateNode> parse_jinja(const std::string& source) {
  return Parser(with_plain_breaks(source)).whole();
}

}  // namespace windowkv
