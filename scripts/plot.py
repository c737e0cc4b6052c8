#!/usr/bin/env python3
"""Draws what `windowkv niah`, `compare` and `ruler` write with --json.

    windowkv niah -m model.gguf -l 1k,2k,4k --policies full,windowkv,snapkv --json niah.json
    scripts/plot.py niah.json -o niah.svg

niah: a heatmap for each policy, depth by length. compare: the score (with --follow: the KL divergence) against the KV
cache kept, and by dataset. ruler: the score by length. Error bars are 95 % bootstrap intervals. The suffix of -o is the
format: svg, png or pdf. Needs matplotlib (Debian: python3-matplotlib).
"""
import argparse
import json
import math
import sys


def policy_of(contender):
    """Without the budget, which stands behind it where several were run."""
    return contender["policy"].removesuffix(" " + contender["budget"])


def name_of(contender):
    policy = policy_of(contender)
    return policy if policy == "full" else f"{policy} {contender['budget']}"


def error_bars(estimates):
    return [[e["mean"] - e["low"] for e in estimates], [e["high"] - e["mean"] for e in estimates]]


def draw_heatmaps(plt, result):
    contenders = result["contenders"]
    columns = min(4, len(contenders))
    rows = math.ceil(len(contenders) / columns)
    figure, axes = plt.subplots(rows, columns, squeeze=False, layout="constrained",
                                figsize=(1.5 + 2.6 * columns, 0.8 + 2.4 * rows))
    for panel in axes.flat[len(contenders):]:
        panel.axis("off")
    for panel, contender in zip(axes.flat, contenders):
        values = [[math.nan if v is None else v for v in line] for line in contender["rouge1_by_depth_and_length"]]
        image = panel.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        panel.set_title(f"{name_of(contender)}: {contender['rouge1']['mean']:.1f}", fontsize=10)
        panel.set_xticks(range(len(result["lengths"])), result["lengths"], rotation=45)
        panel.set_yticks(range(len(result["depths"])), [f"{d:g} %" for d in result["depths"]])
    figure.supxlabel("prompt length, tokens")
    figure.supylabel("depth of the needle")
    figure.colorbar(image, ax=axes, label="ROUGE-1 F1")
    return figure


def draw_compare(plt, result):
    contenders = result["contenders"]
    if len(contenders) < 2:
        sys.exit("plot: only the full cache was run; there is nothing to compare it with")
    # With --follow only the full cache has a score.
    score, by_dataset, label = (
        (lambda c: c["overall"], "datasets", "score") if all("overall" in c for c in contenders)
        else (lambda c: c["intervals"]["mean_kl"], "kl_by_dataset", "KL divergence from the full cache, nats"))
    datasets = sorted(contenders[0][by_dataset])
    figure, (lines, bars) = plt.subplots(2, 1, layout="constrained",
                                         figsize=(max(7, 1.2 * len(datasets) + 3), 8))
    full, others = contenders[0], contenders[1:]
    lines.axhline(score(full)["mean"], color="black", linestyle="--", label="full cache")
    for policy in dict.fromkeys(policy_of(c) for c in others):
        points = sorted((c for c in others if policy_of(c) == policy), key=lambda c: c["kept_share"])
        estimates = [score(c) for c in points]
        lines.errorbar([100 * c["kept_share"] for c in points], [e["mean"] for e in estimates],
                       yerr=error_bars(estimates), marker="o", capsize=3, label=policy)
    lines.set_xlabel("KV cache kept, %")
    lines.set_ylabel(label)
    lines.legend(fontsize=8)
    width = 0.8 / len(contenders)
    for i, contender in enumerate(contenders):
        estimates = [contender[by_dataset].get(d, {"mean": math.nan, "low": math.nan, "high": math.nan})
                     for d in datasets]
        bars.bar([x + i * width for x in range(len(datasets))], [e["mean"] for e in estimates], width,
                 yerr=error_bars(estimates), label=name_of(contender))
    bars.set_xticks([x + 0.4 - width / 2 for x in range(len(datasets))], datasets, rotation=30, ha="right")
    bars.set_ylabel(label)
    bars.legend(fontsize=8, ncols=2)
    return figure


def draw_ruler(plt, result):
    figure, axes = plt.subplots(layout="constrained", figsize=(7, 4.5))
    for policy in dict.fromkeys(a["policy"] for a in result["averages"]):
        points = sorted((a for a in result["averages"] if a["policy"] == policy), key=lambda a: a["length"])
        axes.plot([a["length"] for a in points], [a["score"] for a in points], marker="o", label=policy)
    axes.set_xscale("log", base=2)
    lengths = sorted({a["length"] for a in result["averages"]})
    axes.set_xticks(lengths, lengths)
    axes.set_ylim(0, 102)
    axes.set_xlabel("length, tokens")
    axes.set_ylabel("RULER score")
    axes.legend(fontsize=8)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="file that windowkv wrote with --json")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="figure to write: .svg, .png or .pdf")
    args = parser.parse_args()
    try:
        with open(args.results, encoding="utf-8") as file:
            result = json.load(file)
    except (OSError, ValueError) as e:
        sys.exit(f"plot: {args.results}: {e}")
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot: needs matplotlib (Debian: apt-get install python3-matplotlib; or pip install matplotlib)")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if "lengths" in result and "contenders" in result:
        figure = draw_heatmaps(plt, result)
    elif "contenders" in result:
        figure = draw_compare(plt, result)
    elif "averages" in result:
        figure = draw_ruler(plt, result)
    else:
        sys.exit(f"plot: {args.results}: not written by windowkv niah, compare or ruler with --json")
    try:
        figure.savefig(args.out)
    except (OSError, ValueError) as e:
        sys.exit(f"plot: {args.out}: {e}")


if __name__ == "__main__":
    main()
