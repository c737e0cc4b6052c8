// Methods of Python's texts, lists and objects.
#include <algorithm>
#include <cctype>
#include <map>

#include "jinja/functions.h"

namespace windowkv::jinja {

namespace {

constexpr const char* kBlanks = " \t\n\r\v\f";

/// The subject as text; throws for others, as for methods that they have not.
Value split(const Call& call) {
  const auto text = call.text();
  const auto separator = call.at(0, "sep"), limit = call.at(1, "maxsplit");
  const auto most = limit.is_null() || limit.to_int() < 0 ? INT64_MAX : limit.to_int();
  auto out = Value::array();
  size_t at = 0;
  const auto more = [&] { return static_cast<int64_t>(out.size()) < most; };
  if (!separator.is_null()) {
    const auto mark = call.text(0, "sep");
    if (mark.empty()) throw std::runtime_error("a text is split at nothing");
    for (size_t end; more() && (end = text.find(mark, at)) != std::string::npos; at = end + mark.size())
      out.push_back(text.substr(at, end - at));
    out.push_back(text.substr(at));
    return out;
  }
  while ((at = text.find_first_not_of(kBlanks, at)) != std::string::npos) {
    const auto end = more() ? std::min(text.find_first_of(kBlanks, at), text.size()) : text.size();
    out.push_back(more() ? text.substr(at, end - at) : stripped(text.substr(at), false, true));
    at = end;
  }
  return out;
}

/// The last parts where there are more than maxsplit.
Value split_from_the_end(const Call& call) {
  const auto limit = call.at(1, "maxsplit");
  if (limit.is_null() || call.at(0, "sep").is_null()) return split(call);
  auto text = call.text();
  const auto mark = call.text(0, "sep");
  std::vector<Value> parts;
  for (size_t at; static_cast<int64_t>(parts.size()) < limit.to_int() && !mark.empty() &&
                  (at = text.rfind(mark)) != std::string::npos;
       text.resize(at))
    parts.emplace_back(text.substr(at + mark.size()));
  parts.emplace_back(text);
  std::ranges::reverse(parts);
  return Value::array(parts);
}

Value lines(const Call& call) {
  auto out = Value::array();
  const auto text = call.text();
  for (size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

Value strip(const Call& call, bool left, bool right) {
  const auto which = call.at(0, "chars");
  return stripped(call.text(), left, right, which.is_null() ? "" : text_of(which));
}

/// Whether a text begins or ends with that, or one of several.
Value affixed(const Call& call, bool end) {
  const auto text = call.text();
  const auto wanted = call.at(0, "");
  for (const auto& one : wanted.is_array() ? elements(wanted) : std::vector<Value>{wanted}) {
    if (!one.is_string()) throw std::runtime_error(text_of(one) + " is no text");
    const auto part = one.get<std::string>();
    if (end ? text.ends_with(part) : text.starts_with(part)) return true;
  }
  return false;
}

Value without_affix(const Call& call, bool end) {
  const auto text = call.text(), part = call.text(0, "");
  if (!truth(affixed(call, end))) return text;
  return end ? text.substr(0, text.size() - part.size()) : text.substr(part.size());
}

Value join(const Call& call) {
  std::string out;
  bool first = true;
  for (const auto& one : elements(call.at(0, ""))) {
    if (!std::exchange(first, false)) out += call.text();
    out += text_of(one);
  }
  return out;
}

/// '{} {name}'.format(...), without what may stand behind a colon.
Value format(const Call& call) {
  const auto form = call.text();
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < form.size(); ++i) {
    if ((form[i] == '{' || form[i] == '}') && i + 1 < form.size() && form[i + 1] == form[i]) {
      out += form[i++];
    } else if (form[i] == '{') {
      const auto close = std::min(form.find('}', i), form.size());
      const auto field = form.substr(i + 1, close - i - 1);
      const bool number = field.find_first_not_of("0123456789") == std::string::npos;
      if (field.find_first_of(":!.[") != std::string::npos || close == form.size() || field.size() > 9)
        throw std::runtime_error("the format \"" + form + "\" is not supported");
      const auto place = field.empty() ? next++ : number ? std::stoul(field) : call.args.args.size();
      out += text_of(call.at(place, field.c_str()));
      i = close;
    } else {
      out += form[i];
    }
  }
  return out;
}

Value find(const Call& call) {
  const auto text = call.text();
  const auto at = text.find(call.text(0, ""));
  return at == std::string::npos ? int64_t{-1} : static_cast<int64_t>(characters(text.substr(0, at)).size());
}

Value count(const Call& call) {
  const auto wanted = call.at(0, "");
  int64_t n = 0;
  if (!call.subject().is_string()) {
    for (const auto& one : elements(call.subject())) n += equal(one, wanted) ? 1 : 0;
    return n;
  }
  const auto text = call.text(), part = call.text(0, "");
  for (size_t at = 0; !part.empty() && (at = text.find(part, at)) != std::string::npos; at += part.size())
    ++n;
  return n;
}

Value index(const Call& call) {
  if (call.subject().is_string()) {
    auto at = find(call);
    if (at.get<int64_t>() < 0) throw std::runtime_error("a text has no " + call.text(0, ""));
    return at;
  }
  const auto all = elements(call.subject());
  for (size_t i = 0; i < all.size(); ++i)
    if (equal(all[i], call.at(0, ""))) return static_cast<int64_t>(i);
  throw std::runtime_error("a list has no " + text_of(call.at(0, "")));
}

/// Whether all characters, of which there is at least one, are such.
Value all_are(const Call& call, int (*kind)(int)) {
  const auto text = call.text();
  return !text.empty() && std::ranges::all_of(text, [&](unsigned char c) { return kind(c) != 0; });
}

Value& object_of(Value& value) {
  if (!value.is_object() || value.is_callable()) throw std::runtime_error(text_of(value) + " is no object");
  return value;
}

Value& list_of(Value& value) {
  if (!value.is_array()) throw std::runtime_error(text_of(value) + " is no list");
  return value;
}

// Copies of lists and objects are the same list or object.

Value items(const Call& call) {
  auto object = call.subject();
  auto out = Value::array();
  for (const auto& key : object_of(object).keys()) out.push_back(Value::array({key, object.at(key)}));
  return out;
}

Value values(const Call& call) {
  auto object = call.subject();
  auto out = Value::array();
  for (const auto& key : object_of(object).keys()) out.push_back(object.at(key));
  return out;
}

Value keys(const Call& call) {
  auto object = call.subject();
  return Value::array(object_of(object).keys());
}

Value get(const Call& call) {
  auto object = call.subject();
  const auto key = call.at(0, "");
  return key.is_hashable() && object_of(object).contains(key) ? object.at(key) : call.at(1, "default");
}

Value update(const Call& call) {
  auto object = call.subject(), other = call.at(0, "");
  if (!other.is_null())
    for (const auto& key : object_of(other).keys()) object_of(object).set(key, other.at(key));
  for (const auto& [name, value] : call.args.kwargs) object_of(object).set(name, value);
  return {};
}

Value append(const Call& call) {
  auto list = call.subject();
  list_of(list).push_back(call.at(0, ""));
  return {};
}

Value extend(const Call& call) {
  auto list = call.subject();
  for (const auto& one : elements(call.at(0, ""))) list_of(list).push_back(one);
  return {};
}

Value insert(const Call& call) {
  auto list = call.subject();
  const auto size = static_cast<int64_t>(list_of(list).size());
  auto at = call.at(0, "").to_int();
  if (at < 0) at += size;
  list.insert(static_cast<size_t>(std::clamp<int64_t>(at, 0, size)), call.at(1, ""));
  return {};
}

Value pop(const Call& call) {
  auto from = call.subject();
  if (from.is_object()) {
    const auto key = call.at(0, "");
    if (!from.contains(key) && call.args.args.size() > 2) return call.at(1, "default");
    return from.pop(key);
  }
  const auto size = static_cast<int64_t>(list_of(from).size());
  auto at = call.at(0, "", int64_t{-1}).to_int();
  if (at < 0) at += size;
  if (at < 0 || at >= size) throw std::runtime_error("a list has no such element to pop");
  auto out = from.at(static_cast<size_t>(at));
  from.erase(static_cast<size_t>(at));
  return out;
}

const std::map<std::string, Function, std::less<>> kMethods = {
    {"append", append},
    {"capitalize", [](const Call& c) -> Value { return capitalized(c.text()); }},
    {"count", count},
    {"endswith", [](const Call& c) { return affixed(c, true); }},
    {"extend", extend},
    {"find", find},
    {"format", format},
    {"get", get},
    {"index", index},
    {"insert", insert},
    {"isalnum", [](const Call& c) { return all_are(c, std::isalnum); }},
    {"isalpha", [](const Call& c) { return all_are(c, std::isalpha); }},
    {"isdigit", [](const Call& c) { return all_are(c, std::isdigit); }},
    {"isspace", [](const Call& c) { return all_are(c, std::isspace); }},
    {"items", items},
    {"join", join},
    {"keys", keys},
    {"lower", [](const Call& c) -> Value { return in_case(c.text(), false); }},
    {"lstrip", [](const Call& c) { return strip(c, true, false); }},
    {"pop", pop},
    {"removeprefix", [](const Call& c) { return without_affix(c, false); }},
    {"removesuffix", [](const Call& c) { return without_affix(c, true); }},
    {"replace",
     [](const Call& c) -> Value {
       const auto most = c.at(2, "count");
       return replaced(c.text(), c.text(0, "old"), c.text(1, "new"), most.is_null() ? -1 : most.to_int());
     }},
    {"rsplit", split_from_the_end},
    {"rstrip", [](const Call& c) { return strip(c, false, true); }},
    {"split", split},
    {"splitlines", lines},
    {"startswith", [](const Call& c) { return affixed(c, false); }},
    {"strip", [](const Call& c) { return strip(c, true, true); }},
    {"title", [](const Call& c) -> Value { return titled(c.text()); }},
    {"update", update},
    {"upper", [](const Call& c) -> Value { return in_case(c.text(), true); }},
    {"values", values},
};

}  // namespace

Function method(const std::string& name) {
  const auto it = kMethods.find(name);
  return it == kMethods.end() ? nullptr : it->second;
}

std::string stripped(const std::string& text, bool left, bool right, const std::string& which) {
  const auto all = characters(text);
  const auto set = characters(which.empty() ? kBlanks : which);
  const auto goes = [&](const std::string& one) { return std::ranges::find(set, one) != set.end(); };
  size_t begin = 0, end = text.size();
  for (size_t i = 0; left && i < all.size() && goes(all[i]); ++i) begin += all[i].size();
  for (size_t i = all.size(); right && i > 0 && end > begin && goes(all[i - 1]); --i)
    end -= all[i - 1].size();
  return text.substr(begin, end - begin);
}

std::string in_case(std::string text, bool upper) {
  for (char& c : text)
    if ((c & 0x80) == 0) c = static_cast<char>(upper ? std::toupper(c) : std::tolower(c));
  return text;
}

std::string capitalized(const std::string& text) {
  return text.empty() ? text : in_case(text.substr(0, 1), true) + in_case(text.substr(1), false);
}

std::string titled(std::string text) {
  bool inside = false;
  for (char& c : text) {
    c = in_case(std::string(1, c), !inside).front();
    inside = std::isalpha(static_cast<unsigned char>(c)) != 0 || (c & 0x80) != 0;
  }
  return text;
}

std::string replaced(const std::string& text, const std::string& from, const std::string& to, int64_t most) {
  if (from.empty()) return text;
  std::string out;
  size_t done = 0;
  for (size_t at; most != 0 && (at = text.find(from, done)) != std::string::npos;
       done = at + from.size(), --most)
    out.append(text, done, at - done).append(to);
  return out + text.substr(done);
}

}  // namespace windowkv::jinja
