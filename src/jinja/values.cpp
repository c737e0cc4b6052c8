#include "jinja/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace windowkv::jinja {

namespace {

using Json = nlohmann::ordered_json;

/// minja's at() and keys() are not const.
Value copy_of(const Value& value) {
  return value;
}

std::string json_text(const std::string& text, bool ascii) {
  return Json(text).dump(-1, ' ', ascii, Json::error_handler_t::replace);
}

/// As repr() has it.
std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\\' || c == quote)
      out.append("\\").append(1, c);
    else
      out += c;
  }
  return out + quote;
}

std::string repr(const Value& value) {
  if (value.is_string()) return quoted(value.get<std::string>());
  if (value.is_callable() || !(value.is_array() || value.is_object())) return text_of(value);
  std::string out;
  auto copy = copy_of(value);
  if (value.is_array()) {
    for (const auto& one : elements(value)) out += (out.empty() ? "" : ", ") + repr(one);
    return "[" + out + "]";
  }
  for (const auto& key : copy.keys())
    out += (out.empty() ? "" : ", ") + repr(key) + ": " + repr(copy.at(key));
  return "{" + out + "}";
}

bool is_whole(const Value& value) {
  return value.is_number_integer() || value.is_boolean();
}

double number(const Value& value) {
  if (!value.is_number() && !value.is_boolean()) throw std::runtime_error(repr(value) + " is no number");
  return value.is_boolean() ? static_cast<double>(value.get<bool>()) : value.get<double>();
}

int64_t whole(const Value& value) {
  if (!is_whole(value)) throw std::runtime_error(repr(value) + " is no integer");
  return value.is_boolean() ? static_cast<int64_t>(value.get<bool>()) : value.get<int64_t>();
}

Value repeated(const Value& value, int64_t times) {
  if (value.is_string()) {
    std::string out;
    for (int64_t i = 0; i < times; ++i) out += value.get<std::string>();
    return out;
  }
  auto out = Value::array();
  for (int64_t i = 0; i < times; ++i)
    for (const auto& one : elements(value)) out.push_back(one);
  return out;
}

/// 'a %s b' % values.
Value formatted(const std::string& form, const Value& values) {
  const auto list = values.is_array() ? elements(values) : std::vector<Value>{values};
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '%' || i + 1 == form.size()) {
      out += form[i];
    } else if (form[++i] == '%') {
      out += '%';
    } else if ((form[i] == 's' || form[i] == 'd' || form[i] == 'r') && used < list.size()) {
      out += form[i] == 'r' ? repr(list[used++]) : text_of(list[used++]);
    } else {
      throw std::runtime_error("the format \"" + form + "\" is not supported");
    }
  }
  return out;
}

Value of_whole_numbers(const std::string& op, int64_t a, int64_t b) {
  int64_t out = 0;
  const bool over = op == "+"   ? __builtin_add_overflow(a, b, &out)
                    : op == "-" ? __builtin_sub_overflow(a, b, &out)
                                : __builtin_mul_overflow(a, b, &out);
  if (over) throw std::runtime_error("a number is too large");
  return out;
}

}  // namespace

bool truth(const Value& value) {
  if (value.is_callable()) return true;
  if (value.is_object() || value.is_array()) return !value.empty();
  return value.to_bool();
}

std::string text_of(const Value& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "None";
  if (value.is_callable()) return "<function>";
  if (value.is_array() || value.is_object()) return repr(value);
  if (value.is_number_float()) return Json(value.get<double>()).dump();
  return value.to_str();
}

bool equal(const Value& a, const Value& b) {
  if (a.is_callable() || b.is_callable()) return a == b;
  if (a.is_array() && b.is_array()) return std::ranges::equal(elements(a), elements(b), equal);
  if (a.is_object() && b.is_object()) {
    auto left = copy_of(a), right = copy_of(b);
    const auto keys = left.keys();
    return left.size() == right.size() && std::ranges::all_of(keys, [&](const Value& key) {
             return right.contains(key) && equal(left.at(key), right.at(key));
           });
  }
  const auto numeric = [](const Value& v) { return v.is_number() || v.is_boolean(); };
  if (numeric(a) && numeric(b))
    return is_whole(a) && is_whole(b) ? whole(a) == whole(b) : number(a) == number(b);
  if (!a.is_primitive() || !b.is_primitive()) return false;
  return a == b;
}

bool contains(const Value& container, const Value& item) {
  if (container.is_string())
    return item.is_string() &&
           container.get<std::string>().find(item.get<std::string>()) != std::string::npos;
  if (container.is_object()) return item.is_hashable() && container.contains(item);
  return std::ranges::any_of(elements(container), [&](const Value& one) { return equal(one, item); });
}

Value element(const Value& container, const Value& key) {
  if (container.is_object()) return key.is_hashable() ? copy_of(container).get(key) : Value();
  if (!(container.is_array() || container.is_string()) || !key.is_number_integer()) return {};
  const auto all = container.is_array() ? std::vector<Value>() : elements(container);
  const auto size = static_cast<int64_t>(container.is_array() ? container.size() : all.size());
  auto at = key.get<int64_t>();
  if (at < 0) at += size;
  if (at < 0 || at >= size) return {};
  return container.is_array() ? container.at(static_cast<size_t>(at)) : all[static_cast<size_t>(at)];
}

