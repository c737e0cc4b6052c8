#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace windowkv::test {

/// A BERT classifier of two layers with random weights, and a head whose weights are zero, so that its
/// outputs are `bias` for any text; with `head_deviation` the head's weights are random too.
struct TinyBert {
  std::vector<std::string> labels = {"localization", "aggregation"};
  std::vector<float> bias = {0, 0};
  float head_deviation = 0;
  bool head = true;
  std::string family = "bert";
};

/// Writes it into the temporary folder and returns its path.
std::string write_tiny_bert(std::string_view name, const TinyBert& model);

}  // namespace windowkv::test
