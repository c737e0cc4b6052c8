#pragma once

#include <span>
#include <vector>

#include "eval/calibrate.h"

namespace windowkv::eval {

/// Relative budgets of the layers, mean 1, from what each prompt's KL was at kCalibrationFactors of the
/// budget.
///
/// Where a layer's KL falls by b whenever its budget doubles, the sum over the layers is smallest with
/// budgets in proportion to b. So a layer's share is its slope over log2 of the factors (least squares, mean
/// over the prompts) against the layers' mean, kept within the factors that were tried. What prompts do not
/// agree on counts less: a share is drawn towards 1 by the part that its variance (jackknife over the
/// prompts) has in all of the shares' variance.
std::vector<double> share_out(std::span<const LayerKl> by_prompt);

}  // namespace windowkv::eval
