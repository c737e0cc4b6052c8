// Charts and pages: well-formed whatever text and numbers they are given, and nothing fetched from elsewhere.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "eval/html.h"
#include "eval/svg.h"

namespace windowkv::eval {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
const std::string kNasty = "a <b> & \"c\" 'd' \x01 \xff é </text><script>";

/// The name that markup like `<name attr="v">` begins with.
std::string element_name(std::string_view tag) {
  return std::string(tag.substr(0, tag.find_first_of(" \n\t/>")));
}

/// Attributes as name="value", no '<' within, quotes closed.
bool attributes_well_formed(std::string_view text) {
  while (true) {
    const auto start = text.find_first_not_of(" \n\t");
    if (start == std::string_view::npos) return true;
    text.remove_prefix(start);
    const auto equals = text.find("=\"");
    if (equals == std::string_view::npos ||
        text.substr(0, equals).find_first_of(" \n\t\"<>") != std::string_view::npos)
      return false;
    const auto end = text.find('"', equals + 2);
    if (end == std::string_view::npos) return false;
    text.remove_prefix(end + 1);
  }
}

bool entities_well_formed(std::string_view text) {
  for (auto at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    const auto name = text.substr(at + 1, text.find(';', at) - at - 1);
    if (name != "amp" && name != "lt" && name != "gt" && name != "quot" && name != "#39") return false;
  }
  return true;
}

/// What is wrong with XML, or "". Enough of a parser for what these functions write.
std::string xml_fault(std::string_view text) {
  if (!entities_well_formed(text)) return "an entity";
  for (unsigned char c : text)
    if (c < 0x20 && c != '\n' && c != '\t') return "a control character";
  std::vector<std::string> open;
  bool root_seen = false;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '<') {
      if (text[at] == '>' && open.empty()) return "a stray >";
      ++at;
      continue;
    }
    const auto end = text.find('>', at);
    if (end == std::string_view::npos) return "a tag without end";
    auto tag = text.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.starts_with("!DOCTYPE")) continue;
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1))
        return "</" + std::string(tag.substr(1)) + "> unexpected";
      open.pop_back();
      continue;
    }
    if (open.empty() && root_seen) return "two roots";
    root_seen = true;
    const bool empty = tag.ends_with('/');
    if (empty) tag.remove_suffix(1);
    const auto name = element_name(tag);
    if (!attributes_well_formed(tag.substr(name.size()))) return "attributes of <" + std::string(tag) + ">";
    if (!empty) open.push_back(name);
  }
  return open.empty() ? "" : "<" + open.back() + "> left open";
}

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

Heatmap heatmap(size_t rows, size_t columns, size_t panels) {
  Heatmap h{.title = kNasty, .x_label = "x " + kNasty, .y_label = "y", .scale_label = "score"};
  for (size_t c = 0; c < columns; ++c) h.columns.push_back(std::to_string(1000 * (c + 1)));
  for (size_t r = 0; r < rows; ++r) h.rows.push_back(std::to_string(r) + " %");
  for (size_t p = 0; p < panels; ++p)
    h.panels.push_back({"panel " + kNasty, std::vector(rows, std::vector<double>(columns, 12.6))});
  return h;
}

TEST(XmlCheck, SeesWhatIsWrong) {
  EXPECT_EQ(xml_fault("<a b=\"c\"><d/>e</a>"), "");
  for (const char* bad :
       {"<a>", "<a></b>", "<a b=c/>", "<a b=\"c/>", "<a>&x;</a>", "<a/><b/>", "<a>\x01</a>"})
    EXPECT_NE(xml_fault(bad), "") << bad;
}

TEST(EscapeXml, LeavesNoMarkup) {
  EXPECT_EQ(escape_xml("a<b>&\"'é\n"), "a&lt;b&gt;&amp;&quot;&#39;é\n");
  EXPECT_EQ(escape_xml("\x01|\xff|\xc3"), "\uFFFD|\uFFFD|\uFFFD");
  EXPECT_EQ(escape_xml(std::string(1, '\0')), "\uFFFD");
}

TEST(Heatmap, IsWellFormedAtAnySize) {
  for (size_t rows : {0, 1, 11, 101})
    for (size_t columns : {0, 1, 8, 60})
      for (size_t panels : {0, 1, 2, 9})
        EXPECT_EQ(xml_fault(heatmap_svg(heatmap(rows, columns, panels))), "") << rows << "x" << columns;
}

TEST(Heatmap, WritesNumbersWhereTheyFit) {
  auto h = heatmap(2, 3, 1);
  h.panels[0].values[1][1] = kNan;
  const auto svg = heatmap_svg(h);
  EXPECT_EQ(count(svg, ">13</text>"), 5u);
  EXPECT_EQ(count(svg, "not measured"), 1u);
  EXPECT_EQ(count(heatmap_svg(heatmap(2, 40, 1)), ">13</text>"), 0u);  // narrow cells
}

