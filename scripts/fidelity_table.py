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


def by_budget(samples, policies, follow):
    names = unique(split(p)[0] for p in policies if split(p)[1])
    budgets = unique(split(p)[1] for p in policies if split(p)[1])
    heads = [f"{b}: {'top-1' if follow else 'score'} | KL" for b in budgets]
    lines = ["| policy | " + " | ".join(heads) + " |", "|--|" + "--:|--:|" * len(budgets)]

    def cells(policy):
        rows = [results[policy] for results in samples.values() if policy in results]
        if not rows:
            return "| "
        values = [100 * r["top1_agreement"] if follow else r["score"] for r in rows]
        low, high = interval(values)
        kl = mean([r["mean_kl"] for r in rows if r["steps"] > 0] or [0.0])
        return f"{mean(values):.1f} [{low:.1f}, {high:.1f}] | {kl:.3f}"

    if not follow:
        low, high = interval([r["full"]["score"] for r in samples.values()])
        lines.append(f"| full | {mean([r['full']['score'] for r in samples.values()]):.1f} [{low:.1f}, {high:.1f}] | |" +
                     " | |" * (len(budgets) - 1))
    for name in names:
        lines.append(f"| {name} | " + " | ".join(cells(f"{name} {b}") for b in budgets) + " |")
    return lines


def by_dataset(samples, policies, budget):
    chosen = ["full"] + [p for p in policies if split(p)[1] == budget]
    datasets = unique(d for d, _ in samples)
    lines = ["| dataset (samples) | " + " | ".join(split(p)[0] for p in chosen) + " |", "|--|" + "--:|" * len(chosen)]
    for dataset in datasets:
        rows = [r for (d, _), r in samples.items() if d == dataset]
        lines.append(f"| {dataset} ({len(rows)}) | " + " | ".join(f"{mean([r[p]['score'] for r in rows]):.1f}" for p in chosen) + " |")
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
    follow = any("score" not in r for results in samples.values() for r in results.values())
    print("\n".join(by_dataset(samples, policies, args.by_dataset) if args.by_dataset else by_budget(samples, policies, follow)))
    print(f"\n{len(samples)} samples" + (f"; {left_out} left out, not run with every policy" if left_out else ""))


if __name__ == "__main__":
    main()
