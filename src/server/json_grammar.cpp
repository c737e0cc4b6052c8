#include "server/json_grammar.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "windowkv/error.h"

namespace windowkv::server {

namespace {

// White space is bounded, so that no answer consists of it.
constexpr const char* kBasics = R"(
space ::= " "? | "\n" [ \t]{0,20}
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4})
string ::= "\"" char* "\""
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?
boolean ::= "true" | "false"
null ::= "null"
member ::= string space ":" space value
object ::= "{" space (member space ("," space member space)*)? "}"
array ::= "[" space (value space ("," space value space)*)? "]"
value ::= object | array | string | number | boolean | null
)";

constexpr int kMostRules = 2000;
constexpr int64_t kMostRepeats = 1000;

class Converter {
 public:
  /// Adds a rule of that name for the schema.
  void convert(const std::string& name, const Json& schema) {
    root_ = &schema;
    references_.clear();
    put(name, rule_of(schema));
  }

  std::string rules() const {
    std::string out;
    for (const auto& [name, body] : rules_) out += fmt::format("{} ::= {}\n", name, body);
    return out;
  }

 private:
  /// An expression for a schema: a rule's name, or something that binds as closely.
  std::string rule_of(const Json& schema) {
    if (schema.is_boolean() && schema.get<bool>()) return "value";
    if (!schema.is_object()) throw Error("a schema must be an object");
    check_keywords(schema);
    for (const char* name : {"$ref", "const", "enum", "anyOf", "oneOf"})
      if (const auto it = schema.find(name); it != schema.end()) {
        check_alone(schema, name);
        if (it.key() == "$ref") return reference(*it);
        if (it.key() == "const") return one_of_values(schema, Json::array({*it}));
        return it.key() == "enum" ? one_of_values(schema, *it) : one_of_schemas(*it);
      }
    const auto type = schema.find("type");
    if (type == schema.end()) return describes_object(schema) ? object_of(schema) : "value";
    if (type->is_array()) {
      std::vector<std::string> options;
      for (const auto& one : *type) options.push_back(typed(schema, one));
      return add(alternatives(options));
    }
    return typed(schema, *type);
  }

  std::string typed(const Json& schema, const Json& type) {
    if (type == "object") return describes_object(schema) ? object_of(schema) : "object";
    if (type == "array") return array_of(schema);
    if (type == "string") return string_of(schema);
    for (const char* name : {"integer", "number", "boolean", "null"})
      if (type == name) return name;
    throw Error(fmt::format("type {} is not known", type.dump()));
  }

  static bool describes_object(const Json& schema) {
    return schema.contains("properties") || schema.contains("additionalProperties") ||
           schema.contains("required");
  }

  /// What says all by itself would hide what stands beside it. A type may: it sorts out values.
  static void check_alone(const Json& schema, const std::string& name) {
    const bool values = name == "const" || name == "enum";
    for (const auto& [other, value] : schema.items())
      if (other != name && constraints().contains(other) && !(values && other == "type"))
        throw Error(fmt::format("{} beside {} is not understood", other, name));
  }

  static bool is_of(const Json& value, const Json& type) {
    if (type == "integer") return value.is_number_integer();
    if (type == "number") return value.is_number();
    return type == value.type_name();
  }

  static const std::set<std::string>& constraints() {
    static const std::set<std::string> kConstraints = {
        "type",      "properties", "required", "additionalProperties",
        "items",     "minItems",   "maxItems", "enum",
        "const",     "anyOf",      "oneOf",    "$ref",
        "minLength", "maxLength"};
    return kConstraints;
  }

  static void check_keywords(const Json& schema) {
    static const std::set<std::string> kOthers = {"$defs",    "definitions", "title",    "description",
                                                  "default",  "examples",    "$schema",  "$id",
                                                  "$comment", "deprecated",  "readOnly", "writeOnly"};
    for (const auto& [name, value] : schema.items())
      if (!constraints().contains(name) && !kOthers.contains(name))
        throw Error(fmt::format("the keyword {} is not understood", name));
  }

  std::string add(const std::string& body) {
    auto name = fmt::format("r{}", rules_.size());
    put(name, body);
    return name;
  }

  void put(const std::string& name, const std::string& body) {
    if (rules_.size() >= kMostRules) throw Error("the schema is too large");
    rules_[name] = body;
  }

  static std::string alternatives(const std::vector<std::string>& options) {
    if (options.empty()) throw Error("nothing is allowed");
    return fmt::format("{}", fmt::join(options, " | "));
  }

  /// Those of the schema's type, where it has one.
  std::string one_of_values(const Json& schema, const Json& values) {
    if (!values.is_array()) throw Error("enum must be an array");
    auto types = schema.value("type", Json::array());
    if (!types.is_array()) types = Json::array({types});
    std::vector<std::string> options;
    for (const auto& value : values)
      if (types.empty() || std::ranges::any_of(types, [&](const auto& type) { return is_of(value, type); }))
        options.push_back(grammar_literal(value.dump()));
    return add(alternatives(options));
  }

  std::string one_of_schemas(const Json& schemas) {
    if (!schemas.is_array()) throw Error("anyOf must be an array");
    std::vector<std::string> options;
    for (const auto& schema : schemas) options.push_back(rule_of(schema));
    return add(alternatives(options));
  }

