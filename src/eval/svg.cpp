#include "eval/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "support/utf8.h"

namespace windowkv::eval {

namespace {

constexpr double kFont = 12;  // px
constexpr double kTitleFont = 14;
constexpr double kPadding = 12;
constexpr double kTick = 5;

constexpr std::string_view kInk = "class=\"wkv-ink\"";
constexpr std::string_view kDim = "class=\"wkv-dim\"";
constexpr std::string_view kTitle = "class=\"wkv-ink wkv-title\"";

/// Classes rather than custom properties: viewers that are not browsers know classes. Every chart carries the
/// same rules, so that several in one page do not disturb each other.
constexpr std::string_view kStyle =
    "<style>"
    ".wkv{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}"
    ".wkv-paper{fill:#fff}.wkv-ink{fill:#1f2328}.wkv-dim{fill:#59636e}"
    ".wkv-title{font-size:14px;font-weight:600}"
    ".wkv-axis{stroke:#59636e;stroke-width:1;fill:none}.wkv-grid{stroke:#d1d9e0;stroke-width:1}"
    ".wkv-none{fill:#e6eaef}.wkv-whisker{stroke:#1f2328;stroke-width:1.2;fill:none}"
    "@media(prefers-color-scheme:dark){"
    ".wkv-paper{fill:#14181d}.wkv-ink{fill:#e6edf3}.wkv-dim{fill:#9198a1}"
    ".wkv-axis{stroke:#9198a1}.wkv-grid{stroke:#30363d}.wkv-none{fill:#262c33}.wkv-whisker{stroke:#e6edf3}"
    "}</style>";

size_t character_count(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(),
                                           [](char c) { return (static_cast<unsigned char>(c) >> 6) != 2; }));
}

/// About how wide text is; the fonts are the reader's, so this errs to the wide side.
double text_width(std::string_view text, double font = kFont) {
  const double em = font == kFont ? 0.58 : 0.66;  // titles are bold
  return em * font * static_cast<double>(character_count(text));
}

double widest(const std::vector<std::string>& texts) {
  double width = 0;
  for (const auto& text : texts) width = std::max(width, text_width(text));
  return width;
}

enum class Anchor { kStart, kMiddle, kEnd };

/// SVG elements, appended one by one. `look` is a class or a fill, written out as attributes; `tip` shows
/// under the mouse.
class Canvas {
 public:
  void text(double x, double y, std::string_view content, Anchor anchor = Anchor::kStart,
            std::string_view look = kInk, double turn = 0) {
    constexpr std::array<std::string_view, 3> anchors = {"start", "middle", "end"};
    const auto turned =
        turn == 0 ? "" : fmt::format(" transform=\"rotate({:.0f} {:.1f} {:.1f})\"", turn, x, y);
    body_ += fmt::format("<text {} x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", look, x, y,
                         anchors[static_cast<size_t>(anchor)], turned, escape_xml(content));
  }
  void rect(double x, double y, double width, double height, std::string_view look,
            std::string_view tip = {}) {
    body_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" {}", x, y, width,
                         height, look);
    end(tip, "rect");
  }
  void line(double x1, double y1, double x2, double y2, std::string_view look) {
    body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1, x2,
                         y2, look);
  }
  void path(const std::string& data, std::string_view look, std::string_view tip = {}) {
    body_ += fmt::format("<path d=\"{}\" {}", data, look);
    end(tip, "path");
  }

  std::string svg(double width, double height, std::string_view label) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"wkv\" role=\"img\" aria-label=\"{}\" "
        "width=\"{:.0f}\" "
        "height=\"{:.0f}\" viewBox=\"0 0 {:.0f} {:.0f}\">\n{}\n<rect class=\"wkv-paper\" width=\"100%\" "
        "height=\"100%\"/>\n{}</svg>\n",
        escape_xml(label), width, height, width, height, kStyle, body_);
  }

 private:
  void end(std::string_view tip, std::string_view element) {
    body_ += tip.empty() ? "/>\n" : fmt::format("><title>{}</title></{}>\n", escape_xml(tip), element);
  }

  std::string body_;
};

