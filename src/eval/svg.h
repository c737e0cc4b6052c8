#pragma once

#include <string>
#include <string_view>
#include <vector>

/// Charts as SVG text: pure functions of their data. A chart stands alone as a file and inside HTML alike;
/// its text follows prefers-color-scheme, its colours can be told apart by the colour-blind.
namespace windowkv::eval {

/// Text for XML content and attributes: markup characters escaped, what XML does not allow (control
/// characters, bytes that are not UTF-8) replaced.
std::string escape_xml(std::string_view text);

/// One grid of a heatmap figure.
struct HeatmapPanel {
  std::string title;
  std::vector<std::vector<double>> values;  ///< [row][column]; NaN: not measured
  std::string subtitle;                     ///< empty in all panels: no line for it
  bool new_row = false;                     ///< stands at the left even where there is room further right
};

/// Grids of the same rows and columns over one colour scale.
struct Heatmap {
  std::string title;  ///< empty: none
  std::string x_label, y_label;
  std::string scale_label;
  double low = 0, high = 100;  ///< ends of the colour scale
  std::vector<std::string> columns, rows;
  std::vector<HeatmapPanel> panels;
};
std::string heatmap_svg(const Heatmap& figure);

/// A value and its interval; low == high: no error bar. NaN: none.
struct Measured {
  double value = 0, low = 0, high = 0;
};

struct LinePoint {
  double x = 0;
  Measured y;
};

struct LineSeries {
  std::string name;
  std::vector<LinePoint> points;  ///< ascending x
};

struct LineChart {
  std::string title;  ///< empty: none
  std::string x_label, y_label;
  bool log_x = false;      ///< ticks at the points' own x then
  size_t first_color = 0;  ///< of the first series; bar charts of the same series may have others before it
  std::vector<LineSeries> series;
};
std::string line_chart_svg(const LineChart& chart);

struct BarSeries {
  std::string name;
  std::vector<Measured> values;  ///< one a category
};

/// Bars side by side, grouped by category.
struct BarChart {
  std::string title;  ///< empty: none
  std::string y_label;
  std::vector<std::string> categories;
  std::vector<BarSeries> series;
};
std::string bar_chart_svg(const BarChart& chart);

}  // namespace windowkv::eval
