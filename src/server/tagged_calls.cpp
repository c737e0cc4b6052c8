#include "server/tagged_calls.h"

#include <algorithm>
#include <array>

#include "server/json.h"
#include "server/random_id.h"
#include "support/blanks.h"
#include "support/bounded_json.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

constexpr TaggedFormat in_function_tags(std::string_view section) {
  return {.section = section,
          .call = "<function=",
          .name_end = ">",
          .key = "<parameter=",
          .key_end = ">",
          .value = "",
          .value_end = "</parameter>",
          .end = "</function>"};
}

/// New formats go here.
constexpr std::array kFormats = {
    in_function_tags("<tool_call>"),       // Qwen3-Coder, Qwen3.5
    in_function_tags("<seed:tool_call>"),  // Seed-OSS
    TaggedFormat{.section = "<minimax:tool_call>",
                 .call = "<invoke name=\"",
                 .name_end = "\">",
                 .key = "<parameter name=\"",
                 .key_end = "\">",
                 .value = "",
                 .value_end = "</parameter>",
                 .end = "</invoke>"},
    // GLM-4.5
    TaggedFormat{.section = "<tool_call>",
                 .call = "",
                 .name_end = "",
                 .key = "<arg_key>",
                 .key_end = "</arg_key>",
                 .value = "<arg_value>",
                 .value_end = "</arg_value>",
                 .end = "</tool_call>"},
};

/// Goes through a text that is not all there yet.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  size_t at() const { return at_; }

  /// Goes behind the mark, where it stands here.
  Match skip(std::string_view mark) {
    const auto rest = text_.substr(at_);
    if (rest.starts_with(mark)) {
      at_ += mark.size();
      return Match::kYes;
    }
    return rest.size() < mark.size() && mark.starts_with(rest) ? Match::kMore : Match::kNo;
  }
  void skip_blanks() { at_ = std::min(text_.find_first_not_of(kBlanks, at_), text_.size()); }
  /// Goes behind the mark, wherever it stands, and gives what is before it.
  Match read_to(std::string_view mark, std::string_view& before) {
    const auto found = text_.find(mark, at_);
    if (found == std::string_view::npos) return Match::kMore;
    before = text_.substr(at_, found - at_);
    at_ = found + mark.size();
    return Match::kYes;
  }
  Match read_name(std::string_view& name) {
    const auto end =
        std::find_if_not(text_.begin() + static_cast<ptrdiff_t>(at_), text_.end(), is_name_character);
    name = text_.substr(at_, static_cast<size_t>(end - text_.begin()) - at_);
    if (end == text_.end()) return Match::kMore;
    at_ += name.size();
    return name.empty() ? Match::kNo : Match::kYes;
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

/// What the schema says of a parameter, or null.
const Json* schema_of(const Tool& tool, std::string_view key) {
  if (!tool.parameters.is_object()) return nullptr;
  const auto properties = tool.parameters.find("properties");
  if (properties == tool.parameters.end() || !properties->is_object()) return nullptr;
  const auto found = properties->find(std::string(key));
  return found != properties->end() && found->is_object() ? &*found : nullptr;
}

bool may_be(const Json& schema, std::string_view type) {
  const auto types = schema.find("type");
  if (types == schema.end()) return false;
  return types->is_array() ? std::ranges::find(*types, Json(type)) != types->end() : *types == Json(type);
}

Json value_of(const Json* schema, std::string_view text) {
  Json as_text = std::string(text);
  if (schema == nullptr) return as_text;
  if (may_be(*schema, "null") && (text == "null" || text == "None")) return nullptr;
  if (may_be(*schema, "string")) return as_text;
  // Templates show earlier calls as Python writes them.
  if (text == "True") return true;
  if (text == "False") return false;
  try {
    return parse_bounded_json(text);
  } catch (const Error&) {
    return as_text;
  }
}

/// Without the line breaks that some templates put around values.
std::string_view between_breaks(std::string_view text) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

Match read_arguments(Reader& reader, const TaggedFormat& format, const Tool& tool, Json& arguments) {
  arguments = Json::object();
  for (;;) {
    reader.skip_blanks();
    const auto ends = reader.skip(format.end);
    if (ends == Match::kYes) return ends;
    const auto another = reader.skip(format.key);
    if (another != Match::kYes) return ends == Match::kMore ? ends : another;
    std::string_view key, value;
    if (reader.read_to(format.key_end, key) != Match::kYes) return Match::kMore;
    if (!format.value.empty()) reader.skip_blanks();
    if (const auto found = reader.skip(format.value); found != Match::kYes) return found;
    if (reader.read_to(format.value_end, value) != Match::kYes) return Match::kMore;
    arguments[std::string(key)] = value_of(schema_of(tool, key), between_breaks(value));
  }
}

Match read_as(const TaggedFormat& format, std::string_view text, const std::vector<Tool>& tools,
              ToolCall& call, size_t& size) {
  Reader reader(text);
  const auto section = reader.skip(format.section);
  if (section == Match::kMore || (section == Match::kNo && format.call.empty())) return section;
  reader.skip_blanks();
  if (const auto found = reader.skip(format.call); found != Match::kYes) return found;
  std::string_view name;
  if (const auto found = reader.read_name(name); found != Match::kYes) return found;
  if (const auto found = reader.skip(format.name_end); found != Match::kYes) return found;
  const auto tool = std::ranges::find(tools, name, &Tool::name);
  if (tool == tools.end()) return Match::kNo;
  Json arguments;
  if (const auto found = read_arguments(reader, format, *tool, arguments); found != Match::kYes) return found;
  // A model may write what is no UTF-8.
  auto json = arguments.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
  call = {random_call_id(), std::string(name), std::move(json)};
  size = reader.at();
  return Match::kYes;
}

}  // namespace

bool is_name_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
}

std::vector<std::string> tagged_marks() {
  std::vector<std::string> marks;
  for (const auto& format : kFormats)
    for (const auto mark : {format.section, format.call})
      if (!mark.empty() && std::ranges::find(marks, mark) == marks.end()) marks.emplace_back(mark);
  return marks;
}

Match read_tagged_call(std::string_view text, const std::vector<Tool>& tools, ToolCall& call, size_t& size) {
  bool more = false;
  for (const auto& format : kFormats) {
    const auto found = read_as(format, text, tools, call, size);
    if (found == Match::kYes) return found;
    more = more || found == Match::kMore;
  }
  return more ? Match::kMore : Match::kNo;
}

}  // namespace windowkv::server
