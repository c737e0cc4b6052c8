#!/usr/bin/env python3
"""Draws the README's figure from results of `windowkv ruler --json` and `windowkv bench --json`. Needs matplotlib.

    scripts/readme-figure.py --ruler ruler.json --bench bench.json -o docs/img/quality-memory.svg

Left: RULER's score over the share of the KV cache that is kept, a line for each method. Right: tokens generated a second
over the prompt's length, beside llama.cpp, from a bench with `--vs llama`.
"""
import argparse
import json
import math

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

NAMES = {"windowkv": "windowkv", "windowkv:preset=paper": "WindowKV as published", "snapkv": "SnapKV",
         "chunkkv": "ChunkKV", "pyramidkv": "PyramidKV", "tova": "TOVA", "h2o": "H2O",
         "streaming-llm": "StreamingLLM", "random": "random"}
COLOURS = ["#d1495b", "#7a7a7a", "#00798c", "#edae49", "#30638e", "#66a182", "#8d6a9f", "#b08968", "#bbbbbb"]


def methods(ruler):
    """Scores by method: [(kept per cent, score), ...], and the full cache's score."""
    lines, full = {}, None
    for entry in ruler["averages"]:
        policy, _, budget = entry["policy"].rpartition(" ")
        if not budget or entry["policy"] == "full":
            full = entry["score"]
        else:
            lines.setdefault(policy, []).append((100 * entry["kept_share"], entry["score"]))
    return {policy: sorted(points) for policy, points in lines.items()}, full


def quality(axis, ruler, title):
    lines, full = methods(ruler)
    axis.axhline(full, color="#333333", linewidth=1, linestyle="--")
    axis.text(0.5, full, "everything kept", va="bottom", fontsize=8, color="#333333")
    order = sorted(lines, key=lambda policy: list(NAMES).index(policy) if policy in NAMES else 99)
    for policy, colour in zip(order, COLOURS):
        xs, ys = zip(*lines[policy])
        bold = policy == "windowkv"
        axis.plot(xs, ys, marker="o", markersize=5 if bold else 3.5, linewidth=2.4 if bold else 1.2, color=colour,
                  label=NAMES.get(policy, policy), zorder=3 if bold else 2)
    axis.set_xlim(0, max(x for points in lines.values() for x, _ in points) * 1.12)
    axis.set_ylim(0, max(full, 1) * 1.15)
    axis.set_xlabel("KV cache kept, per cent")
    axis.set_ylabel("score (0 to 100)")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=7.5, frameon=False, loc="lower right")


def speed(axis, bench, title):
    ours, theirs = {}, {}
    for cell in bench["results"]:
        if cell["budget"] == "full":
            continue
        ours[cell["prompt_tokens"]] = cell["decode"][0]["tokens_per_second"]
        for rival in cell.get("llama", [])[:1]:
            theirs[cell["prompt_tokens"]] = rival["llama_tokens_per_second"]
    for speeds, name, colour in ((ours, "windowkv, 12 % kept", "#d1495b"), (theirs, "llama.cpp, everything", "#333333")):
        xs = sorted(speeds)
        ys = [speeds[x] if not isinstance(speeds[x], list) else sorted(speeds[x])[len(speeds[x]) // 2] for x in xs]
        axis.plot(xs, ys, marker="o", color=colour, linewidth=2, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ours), [f"{n // 1024}k" if n >= 1024 else str(n) for n in sorted(ours)])
    axis.set_ylim(0, math.ceil(max(max(map(float, v if isinstance(v, list) else [v])) for v in ours.values()) * 1.2))
    axis.set_xlabel("prompt, tokens")
    axis.set_ylabel("tokens generated a second")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="lower left")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ruler", required=True, help="what windowkv ruler --json wrote")
    parser.add_argument("--bench", required=True, help="what windowkv bench --vs llama --json wrote")
    parser.add_argument("--ruler-title", default="RULER, 4,096 tokens")
    parser.add_argument("--bench-title", default="Speed on two cores")
    parser.add_argument("-o", "--out", required=True)
    args = parser.parse_args()
    with open(args.ruler, encoding="utf-8") as file:
        ruler = json.load(file)
    with open(args.bench, encoding="utf-8") as file:
        bench = json.load(file)
    matplotlib.rcParams.update({"svg.hashsalt": "windowkv", "axes.spines.top": False, "axes.spines.right": False,
                                "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.35, 1))
    quality(left, ruler, args.ruler_title)
    speed(right, bench, args.bench_title)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
