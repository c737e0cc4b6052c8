#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "classify/linear_model.h"
#include "eval/task_rows.h"

namespace windowkv::eval {

struct TrainOptions {
  int epochs = 6;
  float rate = 0.3f;           ///< AdaGrad's first step; it falls to a tenth of it over the epochs
  float l2 = 1e-5f;            ///< pull towards zero, a step
  float feature_scale = 4.0f;  ///< length of a prompt's feature vector
  double template_share =
      0.6;  ///< a feature in this share of a source's rows belongs to its wording, not to contexts
  int template_sources = 2;  ///< sources whose wording must have a feature for it to be used
  uint32_t seed = 1;
  std::function<void(int64_t done, int64_t total)> progress;
  std::function<bool()> cancelled;  ///< asked now and then; true throws Cancelled
};

/// Logistic regression over the rows' features, by AdaGrad. A source weighs as the square root of its rows,
/// both tasks weigh the same. One thread; the same rows and options give the same bytes. Throws Error where a
/// task has no row.
LinearTaskModel train_task_model(std::span<const TaskRow> rows, const TrainOptions& options = {});

/// Makes the model's log odds honest on rows it was not trained on (Platt scaling: Platt 1999, without its
/// smoothed targets).
void calibrate(LinearTaskModel& model, std::span<const TaskRow> rows);

}  // namespace windowkv::eval
