#!/usr/bin/env python3
"""Prints Markdown tables from the results files (--out) of windowkv compare, as docs/fidelity.md has them.

    scripts/fidelity_table.py results.jsonl                       # policies by budget: score, its interval, KL
    scripts/fidelity_table.py results.jsonl --by-dataset 12%      # the scores of each dataset at one budget

Samples that not every policy has been run on are left out, so an unfinished run gives a table too. Several files are
read as one. Intervals are 95 % percentile bootstraps over the samples (2,000 draws).
"""
import argparse
import json
import random
import sys


def read(paths):
    """{(dataset, _id): {policy with its budget: result}} of the samples that every policy has."""
    samples = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):  # a line that is being written does not count
                    row = json.loads(line)
                    samples.setdefault((row["dataset"], row["_id"]), {})[row["policy"]] = row
    every = {policy for results in samples.values() for policy in results}
    whole = {key: results for key, results in samples.items() if results.keys() == every}
    return whole, len(samples) - len(whole)


def mean(values):
    return sum(values) / len(values)


def interval(values):
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(2000))
    return means[50], means[1949]


def split(policy):
    """"snapkv 12%" is ("snapkv", "12%"); "full" has no budget."""
    name, _, budget = policy.partition(" ")
    return name, budget


def unique(values):
    return list(dict.fromkeys(values))


def measure_of(samples):
    """What results are judged by, and its name: the score, or where some have none (--follow) the top-1 agreement."""
    if all("score" in r for results in samples.values() for r in results.values()):
        return "score", lambda result: result["score"]
    return "top-1", lambda result: 100 * result["top1_agreement"]


def estimate(values):
    low, high = interval(values)
    return f"{mean(values):.1f} [{low:.1f}, {high:.1f}]"


def by_budget(samples, policies):
    names = unique(split(p)[0] for p in policies if split(p)[1])
    budgets = unique(split(p)[1] for p in policies if split(p)[1])
    measure, value = measure_of(samples)
    heads = [f"{b}: {measure} | KL" for b in budgets]
    lines = ["| policy | " + " | ".join(heads) + " |", "|--|" + "--:|--:|" * len(budgets)]

    def cells(policy):
        if policy not in policies:
            return "| "
        rows = [results[policy] for results in samples.values()]
        kl = mean([r["mean_kl"] for r in rows if r["steps"] > 0] or [0.0])
        return f"{estimate([value(r) for r in rows])} | {kl:.3f}"

    if measure == "score":
        full = estimate([value(results["full"]) for results in samples.values()])
        lines.append(f"| full | {full} | |" + " | |" * (len(budgets) - 1))
    for name in names:
        lines.append(f"| {name} | " + " | ".join(cells(f"{name} {b}") for b in budgets) + " |")
    return lines


def by_dataset(samples, policies, budget):
    _, value = measure_of(samples)
    chosen = ["full"] + [p for p in policies if split(p)[1] == budget]
    lines = ["| dataset (samples) | " + " | ".join(split(p)[0] for p in chosen) + " |", "|--|" + "--:|" * len(chosen)]
    for dataset in unique(d for d, _ in samples):
        rows = [r for (d, _), r in samples.items() if d == dataset]
        lines.append(f"| {dataset} ({len(rows)}) | " + " | ".join(f"{mean([value(r[p]) for r in rows]):.1f}" for p in chosen) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="FILE")
    parser.add_argument("--by-dataset", metavar="BUDGET", help="a row for each dataset, at this budget")
    parser.add_argument("--datasets", metavar="NAME,...", help="only these")
    args = parser.parse_args()
    try:
        samples, left_out = read(args.results)
    except (OSError, ValueError, KeyError) as e:
        sys.exit(f"fidelity_table: error: {e}")
    if args.datasets:
        samples = {k: r for k, r in samples.items() if k[0] in args.datasets.split(",")}
    if not samples:
        sys.exit("fidelity_table: error: no sample has been run with every policy")
    policies = unique(p for results in samples.values() for p in results)
    print("\n".join(by_dataset(samples, policies, args.by_dataset) if args.by_dataset else by_budget(samples, policies)))
    print(f"\n{len(samples)} samples" + (f"; {left_out} left out, not run with every policy" if left_out else ""))


if __name__ == "__main__":
    main()