// Colours

struct Rgb {
  double r = 0, g = 0, b = 0;
};

/// Viridis: even steps of lightness, the same order to every kind of colour vision and in grey.
Rgb viridis(double share) {
  constexpr std::array<Rgb, 10> stops = {{{68, 1, 84},
                                          {72, 40, 120},
                                          {62, 73, 137},
                                          {49, 104, 142},
                                          {38, 130, 142},
                                          {31, 158, 137},
                                          {53, 183, 121},
                                          {110, 206, 88},
                                          {181, 222, 43},
                                          {253, 231, 37}}};
  const double at = std::clamp(share, 0.0, 1.0) * (stops.size() - 1);
  const auto below = std::min(static_cast<size_t>(at), stops.size() - 2);
  const double t = at - static_cast<double>(below);
  const auto& a = stops[below];
  const auto& b = stops[below + 1];
  return {std::lerp(a.r, b.r, t), std::lerp(a.g, b.g, t), std::lerp(a.b, b.b, t)};
}

std::string fill(const Rgb& c) {
  return fmt::format("fill=\"#{:02x}{:02x}{:02x}\"", static_cast<int>(std::lround(c.r)),
                     static_cast<int>(std::lround(c.g)), static_cast<int>(std::lround(c.b)));
}

/// White or black, whichever stands out more on the colour (WCAG's contrast).
std::string_view ink_on(const Rgb& c) {
  auto linear = [](double v) {
    v /= 255;
    return v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
  };
  const double luminance = 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b);
  return luminance > 0.179 ? "#000" : "#fff";
}

/// Okabe and Ito's palette less its black and its yellow, which one of the two backgrounds would swallow, and
/// four that both show.
std::string_view series_color(size_t i) {
  constexpr std::array<std::string_view, 10> colors = {"#808890", "#1f78c8", "#e69f00", "#009e73", "#d55e00",
                                                       "#cc79a7", "#56b4e9", "#a38f00", "#8b6fd0", "#9c5b45"};
  return colors[i % colors.size()];
}

/// A mark around a point; shapes differ so that colour is not all that tells series apart.
std::string marker(size_t i, double x, double y) {
  constexpr double r = 4.2;
  switch (i % 5) {
    case 0:
      return fmt::format("M{:.1f} {:.1f}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", x - r, y,
                         fmt::arg("r", r), fmt::arg("d", 2 * r));
    case 1:
      return fmt::format("M{:.1f} {:.1f}h{d}v{d}h-{d}z", x - 3.8, y - 3.8, fmt::arg("d", 7.6));
    case 2:
      return fmt::format("M{:.1f} {:.1f}l4.8 8.4h-9.6z", x, y - 5);
    case 3:
      return fmt::format("M{:.1f} {:.1f}l5 5l-5 5l-5 -5z", x, y - 5);
    default:
      return fmt::format("M{:.1f} {:.1f}l4.8 -8.4h-9.6z", x, y + 5);
  }
}

// Numbers and scales

/// At most three digits after the point, none that say nothing.
std::string number_text(double value) {
  auto text = fmt::format("{:.3f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string measured_text(const Measured& m) {
  return m.low == m.high
             ? number_text(m.value)
             : fmt::format("{} [{}, {}]", number_text(m.value), number_text(m.low), number_text(m.high));
}

/// Round numbers over a range: 1, 2 or 5 times a power of ten apart.
struct Ticks {
  double low = 0, high = 1, step = 1;

  Ticks(double min, double max, int about) {
    if (!(max > min)) max = min + std::max(1.0, std::abs(min));
    const double raw = (max - min) / about;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    for (double factor : {10.0, 5.0, 2.0, 1.0})
      if (factor * power >= raw * 0.999) step = factor * power;
    low = std::floor(min / step + 1e-9) * step;
    high = std::ceil(max / step - 1e-9) * step;
  }
  std::vector<double> values() const {
    std::vector<double> all;
    const auto count = std::lround((high - low) / step);
    for (long i = 0; i <= count; ++i) all.push_back(low + static_cast<double>(i) * step);
    return all;
  }
};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void add(const Measured& m) {
    for (double value : {m.value, m.low, m.high}) add(value);
  }
  bool empty() const { return low > high; }
};

