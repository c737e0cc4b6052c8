#!/usr/bin/env python3
"""Draws the README's figure from what `windowkv compare --out` and `windowkv bench --json` wrote. Needs matplotlib.

    scripts/readme-figure.py --results results.jsonl --bench bench.json -o docs/img/quality-memory.svg

Left: the mean score over the memory of the kept cache, a line for each method. Right: tokens generated a second over the
prompt's length, beside llama.cpp, from a bench with `--vs llama`.
"""
import argparse
import json
import math

import matplotlib

matplotlib.use("svg")
import fidelity_table  # noqa: E402, the script beside this one
import matplotlib.pyplot as plt  # noqa: E402

NAMES = {"windowkv": "windowkv", "windowkv:preset=paper": "WindowKV as published", "snapkv": "SnapKV",
         "chunkkv": "ChunkKV", "pyramidkv": "PyramidKV", "tova": "TOVA", "h2o": "H2O",
         "streaming-llm": "StreamingLLM", "random": "random"}
COLOURS = ["#d1495b", "#7a7a7a", "#00798c", "#edae49", "#30638e", "#66a182", "#8d6a9f", "#b08968", "#bbbbbb"]


def methods(paths):
    """Scores by method: [(kept MiB, score), ...], and the full cache's (MiB, score)."""
    samples, _ = fidelity_table.read(paths)
    lines, full = {}, None
    for policy in fidelity_table.unique(p for results in samples.values() for p in results):
        rows = [results[policy] for results in samples.values()]
        point = (fidelity_table.mean([r["kept_bytes"] for r in rows]) / 2**20, fidelity_table.mean([r["score"] for r in rows]))
        name, budget = fidelity_table.split(policy)
        if budget:
            lines.setdefault(name, []).append(point)
        else:
            full = point
    return {name: sorted(points) for name, points in lines.items()}, full


def quality(axis, paths, title):
    lines, (whole, full) = methods(paths)
    axis.axhline(full, color="#333333", linewidth=1, linestyle="--")
    axis.text(0.5, full, f"everything kept: {whole:.0f} MiB", va="bottom", fontsize=8, color="#333333")
    order = sorted(lines, key=lambda policy: list(NAMES).index(policy) if policy in NAMES else 99)
    for policy, colour in zip(order, COLOURS):
        xs, ys = zip(*lines[policy])
        bold = policy == "windowkv"
        axis.plot(xs, ys, marker="o", markersize=5 if bold else 3.5, linewidth=2.4 if bold else 1.2, color=colour,
                  label=NAMES.get(policy, policy), zorder=3 if bold else 2)
    axis.set_xlim(0, max(x for points in lines.values() for x, _ in points) * 1.12)
    axis.set_ylim(0, max(full, 1) * 1.15)
    axis.set_xlabel("KV cache kept, MiB")
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
    parser.add_argument("--results", required=True, nargs="+", help="what windowkv compare --out wrote")
    parser.add_argument("--bench", required=True, help="what windowkv bench --vs llama --json wrote")
    parser.add_argument("--results-title", default="RULER, 4,096 tokens")
    parser.add_argument("--bench-title", default="Speed on two cores")
    parser.add_argument("-o", "--out", required=True)
    args = parser.parse_args()
    with open(args.bench, encoding="utf-8") as file:
        bench = json.load(file)
    matplotlib.rcParams.update({"svg.hashsalt": "windowkv", "axes.spines.top": False, "axes.spines.right": False,
                                "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.35, 1))
    quality(left, args.results, args.results_title)
    speed(right, bench, args.bench_title)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
