#include "eval/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "eval/svg.h"

namespace windowkv::eval {

namespace {

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#59636e;--line:#d1d9e0;--band:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6edf3;--dim:#9198a1;--line:#30363d;--band:#1b2027}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1320px;padding:24px 32px 48px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
h1{font-size:26px;line-height:1.25;margin:8px 0 16px}h2{font-size:19px;margin:32px 0 10px}
p{max-width:75ch;margin:8px 0}
figure{margin:16px 0;overflow-x:auto}figure svg{display:block}
figcaption{color:var(--dim);font-size:13px;margin-top:4px}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-size:14px}
th,td{padding:5px 12px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;border-bottom-width:2px;white-space:nowrap}
td{font-variant-numeric:tabular-nums}td:first-child{white-space:nowrap}
.n{text-align:right;white-space:nowrap}
tbody tr:nth-child(even){background:var(--band)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 20px;margin:12px 0;font-size:14px}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
summary{cursor:pointer;margin:12px 0}
@media(max-width:600px){body{padding:16px}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
)";

/// Also intervals and sizes: "1.5", "-3.2 %", "1.5 [1, 2]", "1 to 2", "258.2 KiB".
bool is_number(std::string_view text) {
  if (text.empty() || text == "–" || text == "-") return true;
  if (const auto to = text.find(" to "); to != std::string_view::npos)
    return is_number(text.substr(0, to)) && is_number(text.substr(to + 4));
  for (std::string_view unit : {" B", " KiB", " MiB", " GiB", " TiB"})
    if (text.ends_with(unit)) return is_number(text.substr(0, text.size() - unit.size()));
  if (text[0] == '-' || text[0] == '+') text.remove_prefix(1);
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) != 0 &&
         text.find_first_not_of("0123456789.,eE+-± %[]") == std::string_view::npos;
}

std::vector<bool> number_columns(const HtmlTable& table) {
  std::vector<bool> numbers(table.header.size(), !table.rows.empty());
  for (const auto& row : table.rows)
    for (size_t i = 0; i < row.size(); ++i)
      if (!is_number(row[i])) numbers.at(i) = false;
  return numbers;
}

std::string table_row(const std::vector<std::string>& cells, const std::vector<bool>& numbers,
                      std::string_view element) {
  std::string out = "<tr>";
  for (size_t i = 0; i < cells.size(); ++i)
    out += fmt::format("<{0}{1}>{2}</{0}>", element, numbers[i] ? " class=\"n\"" : "", escape_xml(cells[i]));
  return out + "</tr>\n";
}

}  // namespace

HtmlReport::HtmlReport(std::string_view title)
    : title_(escape_xml(title)), body_(fmt::format("<h1>{}</h1>\n", title_)) {}

void HtmlReport::heading(std::string_view text) {
  body_ += fmt::format("<h2>{}</h2>\n", escape_xml(text));
}

void HtmlReport::paragraph(std::string_view text) {
  body_ += fmt::format("<p>{}</p>\n", escape_xml(text));
}

void HtmlReport::table(const HtmlTable& table) {
  const auto numbers = number_columns(table);
  std::string text = fmt::format("<div class=\"scroll\"><table>\n<thead>{}</thead>\n<tbody>",
                                 table_row(table.header, numbers, "th"));
  for (const auto& row : table.rows) text += table_row(row, numbers, "td");
  text += "</tbody>\n</table></div>\n";
  body_ += table.folded.empty() ? text
                                : fmt::format("<details><summary>{}</summary>\n{}</details>\n",
                                              escape_xml(table.folded), text);
}

void HtmlReport::facts(const std::vector<std::pair<std::string, std::string>>& facts) {
  body_ += "<dl>\n";
  for (const auto& [name, value] : facts)
    body_ += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escape_xml(name), escape_xml(value));
  body_ += "</dl>\n";
}

void HtmlReport::figure(std::string_view svg, std::string_view caption) {
  body_ += fmt::format("<figure>\n{}", svg);
  if (!caption.empty()) body_ += fmt::format("<figcaption>{}</figcaption>\n", escape_xml(caption));
  body_ += "</figure>\n";
}

std::string HtmlReport::html() const {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
      title_, kStyle, body_);
}

}  // namespace windowkv::eval
