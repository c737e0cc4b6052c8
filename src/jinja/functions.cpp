#include "jinja/functions.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <iomanip>
#include <map>
#include <sstream>

#include "support/bounded_json.h"

namespace windowkv::jinja {

namespace {

using Functions = std::map<std::string, Function, std::less<>>;

Function found(const Functions& functions, const std::string& name) {
  const auto it = functions.find(name);
  return it == functions.end() ? nullptr : it->second;
}

/// "a.b.0" of a value.
Value attribute(const Value& value, const Value& name) {
  if (!name.is_string()) return element(value, name);
  auto out = value;
  std::istringstream path(name.get<std::string>());
  for (std::string part; std::getline(path, part, '.');) {
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    out = element(out,
                  number && !out.is_object() ? Value(static_cast<int64_t>(std::stoll(part))) : Value(part));
  }
  return out;
}

Value list_of(const std::vector<Value>& values) {
  return Value::array(values);
}

/// Each element, or its attribute where that is asked for.
std::vector<Value> keyed(const Call& call, size_t i) {
  const auto name = call.at(i, "attribute");
  auto all = elements(call.subject());
  if (!name.is_null())
    for (auto& one : all) one = attribute(one, name);
  return all;
}

/// Elements that pass a test, of their own or of an attribute's.
Value chosen(const Call& call, bool wanted, bool by_attribute) {
  const size_t first = by_attribute ? 1 : 0;
  const auto name = call.at(first, "");
  const auto passes = name.is_null() ? nullptr : test(text_of(name));
  if (!name.is_null() && passes == nullptr)
    throw std::runtime_error("there is no test named " + text_of(name));
  auto out = Value::array();
  for (const auto& one : elements(call.subject())) {
    const auto subject = by_attribute ? attribute(one, call.at(0, "")) : one;
    Call inner{{{subject}, {}}, call.names};
    for (size_t i = first + 2; i < call.args.args.size(); ++i) inner.args.args.push_back(call.args.args[i]);
    if ((passes == nullptr ? truth(subject) : truth(passes(inner))) == wanted) out.push_back(one);
  }
  return out;
}

Value mapped(const Call& call) {
  auto out = Value::array();
  const auto name = call.at(99, "attribute");
  if (!name.is_null()) {
    for (const auto& one : elements(call.subject())) {
      const auto value = attribute(one, name);
      out.push_back(value.is_null() ? call.at(99, "default") : value);
    }
    return out;
  }
  const auto apply = filter(call.text(0, ""));
  if (apply == nullptr) throw std::runtime_error("there is no filter named " + call.text(0, ""));
  for (const auto& one : elements(call.subject())) {
    Call inner{{{one}, call.args.kwargs}, call.names};
    for (size_t i = 2; i < call.args.args.size(); ++i) inner.args.args.push_back(call.args.args[i]);
    out.push_back(apply(inner));
  }
  return out;
}

bool comes_before(const Value& a, const Value& b, bool case_matters) {
  if (!case_matters && a.is_string() && b.is_string())
    return in_case(a.get<std::string>(), false) < in_case(b.get<std::string>(), false);
  return less(a, b);
}

Value sorted(const Call& call) {
  auto all = elements(call.subject());
  const bool case_matters = truth(call.at(1, "case_sensitive"));
  const auto name = call.at(2, "attribute");
  const auto key = [&](const Value& one) { return name.is_null() ? one : attribute(one, name); };
  std::ranges::stable_sort(
      all, [&](const Value& a, const Value& b) { return comes_before(key(a), key(b), case_matters); });
  if (truth(call.at(0, "reverse"))) std::ranges::reverse(all);
  return list_of(all);
}

Value pairs(const Value& object) {
  auto copy = object;
  auto out = Value::array();
  if (object.is_null()) return out;
  for (const auto& key : copy.keys()) out.push_back(Value::array({key, copy.at(key)}));
  return out;
}

Value sorted_pairs(const Call& call) {
  auto all = elements(pairs(call.subject()));
  const bool by_value = text_of(call.at(1, "by", "key")) == "value";
  const bool case_matters = truth(call.at(0, "case_sensitive"));
  std::ranges::stable_sort(all, [&](const Value& a, const Value& b) {
    return comes_before(a.at(size_t{by_value ? 1U : 0U}), b.at(size_t{by_value ? 1U : 0U}), case_matters);
  });
  if (truth(call.at(2, "reverse"))) std::ranges::reverse(all);
  return list_of(all);
}

Value joined(const Call& call) {
  const auto between = call.at(0, "d", "");
  std::string out;
  bool first = true;
  for (const auto& one : keyed(call, 1)) {
    if (!std::exchange(first, false)) out += text_of(between);
    out += text_of(one);
  }
  return out;
}

Value indented(const Call& call) {
  const auto width = call.at(0, "width", int64_t{4});
  const std::string space =
      width.is_string()
          ? width.get<std::string>()
          : std::string(static_cast<size_t>(std::clamp<int64_t>(width.get<int64_t>(), 0, 1000)), ' ');
  const bool blank = truth(call.at(2, "blank"));
  const auto text = call.text();
  std::string out = truth(call.at(1, "first")) ? space : "";
  for (size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    if (text[i] == '\n' && (blank || (i + 1 < text.size() && text[i + 1] != '\n'))) out += space;
  }
  return out;
}

Value as_json(const Call& call) {
  JsonForm form;
  if (const auto indent = call.at(0, "indent"); !indent.is_null()) {
    form.indent = static_cast<int>(std::clamp<int64_t>(indent.get<int64_t>(), 0, 1000));
    form.item = ",";
  }
  form.ascii = truth(call.at(99, "ensure_ascii"));
  form.sorted = truth(call.at(99, "sort_keys"));
  if (const auto separators = call.at(99, "separators"); !separators.is_null()) {
    form.item = text_of(element(separators, int64_t{0}));
    form.key = text_of(element(separators, int64_t{1}));
  }
  return to_json(call.subject(), form);
}

Value extreme(const Call& call, bool largest) {
  const auto all = elements(call.subject());
  if (all.empty()) return {};
  return largest ? *std::ranges::max_element(all, less) : *std::ranges::min_element(all, less);
}

Value distinct(const Call& call) {
  std::vector<Value> out;
  for (const auto& one : elements(call.subject()))
    if (std::ranges::none_of(out, [&](const Value& other) { return equal(one, other); })) out.push_back(one);
  return list_of(out);
}

Value length(const Call& call) {
  if (call.subject().is_object()) return static_cast<int64_t>(call.subject().size());
  return static_cast<int64_t>(elements(call.subject()).size());
}

Value whole_number(const Call& call) {
  const auto& value = call.subject();
  if (value.is_string()) try {
      return static_cast<int64_t>(std::stoll(value.get<std::string>()));
    } catch (const std::exception&) {
      return call.at(0, "default", int64_t{0});
    }
  return value.is_null() ? call.at(0, "default", int64_t{0}) : Value(value.to_int());
}

Value real_number(const Call& call) {
  try {
    return call.subject().is_string() ? std::stod(call.text()) : arithmetic("+", call.subject(), 0.0);
  } catch (const std::exception&) {
    return call.at(0, "default", 0.0);
  }
}

Value rounded(const Call& call) {
  const auto digits = call.at(0, "precision", int64_t{0}).to_int();
  const auto scale = std::pow(10.0, static_cast<double>(digits));
  const auto method = text_of(call.at(1, "method", "common"));
  const auto x = arithmetic("*", call.subject(), scale).get<double>();
  return (method == "floor" ? std::floor(x) : method == "ceil" ? std::ceil(x) : std::nearbyint(x)) / scale;
}

Value escaped(const Call& call) {
  std::string out;
  for (const char c : call.shown()) {
    const auto name = c == '&'    ? "&amp;"
                      : c == '<'  ? "&lt;"
                      : c == '>'  ? "&gt;"
                      : c == '"'  ? "&#34;"
                      : c == '\'' ? "&#39;"
                                  : nullptr;
    out += name != nullptr ? name : std::string(1, c);
  }
  return out;
}

Value batches(const Call& call) {
  const auto size = static_cast<size_t>(std::max<int64_t>(1, call.at(0, "linecount").to_int()));
  auto out = Value::array();
  for (const auto& one : elements(call.subject())) {
    if (out.empty() || out.at(out.size() - 1).size() == size) out.push_back(Value::array());
    out.at(out.size() - 1).push_back(one);
  }
  return out;
}

Value otherwise(const Call& call) {
  const bool by_truth = truth(call.at(1, "boolean"));
  const auto& value = call.subject();
  return (by_truth ? truth(value) : !value.is_null()) ? value : call.at(0, "default_value", "");
}

Value sum(const Call& call) {
  auto out = call.at(1, "start", int64_t{0});
  for (const auto& one : keyed(call, 0)) out = arithmetic("+", out, one);
  return out;
}

Value ends(const Call& call, bool last) {
  const auto all = elements(call.subject());
  return all.empty() ? Value() : last ? all.back() : all.front();
}

Value backwards(const Call& call) {
  auto all = elements(call.subject());
  std::ranges::reverse(all);
  if (!call.subject().is_string()) return list_of(all);
  std::string out;
  for (const auto& one : all) out += one.get<std::string>();
  return out;
}

Value strftime_now(const std::shared_ptr<minja::Context>&, minja::ArgumentsValue& args) {
  args.expectArgs("strftime_now", {1, 1}, {0, 0});
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  localtime_r(&now, &local);
  std::ostringstream text;
  text << std::put_time(&local, args.args[0].get<std::string>().c_str());
  return text.str();
}

Value dict(const std::shared_ptr<minja::Context>&, minja::ArgumentsValue& args) {
  auto out = Value::object();
  for (auto& given : args.args)
    for (const auto& key : given.keys()) out.set(key, given.at(key));
  for (const auto& [name, value] : args.kwargs) out.set(name, value);
  return out;
}

const Functions kFilters = {
    {"abs",
     [](const Call& c) {
       return less(c.subject(), int64_t{0}) ? arithmetic("-", int64_t{0}, c.subject()) : c.subject();
     }},
    {"attr", [](const Call& c) { return element(c.subject(), c.at(0, "name")); }},
    {"batch", batches},
    {"capitalize", [](const Call& c) -> Value { return capitalized(c.shown()); }},
    {"count", length},
    {"d", otherwise},
    {"default", otherwise},
    {"dictsort", sorted_pairs},
    {"e", escaped},
    {"escape", escaped},
    {"first", [](const Call& c) { return ends(c, false); }},
    {"float", real_number},
    {"format",
     [](const Call& c) {
       auto list = Value::array();
       for (size_t i = 1; i < c.args.args.size(); ++i) list.push_back(c.args.args[i]);
       return arithmetic("%", c.subject(), list);
     }},
    // Of llama.cpp's and DeepSeek's templates.
    {"from_json", [](const Call& c) -> Value { return Value(parse_bounded_json(c.text())); }},
    {"indent", indented},
    {"int", whole_number},
    {"items", [](const Call& c) { return pairs(c.subject()); }},
    {"join", joined},
    {"last", [](const Call& c) { return ends(c, true); }},
    {"length", length},
    {"list", [](const Call& c) { return list_of(elements(c.subject())); }},
    {"lower", [](const Call& c) -> Value { return in_case(c.shown(), false); }},
    {"map", mapped},
    {"max", [](const Call& c) { return extreme(c, true); }},
    {"min", [](const Call& c) { return extreme(c, false); }},
    {"reject", [](const Call& c) { return chosen(c, false, false); }},
    {"rejectattr", [](const Call& c) { return chosen(c, false, true); }},
    {"replace",
     [](const Call& c) -> Value {
       const auto most = c.at(2, "count");
       return replaced(c.shown(), c.text(0, "old"), c.text(1, "new"),
                       most.is_null() ? -1 : most.get<int64_t>());
     }},
    {"reverse", backwards},
    {"round", rounded},
    {"safe", [](const Call& c) -> Value { return c.shown(); }},
    {"select", [](const Call& c) { return chosen(c, true, false); }},
    {"selectattr", [](const Call& c) { return chosen(c, true, true); }},
    {"sort", sorted},
    {"string", [](const Call& c) -> Value { return c.shown(); }},
    {"sum", sum},
    {"title", [](const Call& c) -> Value { return titled(c.shown()); }},
    {"tojson", as_json},
    {"trim",
     [](const Call& c) -> Value {
       const auto which = c.at(0, "chars");
       return stripped(c.shown(), true, true, which.is_null() ? "" : text_of(which));
     }},
    {"unique", distinct},
    {"upper", [](const Call& c) -> Value { return in_case(c.shown(), true); }},
};

bool is_list(const Value& v) {
  return v.is_array() || v.is_string() || (v.is_object() && !v.is_callable());
}

Value equals(const Call& c) {
  return equal(c.subject(), c.at(0, "other"));
}

Value smaller(const Call& c) {
  return less(c.subject(), c.at(0, "other"));
}

Value larger(const Call& c) {
  return less(c.at(0, "other"), c.subject());
}

// "defined", "undefined" and "none" are also the parser's, which sees what they are asked of.
const Functions kTests = {
    {"!=", [](const Call& c) -> Value { return !equals(c).get<bool>(); }},
    {"<", smaller},
    {"<=", [](const Call& c) -> Value { return !larger(c).get<bool>(); }},
    {"==", equals},
    {">", larger},
    {">=", [](const Call& c) -> Value { return !smaller(c).get<bool>(); }},
    {"boolean", [](const Call& c) -> Value { return c.subject().is_boolean(); }},
    {"callable", [](const Call& c) -> Value { return c.subject().is_callable(); }},
    {"defined", [](const Call& c) -> Value { return !c.subject().is_null(); }},
    {"divisibleby",
     [](const Call& c) -> Value { return equal(arithmetic("%", c.subject(), c.at(0, "num")), int64_t{0}); }},
    {"eq", equals},
    {"equalto", equals},
    {"even",
     [](const Call& c) -> Value { return equal(arithmetic("%", c.subject(), int64_t{2}), int64_t{0}); }},
    {"false", [](const Call& c) -> Value { return c.subject().is_boolean() && !c.subject().get<bool>(); }},
    {"filter", [](const Call& c) -> Value { return filter(c.text()) != nullptr; }},
    {"float", [](const Call& c) -> Value { return c.subject().is_number_float(); }},
    {"ge", [](const Call& c) -> Value { return !smaller(c).get<bool>(); }},
    {"greaterthan", larger},
    {"gt", larger},
    {"in", [](const Call& c) -> Value { return contains(c.at(0, "seq"), c.subject()); }},
    {"integer", [](const Call& c) -> Value { return c.subject().is_number_integer(); }},
    {"iterable", [](const Call& c) -> Value { return c.undefined || is_list(c.subject()); }},
    {"le", [](const Call& c) -> Value { return !larger(c).get<bool>(); }},
    {"lessthan", smaller},
    {"lower", [](const Call& c) -> Value { return c.text() == in_case(c.text(), false); }},
    {"lt", smaller},
    {"mapping", [](const Call& c) -> Value { return c.subject().is_object() && !c.subject().is_callable(); }},
    {"ne", [](const Call& c) -> Value { return !equals(c).get<bool>(); }},
    {"none", [](const Call& c) -> Value { return c.subject().is_null(); }},
    {"number", [](const Call& c) -> Value { return c.subject().is_number() || c.subject().is_boolean(); }},
    {"odd",
     [](const Call& c) -> Value { return equal(arithmetic("%", c.subject(), int64_t{2}), int64_t{1}); }},
    {"sequence", [](const Call& c) -> Value { return c.undefined || is_list(c.subject()); }},
    {"string", [](const Call& c) -> Value { return c.subject().is_string(); }},
    {"true", [](const Call& c) -> Value { return c.subject().is_boolean() && c.subject().get<bool>(); }},
    {"undefined", [](const Call& c) -> Value { return c.subject().is_null(); }},
    {"upper", [](const Call& c) -> Value { return c.text() == in_case(c.text(), true); }},
};

}  // namespace

Value Call::at(size_t i, const char* name) const {
  if (i + 1 < args.args.size()) return args.args[i + 1];
  for (const auto& [key, value] : args.kwargs)
    if (key == name) return value;
  return {};
}

Value Call::at(size_t i, const char* name, const Value& otherwise) const {
  auto value = at(i, name);
  return value.is_null() ? otherwise : value;
}

std::string Call::shown() const {
  return undefined ? "" : text_of(subject());
}

std::string Call::text() const {
  if (!subject().is_string()) throw std::runtime_error(text_of(subject()) + " is no text");
  return subject().get<std::string>();
}

std::string Call::text(size_t i, const char* name) const {
  const auto value = at(i, name);
  if (!value.is_string()) throw std::runtime_error(text_of(value) + " is no text");
  return value.get<std::string>();
}

Function filter(const std::string& name) {
  return found(kFilters, name);
}

Function test(const std::string& name) {
  return found(kTests, name);
}

void add_functions(minja::Context& names) {
  names.set("strftime_now", Value::callable(strftime_now));
  names.set("dict", Value::callable(dict));
}

}  // namespace windowkv::jinja