TEST(Heatmap, RowsOfPanelsBreakWhereAsked) {
  auto h = heatmap(2, 2, 3);
  for (auto& panel : h.panels) panel.title = "short";
  const auto height = [](const std::string& svg) {
    const auto at = svg.find(" height=\"") + 9;
    return std::stoi(svg.substr(at, svg.find('"', at) - at));
  };
  const auto flat = heatmap_svg(h);
  h.panels[1].new_row = true;
  const auto broken = heatmap_svg(h);
  EXPECT_GT(height(broken), height(flat));
  h.panels[2].subtitle = "12%, mean 5";
  const auto titled = heatmap_svg(h);
  EXPECT_GT(height(titled), height(broken));
  EXPECT_EQ(count(titled, ">12%, mean 5</text>"), 1u);
  EXPECT_EQ(xml_fault(titled), "");
}

TEST(Heatmap, ColoursFollowTheScale) {
  auto h = heatmap(1, 4, 1);
  h.panels[0].values[0] = {-5, 0, 100, 1e9};  // beyond the ends: the ends' colours
  const auto svg = heatmap_svg(h);
  EXPECT_EQ(count(svg, "fill=\"#440154\""), 2u);
  EXPECT_EQ(count(svg, "fill=\"#fde725\""), 2u);
}

TEST(LineChart, IsWellFormed) {
  LineChart chart{.title = kNasty, .x_label = "kept bytes", .y_label = "score"};
  EXPECT_EQ(xml_fault(line_chart_svg(chart)), "");
  chart.series.push_back({kNasty, {{6, {50, 45, 55}}, {12, {kNan, 0, 0}}, {25, {80, 80, 80}}}});
  chart.series.push_back({"one point", {{6, {50, 45, 55}}}});
  chart.series.push_back({"none", {}});
  for (bool log_x : {false, true}) {
    chart.log_x = log_x;
    const auto svg = line_chart_svg(chart);
    EXPECT_EQ(xml_fault(svg), "");
    EXPECT_EQ(count(svg, "nan"), 0u);
    EXPECT_EQ(count(svg, "stroke-width=\"1.2\""), 2u);  // error bars; none where the interval is empty
  }
}

TEST(BarChart, IsWellFormed) {
  BarChart chart{.title = kNasty, .y_label = "score"};
  EXPECT_EQ(xml_fault(bar_chart_svg(chart)), "");
  chart.categories = {kNasty, "b"};
  chart.series = {{"full", {{50, 40, 60}, {0, 0, 0}}}, {"other", {{-3, -4, -2}, {kNan, 0, 0}}}};
  const auto svg = bar_chart_svg(chart);
  EXPECT_EQ(xml_fault(svg), "");
  EXPECT_EQ(count(svg, "nan"), 0u);
  EXPECT_EQ(count(svg, "height=\"-"), 0u);
  EXPECT_EQ(count(svg, "class=\"wkv-whisker\""), 2u);
}

std::string page() {
  HtmlReport report(kNasty);
  report.heading(kNasty);
  report.paragraph(kNasty);
  report.figure(heatmap_svg(heatmap(2, 2, 2)), kNasty);
  report.table({{"policy", "score"}, {{kNasty, "93.1"}, {"full", "–"}}, ""});
  report.table({{"a"}, {}, kNasty});
  report.facts({{kNasty, kNasty}});
  return report.html();
}

TEST(HtmlReport, IsWellFormedAndEscaped) {
  const auto html = page();
  EXPECT_EQ(xml_fault(html), "");
  EXPECT_EQ(count(html, "<script"), 0u);
}

TEST(HtmlReport, FetchesNothing) {
  const auto html = page();
  EXPECT_EQ(count(html, "http"), count(html, "http://www.w3.org/2000/svg"));
  for (const char* fetching : {"src=", "href=", "url(", "@import", "<link"})
    EXPECT_EQ(count(html, fetching), 0u);
  EXPECT_GE(count(html, "prefers-color-scheme:dark"), 2u);  // the page's and the chart's
}

TEST(HtmlReport, NumbersStandToTheRight) {
  const auto html = page();
  EXPECT_EQ(count(html, "<th class=\"n\">score</th>"), 1u);
  EXPECT_EQ(count(html, "<td class=\"n\">93.1</td>"), 1u);
  EXPECT_EQ(count(html, "<th>policy</th>"), 1u);
  HtmlReport report("sizes");
  report.table({{"size", "interval", "range", "word"},
                {{"258.2 KiB", "1.5 [-1, 2]", "-1.0 to 2.5", "up to 3"}, {"3 B", "2", "-", "4"}},
                ""});
  EXPECT_EQ(count(report.html(), "<th class=\"n\">"), 3u);
  EXPECT_EQ(count(report.html(), "<th>word</th>"), 1u);
}

}  // namespace
}  // namespace windowkv::eval