Value slice(const Value& container, const Value& begin, const Value& end, const Value& step) {
  if (!container.is_array() && !container.is_string())
    throw std::runtime_error("only lists and texts have slices");
  const auto all = elements(container);
  const auto size = static_cast<int64_t>(all.size());
  const int64_t by = step.is_null() ? 1 : whole(step);
  if (by == 0) throw std::runtime_error("the step of a slice is 0");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
  const auto place = [&](const Value& value, int64_t otherwise) {
    if (value.is_null()) return otherwise;
    const auto at = whole(value);
    return std::clamp(at < 0 ? std::max(at, -size - 1) + size : at, low, high);
  };
  const auto last = place(end, by > 0 ? high : low);
  auto list = Value::array();
  std::string text;
  for (auto at = place(begin, by > 0 ? low : high); by > 0 ? at < last : at > last;) {
    const auto& one = all[static_cast<size_t>(at)];
    if (container.is_string())
      text += one.get<std::string>();
    else
      list.push_back(one);
    if (__builtin_add_overflow(at, by, &at)) break;
  }
  return container.is_string() ? Value(text) : list;
}

std::vector<Value> elements(const Value& container) {
  std::vector<Value> out;
  if (container.is_array()) {
    out.reserve(container.size());
    for (size_t i = 0; i < container.size(); ++i) out.push_back(container.at(i));
  } else if (container.is_object() && !container.is_callable()) {
    out = copy_of(container).keys();
  } else if (container.is_string()) {
    for (auto& one : characters(container.get<std::string>())) out.emplace_back(std::move(one));
  } else if (!container.is_null()) {
    throw std::runtime_error(text_of(container) + " is no list");
  }
  return out;
}

std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> out;
  for (const char c : text) {
    if ((c & 0xC0) == 0x80 && !out.empty())
      out.back() += c;
    else
      out.emplace_back(1, c);
  }
  return out;
}

Value arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (op == "+" && (a.is_string() || b.is_string())) {
    if (!a.is_string() || !b.is_string())
      throw std::runtime_error(fmt::format("{} and {} cannot be added", repr(a), repr(b)));
    return a.get<std::string>() + b.get<std::string>();
  }
  if (op == "+" && a.is_array() && b.is_array()) {
    auto out = Value::array();
    for (const auto& list : {a, b})
      for (const auto& one : elements(list)) out.push_back(one);
    return out;
  }
  if (op == "*" && (a.is_string() || a.is_array())) return repeated(a, whole(b));
  if (op == "*" && (b.is_string() || b.is_array())) return repeated(b, whole(a));
  if (op == "%" && a.is_string()) return formatted(a.get<std::string>(), b);
  const bool integers = is_whole(a) && is_whole(b);
  if (integers && (op == "+" || op == "-" || op == "*")) return of_whole_numbers(op, whole(a), whole(b));
  const double x = number(a), y = number(b);
  if (op == "+") return x + y;
  if (op == "-") return x - y;
  if (op == "*") return x * y;
  if (op == "**") {
    const auto power = std::pow(x, y);
    const bool exact = integers && y >= 0 && std::abs(power) < 9e15;
    return exact ? Value(static_cast<int64_t>(std::llround(power))) : Value(power);
  }
  if (y == 0) throw std::runtime_error("a division by 0");
  if (op == "/") return x / y;
  if (!integers) return op == "//" ? Value(std::floor(x / y)) : Value(x - y * std::floor(x / y));
  const int64_t n = whole(a), m = whole(b);
  if (m == -1) return op == "//" ? of_whole_numbers("-", 0, n) : Value(int64_t{0});
  const int64_t rest = n % m, wrap = rest != 0 && (rest < 0) != (m < 0) ? 1 : 0;
  return op == "//" ? Value(n / m - wrap) : Value(rest + wrap * m);
}

bool less(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return a.get<std::string>() < b.get<std::string>();
  if (a.is_array() && b.is_array())
    return std::ranges::lexicographical_compare(elements(a), elements(b), less);
  return number(a) < number(b);
}

namespace {

void write_json(const Value& value, const JsonForm& form, int level, std::string& out) {
  const auto line = [&](int depth) {
    if (form.indent >= 0)
      out.append("\n").append(static_cast<size_t>(depth) * static_cast<size_t>(form.indent), ' ');
  };
  const bool list = value.is_array();
  if (value.is_callable()) throw std::runtime_error("a function is no JSON");
  if (value.is_string()) {
    out += json_text(value.get<std::string>(), form.ascii);
  } else if (list || value.is_object()) {
    auto copy = copy_of(value);
    auto all = elements(value);
    if (!list && form.sorted) std::ranges::sort(all, less);
    out += list ? '[' : '{';
    for (size_t i = 0; i < all.size(); ++i) {
      if (i > 0) out += form.item;
      line(level + 1);
      if (!list)
        out.append(json_text(all[i].is_string() ? all[i].get<std::string>() : all[i].dump(), form.ascii))
            .append(form.key);
      write_json(list ? all[i] : copy.at(all[i]), form, level + 1, out);
    }
    if (!all.empty()) line(level);
    out += list ? ']' : '}';
  } else {
    out += value.get<Json>().dump();
  }
}

}  // namespace

std::string to_json(const Value& value, const JsonForm& form) {
  std::string out;
  write_json(value, form, 0, out);
  return out;
}

}  // namespace windowkv::jinja
