#!/usr/bin/env python3
"""Writes tests/vectors/rivals.json: what NVIDIA's kvpress, and the authors' code of DefensiveKV, R-KV and
TriAttention, keep of tensors that tests/rivals_test.cpp makes by the same formula.

    git clone https://github.com/FFY0/DefensiveKV DIR       # for DefensiveKV and Layer-DefensiveKV
    git clone https://github.com/Zefan-Cai/R-KV RKV
    git clone https://github.com/WeianMao/triattention TRI
    build/kvpress-venv/bin/python tools/rival_vectors.py --defensivekv DIR --rkv RKV --triattention TRI > tests/vectors/rivals.json

scripts/kvpress.sh makes the Python environment. SnapKV's scores are the paper's (32 queries, maximum of 7
neighbours), where kvpress's own SnapKV has other defaults and averages.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import sys
import types

import torch
from kvpress import AdaKVPress, CriticalKVPress, ExpectedAttentionPress, KVzipPress, SnapKVPress
from torch.nn import functional as F

N, D, HEADS, KV_HEADS, EMBD, WINDOW, LAYERS = 300, 16, 4, 2, 64, 32, 3
BUDGETS = (60, 100)
REPEATED, INSTRUCTION, SINKS = 128, 10, 4  # prompt tokens that KVzip has repeated at a time, and tokens before them
MASK = (1 << 64) - 1


def mixed(x):
    """splitmix64's finalizer."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def tensor(stream, *shape):
    """Numbers from -2 to 2, exact in float32."""
    count = math.prod(shape)
    values = [(mixed((stream << 32) + i) >> 40) / 2**22 - 2 for i in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


class Layer:
    """One layer's tensors: q [heads, window, d], k and v [n, KV heads, d], wo [embd, heads · d]."""

    def __init__(self, layer):
        q, k, v, wo = (tensor(4 * layer + i, *shape) for i, shape in enumerate(
            ((HEADS, WINDOW, D), (N, KV_HEADS, D), (N, KV_HEADS, D), (EMBD, HEADS * D))))
        self.keys, self.values = k.transpose(0, 1)[None], v.transpose(0, 1)[None]
        scores = q @ self.keys[0].repeat_interleave(HEADS // KV_HEADS, 0).transpose(1, 2) / math.sqrt(D)
        scores += torch.full_like(scores, -torch.inf).triu(N - WINDOW + 1)
        self.attention = scores.softmax(-1)[None]  # [1, heads, window, n]
        config = types.SimpleNamespace(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=D, hidden_size=EMBD,
                                       num_hidden_layers=LAYERS, _attn_implementation="sdpa")
        self.module = types.SimpleNamespace(config=config, head_dim=D, num_key_value_groups=HEADS // KV_HEADS,
                                            o_proj=types.SimpleNamespace(weight=wo), layer_idx=layer)
        self.hidden = torch.zeros(1, N, EMBD)  # of which presses read the shape
        self.before_rope = tensor(1000 + layer, HEADS, N, D)


class PaperSnapKV(SnapKVPress):
    """SnapKV as in its paper's Listing 1, whose order of pooling and averaging over query heads windowkv follows."""

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        received = attentions[..., -WINDOW:, :-WINDOW].sum(-2)
        pooled = F.max_pool1d(received, kernel_size=7, padding=3, stride=1)
        scores = pooled.view(1, KV_HEADS, -1, N - WINDOW).mean(2)
        scores -= 1e-13 * torch.arange(N - WINDOW)  # neighbours share a maximum: the earlier one first, as in windowkv
        return F.pad(scores, (0, WINDOW), value=scores.max().item() + 1)


def kept_of(indices):
    return [sorted(int(i) for i in head) for head in indices]


def by_scorer(press, layer, budget):
    scores = press.score(layer.module, layer.hidden, layer.keys, layer.values, layer.attention, {})
    return kept_of(scores[0].topk(budget, dim=-1).indices)


def by_expected_attention(layer, budget):
    """From queries before RoPE, instead of the hidden states that they come from."""
    def rotary_emb(_, positions):
        angles = positions[0].double()[:, None] * 10000.0 ** (-2 * torch.arange(D // 2).double() / D)
        angles = torch.cat((angles, angles), -1)
        return angles.cos()[None], angles.sin()[None]

    layer.module.q_proj = lambda x: x
    layer.module.rotary_emb = rotary_emb
    hidden = layer.before_rope.transpose(0, 1).reshape(1, N, HEADS * D)
    scores = ExpectedAttentionPress(ratio(budget)).score(layer.module, hidden, layer.keys, layer.values, None, {})
    return kept_of(scores[0].topk(budget, dim=-1).indices)


def kvzip_scores(layer):
    """KVzip's scores [KV heads, n], from the repetitions' queries and keys instead of hidden states."""
    press = KVzipPress(0.5)
    press.score_val = torch.zeros(LAYERS, 1, KV_HEADS, N)
    for part, first in enumerate(range(0, N, REPEATED)):
        press.context_length, press.start_idx, press.end_idx = N, first, min(N, first + REPEATED)
        count = INSTRUCTION + press.end_idx - first
        stream = 2000 + 2 * (10 * layer.module.layer_idx + part)
        queries, own = tensor(stream, HEADS, count, D), tensor(stream + 1, count, KV_HEADS, D).transpose(0, 1)[None]
        layer.module.q_proj = lambda x: x
        hidden = queries.transpose(0, 1).reshape(1, count, HEADS * D)
        plain = torch.ones(1, count, D), torch.zeros(1, count, D)  # no rotation
        keys = torch.cat((layer.keys, own), 2)
        press.score_kvzip(layer.module, hidden.float(), keys.float(), keys.float(), None, {"position_embeddings": plain})
    return press.score_val[layer.module.layer_idx, 0]


def by_kvzip(layers, budget):
    """As KVzipPress.compress_post: the budget is shared by all heads of all layers, sinks stay in any case."""
    scores = torch.stack([kvzip_scores(layer) for layer in layers])
    scores[..., :SINKS] = scores.amax() + 1
    best = scores.view(-1).topk(budget * KV_HEADS * LAYERS).indices.tolist()
    size = N * KV_HEADS
    return [split([i % size for i in best if i // size == layer]) for layer in range(LAYERS)]


def by_dropping(press, layer):
    press.compress(layer.module, layer.hidden, layer.keys, layer.values, layer.attention, {})
    _, heads, positions = layer.module.masked_key_indices
    dropped = set(zip(heads.tolist(), positions.tolist()))
    return [[i for i in range(N) if (head, i) not in dropped] for head in range(KV_HEADS)]


def ratio(budget):
    return 1 - (budget + 0.5) / N  # so that int(n · (1 − ratio)) is the budget


def load_defensivekv(folder):
    """The two presses, with the modules they import replaced where those need a GPU or other transformers."""
    root = pathlib.Path(folder) / "kvpress" / "presses"

    def load(name):
        spec = importlib.util.spec_from_file_location(f"kvpress.presses.{name}", root / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    sys.modules["kvpress.ops"] = types.ModuleType("kvpress.ops")
    norms = sys.modules["kvpress.ops.vw_norm"] = types.ModuleType("kvpress.ops.vw_norm")
    norms.vw_l1norm = None  # in Triton; the same in PyTorch stands beside it
    for name in ("efficient_ada_scorer_press", "efficient_ada_global_scorer_press"):
        load(name)
    presses = (load("efficient_defensivekv_press").EfficientDefensiveKVPress,
               load("efficient_layer_defensivekv_press").EfficientLayerDefensiveKVPress)
    for press in presses:
        press.vwl1norm_triton = press.vwl1norm
    return presses


def defensive_scores(press, layer):
    """Flattened scores [KV heads · n], from the attention that is there instead of hidden states."""
    seen = layer.attention[..., :-WINDOW]
    bias = seen[..., -WINDOW:].sum(dim=-1).mean().item()
    press.compute_window_attention = lambda *args: (seen, bias)
    metadata = types.SimpleNamespace(head_lens=[N] * KV_HEADS, bsz=1, num_key_value_heads=KV_HEADS)
    flat = lambda t: t.reshape(-1, D)
    return press.score(layer.module, layer.hidden, flat(layer.keys), flat(layer.values), None,
                       {"metadata": metadata, "position_embeddings": None}).reshape(-1)


def load_rkv(folder):
    """R-KV's class, of a package whose other modules need transformers."""
    root = pathlib.Path(folder) / "rkv"

    def load(name, path):
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    sys.modules["rkv"] = load("rkv", root / "utils.py")
    sys.modules["rkv"].__path__ = []
    return load("rkv.r1_kv", root / "compression" / "r1_kv.py").R1KV


def by_rkv(rkv, layer, budget):
    press = rkv(budget=budget)
    layer_queries = tensor(4 * layer.module.layer_idx, HEADS, WINDOW, D)[None, :, -press.window_size:]
    numbers = torch.arange(N, dtype=torch.float64)[None, None, :, None].expand(1, KV_HEADS, N, D)
    _, kept = press.update_kv(layer.keys, layer_queries, numbers)
    return kept_of(kept[0, :, :, 0])


def load_triattention(folder):
    """Its module of scores, of a package whose other modules need older transformers."""
    path = pathlib.Path(folder) / "triattention" / "methods" / "pruning_utils.py"
    spec = importlib.util.spec_from_file_location("pruning_utils", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_triattention(code, layer, budget):
    """Of each layer and KV head for itself, as in the paper; centers of the queries from the fifth on."""
    omega = 10000.0 ** (-2 * torch.arange(D // 2).double() / D)
    angles = torch.arange(N).double()[:, None] * omega
    angles = torch.cat((angles, angles), -1)
    scores = []
    for head in range(HEADS):
        keys = code.invert_rope(layer.keys[0, head // (HEADS // KV_HEADS)], angles.cos(), angles.sin(), 1.0)
        queries = code.to_complex_pairs(layer.before_rope[head, SINKS:])
        amplitude, phase, extra = code.compute_frequency_statistics_from_means(queries.mean(0), queries.abs().mean(0), keys)
        offsets = code.build_geometric_offsets(65536, torch.device("cpu")).double()
        score = code.score_keys_for_round(torch.arange(N), N, amplitude, phase, omega, extra, offsets, "mean", torch.ones(D // 2))
        scores.append((score - score.mean()) / score.std(unbiased=False))
    best = torch.stack(scores).view(KV_HEADS, -1, N).amax(1)
    return kept_of(best.topk(budget, dim=-1).indices)


def split(numbers):
    return [sorted(int(i) % N for i in numbers if int(i) // N == head) for head in range(KV_HEADS)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defensivekv", metavar="DIR", required=True, help="a checkout of github.com/FFY0/DefensiveKV")
    parser.add_argument("--rkv", metavar="DIR", required=True, help="a checkout of github.com/Zefan-Cai/R-KV")
    parser.add_argument("--triattention", metavar="DIR", required=True, help="a checkout of github.com/WeianMao/triattention")
    args = parser.parse_args()
    defensive, layer_defensive = load_defensivekv(args.defensivekv)
    cases = []
    for budget in BUDGETS:
        layers = [Layer(i) for i in range(LAYERS)]
        snapkv = lambda: PaperSnapKV(ratio(budget))
        cases.append(("snapkv", budget, [by_scorer(snapkv(), layer, budget) for layer in layers]))
        cases.append(("criticalkv", budget, [by_scorer(CriticalKVPress(snapkv()), layer, budget) for layer in layers]))
        cases.append(("adakv", budget, [by_dropping(AdaKVPress(snapkv()), layer) for layer in layers]))
        cases.append(("expected-attention", budget, [by_expected_attention(layer, budget) for layer in layers]))
        scores = [defensive_scores(defensive(compression_ratio=1 - budget / N), layer) for layer in layers]
        cases.append(("defensivekv", budget, [split(s.topk(budget * KV_HEADS).indices) for s in scores]))
        scores = [defensive_scores(layer_defensive(compression_ratio=1 - budget / N), layer) for layer in layers]
        best = torch.stack(scores).view(-1).topk(budget * KV_HEADS * LAYERS).indices
        cases.append(("layer-defensivekv", budget,
                      [split([i % (N * KV_HEADS) for i in best.tolist() if i // (N * KV_HEADS) == layer]) for layer in range(LAYERS)]))
    rkv = load_rkv(args.rkv)
    cases += [("r-kv", budget, [by_rkv(rkv, Layer(i), budget) for i in range(LAYERS)]) for budget in BUDGETS]
    tri = load_triattention(args.triattention)
    cases += [("triattention", budget, [by_triattention(tri, Layer(i), budget) for i in range(LAYERS)]) for budget in BUDGETS]
    cases += [("kvzip", budget, by_kvzip([Layer(i) for i in range(LAYERS)], budget)) for budget in BUDGETS]
    shape = {"n": N, "d_head": D, "n_head": HEADS, "n_head_kv": KV_HEADS, "n_embd": EMBD, "n_layer": LAYERS}
    print(json.dumps({"shape": shape, "cases": [{"policy": p, "budget": b, "kept": k} for p, b, k in cases]}, separators=(",", ":")))


if __name__ == "__main__":
    main()