/// The rectangle that data is drawn in, with y from the bottom up.
struct Plot {
  double left = 0, top = 0, width = 0, height = 0;
  Ticks y_ticks;

  double bottom() const { return top + height; }
  double right() const { return left + width; }
  double y(double value) const {
    return bottom() - height * (value - y_ticks.low) / (y_ticks.high - y_ticks.low);
  }
};

/// Left of the plot: the y axis's turned label and its numbers.
double axis_room(const Ticks& ticks) {
  std::vector<std::string> labels;
  for (double value : ticks.values()) labels.push_back(number_text(value));
  return kPadding + kFont + 8 + widest(labels) + 6;
}

void draw_y_axis(Canvas& canvas, const Plot& plot, std::string_view label) {
  for (double value : plot.y_ticks.values()) {
    const double y = plot.y(value);
    canvas.line(plot.left, y, plot.right(), y, "class=\"wkv-grid\"");
    canvas.text(plot.left - 6, y + 4, number_text(value), Anchor::kEnd, kDim);
  }
  canvas.text(kPadding + kFont - 2, plot.top + plot.height / 2, label, Anchor::kMiddle, kInk, -90);
}

void draw_error_bar(Canvas& canvas, const Plot& plot, double x, const Measured& m, std::string_view look) {
  if (!(m.low < m.high)) return;
  canvas.path(fmt::format("M{0:.1f} {2:.1f}H{1:.1f}M{0:.1f} {3:.1f}H{1:.1f}M{4:.1f} {2:.1f}V{3:.1f}", x - 3,
                          x + 3, plot.y(m.low), plot.y(m.high), x),
              look);
}

/// Names in rows beneath the title, `draw_key` beside each; returns the height taken.
template <typename DrawKey>
double draw_legend(Canvas& canvas, const std::vector<std::string>& names, double left, double top,
                   double right, DrawKey draw_key) {
  double x = left, y = top + kFont;
  for (size_t i = 0; i < names.size(); ++i) {
    const double width = 28 + text_width(names[i]) + 14;
    if (x > left && x + width > right) {
      x = left;
      y += 20;
    }
    draw_key(i, x, y - 4);
    canvas.text(x + 28, y, names[i]);
    x += width;
  }
  return names.empty() ? 0 : y - top + 14;
}

double draw_title(Canvas& canvas, const std::string& title) {
  if (title.empty()) return kPadding;
  canvas.text(kPadding, kPadding + kTitleFont, title, Anchor::kStart, kTitle);
  return kPadding + kTitleFont + 14;
}

template <typename Series>
std::vector<std::string> names_of(const std::vector<Series>& series) {
  std::vector<std::string> names;
  names.reserve(series.size());
  for (const auto& s : series) names.push_back(s.name);
  return names;
}

// Heatmaps

/// Sizes that all panels of a heatmap share.
struct PanelLayout {
  double cell_width = 0, cell_height = 0;
  double left = 0;    ///< of the grid within the panel: row names
  double top = 0;     ///< titles
  double bottom = 0;  ///< column names and label
  double width = 0, height = 0;
  bool turned = false;  ///< column names do not fit side by side

