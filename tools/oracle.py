#!/usr/bin/env python3
"""WindowKV budgets and window selection in plain Python, as an answer key for tests.

Follows the method (arXiv 2503.17922, and the released code for preset "reference") literally, with loops and no
dependencies, apart from the C++. One JSON case in, its answer out:

  oracle.py answer CASE.json          print the answer for one case (see `make` for the fields)
  oracle.py make --seed S --count N   print N random cases with their answers, as one JSON list
  oracle.py check FILE.json           recompute every case of a file and compare

Case fields: n, heads, kv_heads, dim, layers, gamma, lambda, omega, alpha, p, budget, preset ("default"|"reference"),
pyramid ("code"|"paper"|"flat"), q (heads x alpha x dim, of each group's first layer), k (kv_heads x n x dim, likewise).
Answer fields: budgets (review tokens a layer, by group), scores (by group, by window), windows (kept window numbers,
ascending), tokens (kept token positions, the observation window included).
"""
import argparse
import json
import math
import random
import sys


def group_count(layers, gamma):
    return math.ceil(layers / gamma)


def budgets(c):
    """Review tokens a layer of each group; the groups' shares of an arithmetic sequence with mean b."""
    h = group_count(c["layers"], c["gamma"])
    review = c["n"] - c["alpha"]
    b = c["budget"] - (0 if c["preset"] == "reference" else c["alpha"])
    b = max(0, b)
    if h == 1 or c["pyramid"] == "flat":
        out = [b] * h
    else:
        last = b * c["gamma"] // c["lambda"] if c["pyramid"] == "code" else b // c["lambda"]
        last = min(last, b)
        first = 2 * b - last
        if c["preset"] == "reference":
            step = (first - last) // (h - 1)
            out = [first - i * step for i in range(h - 1)] + [last]
        else:
            out = [(first * (h - 1 - i) + last * i) // (h - 1) for i in range(h)]
    if c["preset"] != "reference":
        size = [min(c["gamma"], c["layers"] - i * c["gamma"]) for i in range(h)]     # the last group may be shorter
        total, limit = sum(x * y for x, y in zip(out, size)), b * c["layers"]
        if total > limit:
            out = [x * limit // total for x in out]
        spare = 0                   # token-layers that a group cannot use go to the groups above it
        for i in range(h):
            out[i] += spare // size[i]
            spare %= size[i]
            over = max(0, out[i] - review)
            out[i] -= over
            spare += over * size[i]
    return out


def attention(q, k, n, alpha):
    """Rows of softmax(q.k/sqrt(d)) of the last alpha positions, causal among themselves."""
    rows = []
    for i in range(alpha):
        z = []
        for j in range(n):
            if j > n - alpha + i:
                z.append(-math.inf)
            else:
                z.append(sum(a * b for a, b in zip(q[i], k[j])) / math.sqrt(len(k[j])))
        m = max(z)
        e = [math.exp(x - m) for x in z]
        s = sum(e)
        rows.append([x / s for x in e])
    return rows


def window_scores(c, q, k):
    n, a, w = c["n"], c["alpha"], c["omega"]
    review = n - a
    group = c["heads"] // c["kv_heads"]
    count = math.ceil(review / w)
    total = [0.0] * count
    for h in range(c["heads"]):
        rows = attention(q[h], k[h // group], n, a)
        t = [sum(r[j] for r in rows) for j in range(review)]
        for x in range(count):
            win = sorted(t[x * w:min(review, (x + 1) * w)], reverse=True)
            p = min(c["p"], len(win))
            total[x] += sum(win[:p]) / p
    return [s / c["heads"] for s in total]


def answer(c):
    n, a, w = c["n"], c["alpha"], c["omega"]
    review = max(0, n - a)
    bs = budgets(c)
    out = {"budgets": bs, "scores": [], "windows": [], "tokens": []}
    for g, b in enumerate(bs):
        count = math.ceil(review / w)
        if review <= b:
            out["scores"].append(None)
            out["windows"].append(list(range(count)))
            out["tokens"].append(list(range(n)))
            continue
        s = window_scores(c, c["q"][g], c["k"][g])
        keep = max(0, count - math.ceil((review - b) / w)) if c["preset"] == "reference" else b // w
        best = sorted(sorted(range(count), key=lambda x: (-s[x], x))[:keep])
        out["scores"].append(s)
        out["windows"].append(best)
        toks = [j for x in best for j in range(x * w, min(review, (x + 1) * w))]
        out["tokens"].append(toks + list(range(review, n)))
    return out


def make(r):
    omega = r.choice((4, 8, 16, 32))
    n = r.randint(90, 400)
    alpha = r.choice([x for x in (4, 8, 16, 32) if x <= n // 8])
    kv = r.choice((1, 2))
    c = {"n": n, "kv_heads": kv, "heads": kv * r.choice((1, 2, 4)), "dim": r.choice((4, 8)), "layers": r.choice((2, 4, 6, 7)),
         "gamma": r.choice((1, 2, 3, 4)), "lambda": 14, "omega": omega, "alpha": alpha, "p": r.choice((omega, omega // 2)),
         "preset": r.choice(("default", "default", "reference")), "pyramid": r.choice(("code", "code", "paper", "flat"))}
    c["budget"] = max(alpha, int(c["n"] * r.choice((0.12, 0.2, 0.3, 0.5, 0.9))))
    rnd = lambda: round(r.gauss(0, 1.5), 3)
    g = group_count(c["layers"], c["gamma"])
    c["q"] = [[[[rnd() for _ in range(c["dim"])] for _ in range(alpha)] for _ in range(c["heads"])] for _ in range(g)]
    c["k"] = [[[[rnd() for _ in range(c["dim"])] for _ in range(c["n"])] for _ in range(kv)] for _ in range(g)]
    return c


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    s = p.add_subparsers(dest="cmd", required=True)
    s.add_parser("answer").add_argument("file")
    s.add_parser("check").add_argument("file")
    m = s.add_parser("make")
    m.add_argument("--seed", type=int, default=1)
    m.add_argument("--count", type=int, default=10)
    a = p.parse_args()
    if a.cmd == "answer":
        print(json.dumps(answer(json.load(open(a.file)))))
    elif a.cmd == "make":
        r = random.Random(a.seed)
        cases = [make(r) for _ in range(a.count)]
        print(json.dumps([{"case": c, "answer": answer(c)} for c in cases]))
    else:
        bad = sum(answer(x["case"]) != x["answer"] for x in json.load(open(a.file)))
        print(f"{bad} differ")
        sys.exit(bad > 0)


if __name__ == "__main__":
    main()