  /// Schemas may refer to themselves: the rule has its name before its body is known.
  std::string reference(const Json& ref) {
    const auto place = ref.is_string() ? ref.get<std::string>() : "";
    if (!place.starts_with('#')) throw Error("$ref must lead to a place in the schema");
    if (open_.contains(place)) throw Error(fmt::format("$ref {} leads to itself", place));
    if (const auto it = references_.find(place); it != references_.end()) return it->second;
    auto name = fmt::format("ref{}", ++referred_);
    references_[place] = name;
    const Json* target = nullptr;
    try {
      target = &root_->at(Json::json_pointer(place.substr(1)));
    } catch (const Json::exception&) {
      throw Error(fmt::format("$ref {} leads nowhere", place));
    }
    open_.insert(place);
    put(name, rule_of(*target));
    open_.erase(place);
    return name;
  }

  static std::pair<int64_t, int64_t> bounds(const Json& schema, const char* least, const char* most) {
    auto number = [&](const char* name, int64_t otherwise) {
      const auto it = schema.find(name);
      if (it == schema.end()) return otherwise;
      if (!it->is_number_integer() || it->get<int64_t>() < 0 || it->get<int64_t>() > kMostRepeats)
        throw Error(fmt::format("{} must be 0 to {}", name, kMostRepeats));
      return it->get<int64_t>();
    };
    const auto low = number(least, 0), high = number(most, -1);
    if (high >= 0 && high < low) throw Error(fmt::format("{} is below {}", most, least));
    return {low, high};
  }

  static std::string repeats(int64_t low, int64_t high) {
    if (high < 0) return low == 0 ? "*" : fmt::format("{{{},}}", low);
    return fmt::format("{{{},{}}}", low, high);
  }

  std::string string_of(const Json& schema) {
    const auto [low, high] = bounds(schema, "minLength", "maxLength");
    if (low == 0 && high < 0) return "string";
    return add(fmt::format(R"("\"" char{} "\"")", repeats(low, high)));
  }

  /// An expression for what is within an array or an object, where references may lead out again.
  std::string inner_rule_of(const Json& schema) {
    auto open = std::exchange(open_, {});
    auto rule = rule_of(schema);
    open_ = std::move(open);
    return rule;
  }

  std::string array_of(const Json& schema) {
    const auto item = schema.contains("items") ? inner_rule_of(schema["items"]) : "value";
    const auto [low, high] = bounds(schema, "minItems", "maxItems");
    if (high == 0) return add(R"("[" space "]")");
    const auto more = high == 1
                          ? ""
                          : fmt::format(R"( ("," space {} space){})", item,
                                        repeats(std::max<int64_t>(0, low - 1), high < 0 ? -1 : high - 1));
    const auto rest = fmt::format("({} space{})", item, more);
    return add(fmt::format(R"("[" space {}{} "]")", rest, low == 0 ? "?" : ""));
  }

  std::string object_of(const Json& schema) {
    std::set<std::string> required;
    if (const auto it = schema.find("required"); it != schema.end()) {
      if (!it->is_array()) throw Error("required must be an array of names");
      for (const auto& name : *it) {
        if (!name.is_string()) throw Error("required must be an array of names");
        required.insert(name.get<std::string>());
      }
    }
    std::vector<std::string> needed, optional;
    const auto properties = schema.find("properties");
    if (properties != schema.end()) {
      if (!properties->is_object()) throw Error("properties must be an object");
      for (const auto& [name, property] : properties->items()) {
        const auto one = fmt::format(R"({} space ":" space {} space)", grammar_literal(Json(name).dump()),
                                     inner_rule_of(property));
        (required.erase(name) > 0 ? needed : optional).push_back(add(one));
      }
    }
    if (!required.empty()) throw Error(fmt::format("the required {} is no property", *required.begin()));
    // Whatever else an object may have: where the schema lists its properties, nothing, as its writer
    // expects.
    if (const auto it = schema.find("additionalProperties"); it != schema.end() && *it != false) {
      const auto value = *it == true ? "value" : inner_rule_of(*it);
      const auto extra = add(fmt::format(R"(string space ":" space {} space)", value));
      optional.push_back(add(fmt::format(R"({} ("," space {})*)", extra, extra)));
    }
    return add(R"("{" space )" + members(needed, optional) + R"( "}")");
  }

  /// The needed ones in order, then any of the optional ones in order.
  std::string members(const std::vector<std::string>& needed, const std::vector<std::string>& optional) {
    std::string out = fmt::format("{}", fmt::join(needed, R"( "," space )"));
    if (!needed.empty()) {
      for (const auto& one : optional) out += fmt::format(R"( ("," space {})?)", one);
      return out;
    }
    std::vector<std::string> starts;
    for (size_t i = 0; i < optional.size(); ++i) {
      auto start = optional[i];
      for (size_t j = i + 1; j < optional.size(); ++j)
        start += fmt::format(R"( ("," space {})?)", optional[j]);
      starts.push_back(start);
    }
    return starts.empty() ? "" : fmt::format("({})?", fmt::join(starts, " | "));
  }

  const Json* root_ = nullptr;  ///< to which references lead
  std::map<std::string, std::string> rules_;
  std::map<std::string, std::string> references_;
  std::set<std::string> open_;  ///< references on the way here, since the last array or object
  int referred_ = 0;
};

}  // namespace

std::string grammar_with(const std::string& root, std::span<const Json> schemas) {
  Converter converter;
  for (size_t i = 0; i < schemas.size(); ++i) converter.convert(fmt::format("schema{}", i), schemas[i]);
  return fmt::format("root ::= {}\n", root) + converter.rules() + kBasics;
}

std::string json_grammar() {
  return grammar_with("space object space", {});
}

std::string schema_grammar(const Json& schema) {
  return grammar_with("space schema0 space", std::span(&schema, 1));
}

std::string grammar_literal(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\n')
      out += "\\n";
    else if (c == '"' || c == '\\')
      out += std::string("\\") + c;
    else
      out += c;
  }
  return out + '"';
}

}  // namespace windowkv::server