  explicit PanelLayout(const Heatmap& figure) {
    const auto columns = static_cast<double>(std::max<size_t>(1, figure.columns.size()));
    const auto rows = static_cast<double>(std::max<size_t>(1, figure.rows.size()));
    // A few panels are drawn larger than many.
    cell_width = std::clamp(std::floor(460 / columns), 16.0, figure.panels.size() > 3 ? 38.0 : 64.0);
    cell_height = std::clamp(std::floor(300 / rows), 14.0, 34.0);
    const double name_width = widest(figure.columns);
    turned = name_width + 6 > cell_width;
    left = kFont + 10 + widest(figure.rows) + 8;
    const bool subtitles = std::any_of(figure.panels.begin(), figure.panels.end(),
                                       [](const auto& panel) { return !panel.subtitle.empty(); });
    top = kTitleFont + 12 + (subtitles ? kFont + 5 : 0);
    bottom = (turned ? 0.71 * name_width + 16 : 18) + kFont + 10;
    double title_width = 0;
    for (const auto& panel : figure.panels)
      title_width = std::max({title_width, text_width(panel.title, kTitleFont), text_width(panel.subtitle)});
    // A turned first name reaches to the left of its column.
    width = std::max(left + columns * cell_width + (turned ? 4 : 12), title_width + 8);
    height = top + rows * cell_height + bottom;
  }
};

std::string cell_text(double value) {
  return std::isnan(value) ? "–" : fmt::format("{:.0f}", value);
}

void draw_cell(Canvas& canvas, const Heatmap& figure, const PanelLayout& layout, double x, double y,
               double value, const std::string& tip) {
  // Half a pixel of background between cells keeps neighbours of one colour apart.
  const bool measured = !std::isnan(value);
  const auto color = measured ? viridis((value - figure.low) / (figure.high - figure.low)) : Rgb{};
  canvas.rect(x + 0.5, y + 0.5, layout.cell_width - 1, layout.cell_height - 1,
              measured ? fill(color) : "class=\"wkv-none\"", tip);
  if (layout.cell_width < text_width("100") + 3) return;
  const double middle = x + layout.cell_width / 2, baseline = y + layout.cell_height / 2 + 4;
  if (measured) {
    canvas.text(middle, baseline, cell_text(value), Anchor::kMiddle,
                fmt::format("fill=\"{}\"", ink_on(color)));
  } else {
    canvas.text(middle, baseline, cell_text(value), Anchor::kMiddle, kDim);
  }
}

void draw_panel(Canvas& canvas, const Heatmap& figure, const HeatmapPanel& panel, const PanelLayout& layout,
                double x0, double y0) {
  const double left = x0 + layout.left, top = y0 + layout.top;
  const double grid_width = static_cast<double>(figure.columns.size()) * layout.cell_width;
  const double grid_height = static_cast<double>(figure.rows.size()) * layout.cell_height;
  canvas.text(x0, y0 + kTitleFont, panel.title, Anchor::kStart, kTitle);
  if (!panel.subtitle.empty())
    canvas.text(x0, y0 + kTitleFont + 5 + kFont, panel.subtitle, Anchor::kStart, kDim);
  for (size_t r = 0; r < figure.rows.size(); ++r) {
    const double y = top + static_cast<double>(r) * layout.cell_height;
    canvas.text(left - 6, y + layout.cell_height / 2 + 4, figure.rows[r], Anchor::kEnd, kDim);
    for (size_t c = 0; c < figure.columns.size(); ++c) {
      const double value = panel.values.at(r).at(c);
      draw_cell(
          canvas, figure, layout, left + static_cast<double>(c) * layout.cell_width, y, value,
          fmt::format("{} {}, {} {}: {}", figure.x_label, figure.columns[c], figure.y_label, figure.rows[r],
                      std::isnan(value) ? "not measured" : fmt::format("{:.1f}", value)));
    }
  }
  for (size_t c = 0; c < figure.columns.size(); ++c) {
    const double x = left + (static_cast<double>(c) + 0.5) * layout.cell_width, y = top + grid_height + 15;
    if (layout.turned)
      canvas.text(x + 4, y, figure.columns[c], Anchor::kEnd, kDim, -45);
    else
      canvas.text(x, y, figure.columns[c], Anchor::kMiddle, kDim);
  }
  canvas.text(left + grid_width / 2, y0 + layout.height - 4, figure.x_label, Anchor::kMiddle);
  canvas.text(x0 + kFont, top + grid_height / 2, figure.y_label, Anchor::kMiddle, kInk, -90);
}

constexpr double kScaleWidth = 200, kScaleHeight = 12;

double scale_width(const Heatmap& figure) {
  return text_width(figure.scale_label) + 14 + text_width(number_text(figure.low)) + 8 + kScaleWidth + 8 +
         text_width(number_text(figure.high));
}

/// The colour scale between its two numbers. Strips instead of a gradient: gradients need ids, which clash
/// between the charts of one page.
void draw_scale(Canvas& canvas, const Heatmap& figure, double x, double y) {
  canvas.text(x, y + 10, figure.scale_label);
  x += text_width(figure.scale_label) + 14;
  canvas.text(x, y + 10, number_text(figure.low), Anchor::kStart, kDim);
  x += text_width(number_text(figure.low)) + 8;
  constexpr int kStrips = 50;
  for (int i = 0; i < kStrips; ++i) {
    const double strip = kScaleWidth / kStrips;
    // Overlapping, so that no seams show.
    canvas.rect(x + i * strip, y, i + 1 < kStrips ? strip + 1 : strip, kScaleHeight,
                fill(viridis((i + 0.5) / kStrips)));
  }
  canvas.text(x + kScaleWidth + 8, y + 10, number_text(figure.high), Anchor::kStart, kDim);
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bad = std::min(utf8_first_error(text), text.size());
    for (char c : text.substr(0, bad)) {
      switch (c) {
        case '&':
          out += "&amp;";
          break;
        case '<':
          out += "&lt;";
          break;
        case '>':
          out += "&gt;";
          break;
        case '"':
          out += "&quot;";
          break;
        case '\'':
          out += "&#39;";
          break;
        default: {
          const auto byte = static_cast<unsigned char>(c);
          const bool allowed = byte >= 0x20 || c == '\n' || c == '\t' || c == '\r';
          out += allowed ? std::string_view(&c, 1) : std::string_view("\uFFFD");
        }
      }
    }
    if (bad == text.size()) break;
    out += "\uFFFD";
    text.remove_prefix(bad + 1);
  }
  return out;
}

std::string heatmap_svg(const Heatmap& figure) {
  Canvas canvas;
  const PanelLayout layout(figure);
  constexpr double kMostWidth = 1240, kGap = 28;
  const auto fitting = static_cast<size_t>(
      std::max(1.0, std::floor((kMostWidth - 2 * kPadding + kGap) / (layout.width + kGap))));
  std::vector<std::pair<size_t, size_t>> places;  // row and column, by panel
  size_t across = 1;
  for (const auto& panel : figure.panels) {
    if (places.empty()) {
      places.emplace_back(0, 0);
      continue;
    }
    const auto [row, column] = places.back();
    if (panel.new_row || column + 1 == fitting)
      places.emplace_back(row + 1, 0);
    else
      places.emplace_back(row, column + 1);
    across = std::max(across, places.back().second + 1);
  }
  const size_t down = places.empty() ? 0 : places.back().first + 1;

  const double top = draw_title(canvas, figure.title);
  for (size_t i = 0; i < figure.panels.size(); ++i) {
    const auto [row, column] = places[i];
    draw_panel(canvas, figure, figure.panels[i], layout,
               kPadding + static_cast<double>(column) * (layout.width + kGap),
               top + static_cast<double>(row) * (layout.height + kGap));
  }
  const double panels_bottom = top + static_cast<double>(down) * (layout.height + kGap) - kGap;
  draw_scale(canvas, figure, kPadding + layout.left, panels_bottom + 18);
  const double panels_width = static_cast<double>(across) * (layout.width + kGap) - kGap;
  const double width = 2 * kPadding + std::max({panels_width, layout.left + scale_width(figure),
                                                text_width(figure.title, kTitleFont)});
  return canvas.svg(width, panels_bottom + 18 + kScaleHeight + kPadding,
                    figure.title.empty() ? "heatmap" : figure.title);
}

std::string line_chart_svg(const LineChart& chart) {
  Canvas canvas;
  Range xs, ys;
  for (const auto& s : chart.series)
    for (const auto& p : s.points) {
      if (!std::isfinite(p.y.value)) continue;
      xs.add(p.x);
      ys.add(p.y);
    }
  if (xs.empty()) xs = {0, 1};
  if (ys.empty()) ys = {0, 1};
  constexpr double kWidth = 720, kHeight = 300;
  const auto color = [&](size_t i) { return series_color(chart.first_color + i); };
  Plot plot{.top = 0, .height = kHeight, .y_ticks = Ticks(ys.low, ys.high, 6)};
  plot.left = axis_room(plot.y_ticks);
  plot.width = kWidth - plot.left - kPadding - 8;
  plot.top = draw_title(canvas, chart.title);
  auto key = [&](size_t i, double x, double y) {
    const auto stroke = fmt::format("stroke=\"{}\" stroke-width=\"2\"", color(i));
    canvas.line(x, y, x + 22, y, stroke);
    canvas.path(marker(i, x + 11, y), fmt::format("fill=\"{}\"", color(i)));
  };
  plot.top += draw_legend(canvas, names_of(chart.series), plot.left, plot.top, plot.right(), key);

  // x ticks at round numbers, or on a logarithmic axis at the points themselves.
  std::vector<double> x_ticks;
  double x_low = xs.low, x_high = xs.high;
  if (chart.log_x) {
    for (const auto& s : chart.series)
      for (const auto& p : s.points) x_ticks.push_back(p.x);
    std::sort(x_ticks.begin(), x_ticks.end());
    x_ticks.erase(std::unique(x_ticks.begin(), x_ticks.end()), x_ticks.end());
    if (x_low == x_high) x_high = 2 * x_low;
  } else {
    const Ticks ticks(xs.low, xs.high, 8);
    x_ticks = ticks.values();
    x_low = ticks.low;
    x_high = ticks.high;
  }
  auto x_of = [&](double x) {
    const double share =
        chart.log_x ? std::log(x / x_low) / std::log(x_high / x_low) : (x - x_low) / (x_high - x_low);
    return plot.left + 8 + (plot.width - 16) * share;
  };
  draw_y_axis(canvas, plot, chart.y_label);
  canvas.line(plot.left, plot.bottom(), plot.right(), plot.bottom(), "class=\"wkv-axis\"");
  double taken = -1e9;  // right end of the last tick name
  for (double value : x_ticks) {
    const double x = x_of(value), half = text_width(number_text(value)) / 2;
    canvas.line(x, plot.bottom(), x, plot.bottom() + kTick, "class=\"wkv-axis\"");
    if (x - half < taken + 6) continue;
    taken = x + half;
    canvas.text(x, plot.bottom() + 18, number_text(value), Anchor::kMiddle, kDim);
  }
  canvas.text(plot.left + plot.width / 2, plot.bottom() + 38, chart.x_label, Anchor::kMiddle);

  for (size_t i = 0; i < chart.series.size(); ++i) {
    std::string data;
    bool pen_down = false;
    for (const auto& p : chart.series[i].points) {
      const bool there = std::isfinite(p.y.value);
      if (there) data += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x_of(p.x), plot.y(p.y.value));
      pen_down = there;
    }
    if (!data.empty())
      canvas.path(data, fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}", color(i),
                                    i < 10 ? "" : " stroke-dasharray=\"5 3\""));
  }
  for (size_t i = 0; i < chart.series.size(); ++i)
    for (const auto& p : chart.series[i].points) {
      if (!std::isfinite(p.y.value)) continue;
      draw_error_bar(canvas, plot, x_of(p.x), p.y,
                     fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"1.2\"", color(i)));
      canvas.path(marker(i, x_of(p.x), plot.y(p.y.value)), fmt::format("fill=\"{}\"", color(i)),
                  fmt::format("{}, {}: {}", chart.series[i].name, number_text(p.x), measured_text(p.y)));
    }
  return canvas.svg(kWidth, plot.bottom() + 38 + kPadding, chart.title.empty() ? "line chart" : chart.title);
}

std::string bar_chart_svg(const BarChart& chart) {
  constexpr double kTurnCos = 0.77, kTurnSin = 0.64;  // of the 40 degrees that long names are turned by
  Canvas canvas;
  Range ys;
  ys.add(0.0);
  for (const auto& s : chart.series)
    for (const auto& m : s.values) ys.add(m);
  if (ys.low == ys.high) ys.high = 1;
  const auto n_series = static_cast<double>(std::max<size_t>(1, chart.series.size()));
  const auto n_categories = static_cast<double>(std::max<size_t>(1, chart.categories.size()));
  const double bar = std::clamp(std::floor((1000 / n_categories - 16) / n_series), 6.0, 26.0);
  const double group = bar * n_series + 16;

  Plot plot{.height = 280, .y_ticks = Ticks(ys.low, ys.high, 6)};
  plot.width = std::max(300.0, group * n_categories);
  // Few categories: the groups spread over the width.
  const double pitch = plot.width / n_categories;
  const double name_width = widest(chart.categories);
  const bool turned = name_width + 8 > pitch;
  // A turned first name reaches to the left of its group.
  const double overhang = turned ? kTurnCos * name_width - pitch / 2 + kPadding : 0;
  plot.left = std::max(axis_room(plot.y_ticks), overhang);
  plot.top = draw_title(canvas, chart.title);
  auto key = [&](size_t i, double x, double y) {
    canvas.rect(x + 8, y - 6, 14, 12, fmt::format("fill=\"{}\"", series_color(i)));
  };
  const double right = std::max(plot.right(), plot.left + 500);
  plot.top += draw_legend(canvas, names_of(chart.series), plot.left, plot.top, right, key);
  draw_y_axis(canvas, plot, chart.y_label);

  for (size_t c = 0; c < chart.categories.size(); ++c) {
    const double middle = plot.left + (static_cast<double>(c) + 0.5) * pitch;
    const double left = middle - bar * n_series / 2;
    for (size_t i = 0; i < chart.series.size(); ++i) {
      const auto& m = chart.series[i].values.at(c);
      if (!std::isfinite(m.value)) continue;
      const double x = left + static_cast<double>(i) * bar;
      const double y = plot.y(std::max(0.0, m.value)), y_end = plot.y(std::min(0.0, m.value));
      canvas.rect(x + 0.5, y, bar - 1, y_end - y, fmt::format("fill=\"{}\"", series_color(i)),
                  fmt::format("{}, {}: {}", chart.categories[c], chart.series[i].name, measured_text(m)));
      draw_error_bar(canvas, plot, x + bar / 2, m, "class=\"wkv-whisker\"");
    }
    if (turned)
      canvas.text(middle + 4, plot.bottom() + 16, chart.categories[c], Anchor::kEnd, kInk, -40);
    else
      canvas.text(middle, plot.bottom() + 18, chart.categories[c], Anchor::kMiddle);
  }
  canvas.line(plot.left, plot.y(0), plot.right(), plot.y(0), "class=\"wkv-axis\"");
  const double names_height = turned ? kTurnSin * name_width + 24 : 24;
  return canvas.svg(std::max({right, text_width(chart.title, kTitleFont) + kPadding}) + kPadding,
                    plot.bottom() + names_height + kPadding, chart.title.empty() ? "bar chart" : chart.title);
}

}  // namespace windowkv::eval
