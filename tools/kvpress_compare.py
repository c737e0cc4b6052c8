#!/usr/bin/env python3
"""Runs NVIDIA kvpress's methods on the prompts of `windowkv compare --reference`, on the same weights.

    windowkv compare -m model.gguf --data DATA --follow --budgets 6%,12% --reference reference.jsonl --out windowkv.jsonl
    scripts/kvpress.sh -m model.gguf --rows reference.jsonl --windowkv windowkv.jsonl --budgets 6%,12% --out kvpress.jsonl

For each row the whole prompt, question included, is prefilled once by transformers from the GGUF's weights,
dequantized. Every press chooses from the same keys, values and hidden states what it keeps; then the row's
answer is fed, token by token of it known (teacher forcing), and the next-token distributions are compared with
the full cache's: KL(full || compressed) in nats, averaged over the answer, and how often the most probable
token is the same. The first token of an answer comes from prefill, which nothing is dropped from, and is not
counted. Positions go on from the prompt's length. What a press marks as dropped by head is hidden from
attention exactly, where kvpress itself fills in keys that get a weight near 0.

A run that was stopped goes on from its --out file. Rows are JSON lines: {"key": name, "prompt": [ids],
"answer": [ids]}; other fields are ignored.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import random
import re
import resource
import signal
import sys
import time
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the GGUF
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# As kvpress's own evaluation names and configures them, at compression ratio r.
PRESSES = {
    "snapkv": lambda k, r: k.SnapKVPress(r),
    "ada-snapkv": lambda k, r: k.AdaKVPress(k.SnapKVPress(r)),
    "critical-snapkv": lambda k, r: k.CriticalKVPress(k.SnapKVPress(r)),
    "critical-ada-snapkv": lambda k, r: k.CriticalAdaKVPress(k.SnapKVPress(r)),
    "chunkkv": lambda k, r: k.ChunkKVPress(k.SnapKVPress(r), chunk_length=20),
    "tova": lambda k, r: k.TOVAPress(r),
    "expected-attention": lambda k, r: k.ExpectedAttentionPress(r),
    "ada-expected-attention": lambda k, r: k.AdaKVPress(k.ExpectedAttentionPress(r, epsilon=1e-2)),
    "pyramidkv": lambda k, r: k.PyramidKVPress(r),
    "keydiff": lambda k, r: k.KeyDiffPress(r),
    "streaming-llm": lambda k, r: k.StreamingLLMPress(r),
    "kvzip": lambda k, r: k.KVzipPress(r),  # runs the prompt a second time: as long again as prefill
}
DEFAULT_PRESSES = "snapkv,ada-snapkv,critical-snapkv,critical-ada-snapkv,chunkkv,tova,expected-attention,ada-expected-attention"
BYTES = 2  # of a number in the cache: kept bytes are told as F16's, as windowkv stores them


class Failure(Exception):
    """What is said in one line."""


# ---- the rows and the logs ---------------------------------------------------------------------------------


def read_jsonl(path, torn_end=False):
    """The rows of a file. `torn_end`: a last line cut off in the middle of being written does not count."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as e:
        raise Failure(f"cannot read {path}: {e.strerror}") from e
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (torn_end and number == len(lines)):
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as e:
            raise Failure(f"{path}, line {number}: not JSON: {e}") from e
    return rows


def read_rows(path, limit):
    rows = read_jsonl(path)[: limit if limit >= 0 else None]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(f in row for f in ("key", "prompt", "answer")):
            raise Failure(f"{path}, line {number}: a row needs \"key\", \"prompt\" and \"answer\"; "
                          "write the file with windowkv compare --reference")
    if not rows:
        raise Failure(f"{path} has no rows")
    for field, what in (("key", None), ("model", "models"), ("kv_types", "KV types")):
        values = [row.get(field) for row in rows]
        if what is None and len(set(values)) != len(rows):
            raise Failure(f"{path}: two rows have the same key")
        if what is not None and len(set(values)) > 1:
            raise Failure(f"{path} has answers of several {what}; give a file of one")
    return rows


def sample_of(row):
    """What windowkv's files name the same sample by."""
    return f"{row['dataset']}/{row['_id']}" if "_id" in row else row["key"]


class Log:
    """Results, one JSON line each, each written whole before the next is begun."""

    def __init__(self, path):
        self.rows, self.file = {}, None
        if path is None:
            return
        if os.path.exists(path):
            self.rows = {row["key"]: row for row in read_jsonl(path, torn_end=True)}
            with open(path, "rb+") as file:  # a line that was cut off goes
                text = file.read()
                file.truncate(text.rfind(b"\n") + 1)
        try:
            self.file = open(path, "a", encoding="utf-8")
        except OSError as e:
            raise Failure(f"cannot write {path}: {e.strerror}") from e

    def append(self, row):
        self.rows[row["key"]] = row
        if self.file:
            self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.file.flush()


def read_windowkv(path):
    """{sample: {policy with its budget: measures}} of the results file that windowkv compare wrote."""
    measured, run_of = {}, {}
    for number, row in enumerate(read_jsonl(path, torn_end=True), 1):
        try:
            sample, policy, run = sample_of(row), row["policy"], row["key"].rsplit(" ", 1)[-1]
            measures = {f: row[f] for f in ("kept_share", "kept_bytes", "steps", "mean_kl", "top1_agreement")}
        except (KeyError, TypeError) as e:
            raise Failure(f"{path}, line {number}: not a result of windowkv compare: no field {e}") from e
        if run_of.setdefault((sample, policy), run) != run:
            raise Failure(f"{path} has results of several runs for {sample} and {policy}; give a file of one")
        measured.setdefault(sample, {})[policy] = {**measures, "same_answer": row["top1_agreement"] == 1}
    return measured


# ---- the model ---------------------------------------------------------------------------------------------


def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """Causal attention of the last queries over all keys, without those that a press has dropped by head.

    query [1, heads, q, d], key and value [1, KV heads, k, d]. The mask is made here: layers may have kept
    different numbers of keys.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    queries, keys = query.shape[2], key.shape[2]
    if queries == keys:
        out = sdpa(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
        dropped = getattr(module, "masked_key_indices", None)
        if dropped is not None:
            _, head, position = dropped
            kept = torch.ones(key.shape[1], keys, dtype=torch.bool)
            kept[head, position] = False
            seen = seen & kept.repeat_interleave(query.shape[1] // key.shape[1], 0)[None, :, None]
        out = sdpa(query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


def load_model(path, dtype, device):
    import torch
    import transformers
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    folder, name = os.path.split(os.path.abspath(path))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError) as e:
        raise Failure(f"transformers cannot read {path}: {str(e).splitlines()[0]}") from e
    ALL_ATTENTION_FUNCTIONS["evicting"] = attention  # after kvpress has wrapped those that were there
    model.set_attn_implementation("evicting")
    if getattr(model.config, "head_dim", None) is None:  # presses read it; Qwen2's leaves it out
        model.config.head_dim = model.config.hidden_size // model.config.num_attention_heads
    torch.set_default_device(device)  # what is made from here on stands beside the weights
    return model.eval().to(device)


def layers_of(model):
    return [layer.self_attn for layer in model.model.layers]


@dataclass
class Kept:
    """What one layer holds: keys and values [1, KV heads, k, d], and which of them do not count."""

    keys: object
    values: object
    dropped: object = None  # (batch, head, position) indices, or None

    def pairs(self):
        return self.keys.shape[1] * self.keys.shape[2] - (0 if self.dropped is None else len(self.dropped[1]))


def prefill(model, prompt, presses):
    """The full cache's layers, and {name: layers, or the exception} for each of `presses`, of one pass.

    What a press is given is what its own hook would: it acts on a layer's cache after the layer has attended
    to all of it, so that one pass serves them all.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    full, chosen = [], {name: [] for name in presses}

    def hook(module, args, kwargs, output):
        layer = cache.layers[module.layer_idx]
        keys, values = layer.keys, layer.values
        full.append(Kept(keys, values))
        for name, press in presses.items():
            if isinstance(chosen[name], Exception):
                continue
            module.masked_key_indices = None
            try:
                k, v = press.compress(module, kwargs["hidden_states"], keys, values, output[1], kwargs)
                chosen[name].append(Kept(k, v, module.masked_key_indices))
            except (AssertionError, RuntimeError, ValueError, IndexError) as e:
                chosen[name] = e
        module.masked_key_indices = None

    hooks = []
    try:
        for module in layers_of(model):
            module.rotary_emb = model.model.rotary_emb
            hooks.append(module.register_forward_hook(hook, with_kwargs=True))
        for press in presses.values():
            press.post_init_from_model(model)
        model.model(input_ids=torch.tensor([prompt]), past_key_values=cache)
    finally:
        for h in hooks:
            h.remove()
    return full, chosen


def prefill_alone(model, prompt, press):
    """The layers of a press that runs the prompt in its own way."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for module in layers_of(model):
        module.masked_key_indices = None
    with press(model):
        model.model(input_ids=torch.tensor([prompt]), past_key_values=cache)
    return [Kept(layer.keys, layer.values, module.masked_key_indices)
            for layer, module in zip(cache.layers, layers_of(model))]


def distributions(model, layers, position, answer):
    """log p [steps, n_vocab] of answer[1:], each after the tokens of the answer before it."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for i, (layer, module) in enumerate(zip(layers, layers_of(model))):
        cache.update(layer.keys, layer.values, i)
        module.masked_key_indices = layer.dropped
    positions = torch.arange(position, position + len(answer) - 1)[None]
    logits = model(input_ids=torch.tensor([answer[:-1]]), past_key_values=cache, position_ids=positions).logits
    for module in layers_of(model):
        module.masked_key_indices = None
    return logits[0].float().log_softmax(-1)


def measure(full, other):
    """mean KL(full || other) in nats, and the share of steps with the same most probable token."""
    kl = (full.exp() * (full - other)).sum(-1, dtype=full.double().dtype).clamp(min=0).mean()
    return float(kl), float((full.argmax(-1) == other.argmax(-1)).double().mean())


# ---- presses by name ---------------------------------------------------------------------------------------


def make_press(kvpress, text, ratio):
    """`snapkv`, or with settings of its fields, `snapkv:window_size=32:kernel_size=7`."""
    name, *settings = text.split(":")
    if name not in PRESSES:
        raise Failure(f"unknown press \"{name}\"; use one of {', '.join(PRESSES)}")
    press = PRESSES[name](kvpress, ratio)
    for setting in settings:
        field, _, value = setting.partition("=")
        target = press
        while target is not None and not hasattr(target, field):
            target = getattr(target, "press", None)
        if target is None or field in ("press", "compression_ratio"):
            raise Failure(f"the press {name} has no setting \"{field}\"")
        try:
            setattr(target, field, json.loads(value))
        except ValueError as e:
            raise Failure(f"\"{setting}\": \"{value}\" is no number") from e
    return press


def tokens_of(budget, prompt_tokens):
    """What windowkv makes of a budget, "12%", "12%:1024" or "512"."""
    share, _, floor = budget.partition("%")
    tokens = prompt_tokens * float(share) / 100 if "%" in budget else int(budget)
    return min(prompt_tokens, max(1, int(tokens + 1e-6), int(floor.lstrip(":") or 0)))


def ratio_for(keep, prompt_tokens):
    """The compression ratio at which a press keeps `keep` tokens: half a token more, since it rounds down."""
    return max(0.0, 1 - (keep + 0.5) / prompt_tokens)


def use_tokenizer_of(path):
    """KVzip reads a tokenizer by the model's name; it gets the GGUF's."""
    import kvpress.presses.kvzip_press as module
    import transformers

    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    module.AutoTokenizer = type("Gguf", (), {"from_pretrained": staticmethod(lambda *args: tokenizer)})


# ---- the run -----------------------------------------------------------------------------------------------


def result(key, row, press, budget, layers, log_probs, full, seconds):
    kl, top1 = measure(full, log_probs) if len(full) else (0.0, 1.0)
    pairs = sum(layer.pairs() for layer in layers)
    heads, width = layers[0].keys.shape[1], layers[0].keys.shape[3]
    return {"key": key, "row": sample_of(row), "policy": press, "budget": budget, "prompt_tokens": len(row["prompt"]),
            "kept_share": pairs / (len(layers) * heads * len(row["prompt"])), "kept_bytes": pairs * width * 2 * BYTES,
            "steps": len(full), "mean_kl": kl, "top1_agreement": top1, "same_answer": top1 == 1,
            "seconds": round(seconds, 2)}


class Run:
    def __init__(self, args):
        self.args = args
        self.rows = read_rows(args.rows, args.limit)
        self.windowkv = read_windowkv(args.windowkv) if args.windowkv else {}
        self.log = Log(args.out)
        self.failed = 0
        self.model = None
        import kvpress
        from importlib.metadata import version

        self.kvpress = kvpress
        for text in args.presses:
            make_press(kvpress, text, 0.5)
        stat = os.stat(args.model)
        self.setup = [os.path.basename(args.model), stat.st_size, args.dtype, version("kvpress"), version("transformers")]

    def tokens(self, row, budget):
        """How many tokens to keep: as many as windowkv kept of this row, or what the budget says."""
        n = len(row["prompt"])
        told = self.windowkv.get(sample_of(row), {}).get(f"{self.args.match} {budget}")
        return max(1, round(told["kept_share"] * n)) if told else tokens_of(budget, n)

    def key(self, row, press, budget, keep):
        made_of = json.dumps([self.setup, row["prompt"], row["answer"], keep])
        return f"{row['key']} {press} {budget} {hashlib.sha256(made_of.encode()).hexdigest()[:12]}"

    def run(self):
        for number, row in enumerate(self.rows, 1):
            n = len(row["prompt"])
            wanted = {}  # key: (press, budget, tokens to keep)
            for budget in self.args.budgets:
                keep = self.tokens(row, budget)
                for press in self.args.presses:
                    key = self.key(row, press, budget, keep)
                    if key in self.log.rows:
                        yield self.log.rows[key]
                    else:
                        wanted[key] = (press, budget, keep)
            if wanted:
                say(f"row {number} of {len(self.rows)}: {row['key']}, {n} tokens, {len(row['answer'])} of answer")
                yield from self.run_row(row, wanted)

    def run_row(self, row, wanted):
        import torch

        if self.model is None:
            start = time.monotonic()
            self.model = load_model(self.args.model, self.args.dtype, self.args.device)
            if any(p.split(":")[0] == "kvzip" for p in self.args.presses):
                use_tokenizer_of(self.args.model)
            say(f"{self.args.model} read in {time.monotonic() - start:.0f} s")
        vocab = self.model.config.vocab_size
        if not row["prompt"] or not row["answer"] or not all(0 <= t < vocab for t in row["prompt"] + row["answer"]):
            raise Failure(f"row {row['key']}: empty, or has tokens that {self.args.model} does not know")
        n, answer = len(row["prompt"]), row["answer"]
        made = {key: make_press(self.kvpress, press, ratio_for(keep, n)) for key, (press, _, keep) in wanted.items()}
        alone = {key for key in made if isinstance(made[key], self.kvpress.KVzipPress)}
        with torch.inference_mode():
            start = time.monotonic()
            full, chosen = prefill(self.model, row["prompt"], {k: p for k, p in made.items() if k not in alone})
            full_log_probs = distributions(self.model, full, n, answer) if len(answer) > 1 else torch.zeros(0, vocab)
            agreed = float((full_log_probs.argmax(-1) == torch.tensor(answer[1:])).double().mean()) if len(answer) > 1 else 1
            say(f"  prefill {time.monotonic() - start:.1f} s; "
                f"{100 * agreed:.0f} % of the answer is what the full cache says here")
            if agreed < 0.9 and not self.args.any_answer:
                say(f"warning: row {row['key']}: its answer is not this model's; was it made by another?")
            for key, (press, budget, _) in wanted.items():
                start = time.monotonic()
                if key in alone:
                    chosen[key] = prefill_alone(self.model, row["prompt"], made[key])
                layers = chosen.pop(key)
                if isinstance(layers, Exception):
                    self.failed += 1
                    say(f"warning: row {row['key']}: {press} {budget} cannot run: {layers or type(layers).__name__}")
                    continue
                log_probs = distributions(self.model, layers, n, answer) if len(answer) > 1 else full_log_probs
                out = result(key, row, press, budget, layers, log_probs, full_log_probs, time.monotonic() - start)
                out["full_agrees"] = agreed
                self.log.append(out)
                say(f"  {press} {budget}: kept {percent(out['kept_share'])}, KL {out['mean_kl']:.3f}, "
                    f"top-1 {percent(out['top1_agreement'])}, {out['seconds']:.1f} s")
                yield out


# ---- the table ---------------------------------------------------------------------------------------------


def percent(share):
    return f"{100 * share:.1f} %"


def bootstrap(values, scale=1.0, digits=3):
    """"mean", "low", "high": 95 % percentile bootstrap over 2,000 resamples."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(2000))
    return [f"{scale * v:.{digits}f}" for v in (sum(values) / len(values), means[50], means[1949])]


def table(results, windowkv, budgets, match):
    """Rows of cells. Each budget's policies are compared on the rows that all of them have."""
    head = ["policy", "rows", "kept", "KV bytes", "KL", "KL, 95 %", "top-1", "top-1, 95 %", "same", "same, 95 %"]
    joint = bool(windowkv)
    out = [head + ([f"KL less {match}, 95 %"] if joint else [])]
    for budget in budgets:
        policies = {}  # name: {row: measures}
        keys = {r["row"] for r in results}  # samples
        for key in sorted(keys):
            for name, measured in windowkv.get(key, {}).items():
                if name.endswith(" " + budget):
                    policies.setdefault(name, {})[key] = measured
        ours = set(policies)
        for r in results:
            if r["budget"] == budget:
                policies.setdefault(f"kvpress {r['policy']} {budget}", {})[r["row"]] = r
        if not policies:
            continue
        common = sorted(set.intersection(*(set(rows) for rows in policies.values())))
        common = [k for k in common if all(rows[k]["steps"] > 0 for rows in policies.values())]
        base = policies.get(f"{match} {budget}") if ours else None
        for name, rows in policies.items():
            if not common:
                out.append([name, "0"] + [""] * (len(out[0]) - 2))
                continue
            of = lambda field: [rows[k][field] for k in common]
            mean = lambda field: sum(of(field)) / len(common)
            line = [name, str(len(common)), percent(mean("kept_share")), f"{mean('kept_bytes') / 2**20:.1f} MiB"]
            for field, scale, digits, unit in (("mean_kl", 1, 3, ""), ("top1_agreement", 100, 1, " %"), ("same_answer", 100, 1, " %")):
                middle, low, high = bootstrap(of(field), scale, digits)
                line += [middle + unit, f"{low} to {high}"]
            if joint:
                less = base and rows is not base and bootstrap([rows[k]["mean_kl"] - base[k]["mean_kl"] for k in common])
                line.append("{} [{}, {}]".format(*less) if less else "")
            out.append(line)
    return out


def markdown(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|--|" + "--:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def write_whole(path, text):
    """Under another name first, so that no half of a file is left."""
    part = f"{path}.part"
    try:
        pathlib.Path(part).write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        raise Failure(f"cannot write {path}: {e.strerror}") from e


# ---- the command -------------------------------------------------------------------------------------------


def say(text):
    print(f"kvpress_compare: {text}" if not text.startswith("  ") else text, file=sys.stderr, flush=True)


def names(text):
    return [name for name in text.split(",") if name]


def budget_names(text):
    budgets = names(text)
    for budget in budgets:
        if not re.fullmatch(r"[0-9]+([.][0-9]+)?%(:[0-9]+)?|[0-9]+", budget):
            raise argparse.ArgumentTypeError(f"\"{budget}\" is no budget; give 12%, 12%:1024 (1,024 tokens at least) or 512")
    return budgets


def arguments():
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="kvpress.sh", description=__doc__, formatter_class=text,
                                     epilog="presses: " + ", ".join(PRESSES) +
                                     "\nA press may carry settings, named as kvpress names them:"
                                     "\n  --presses snapkv,snapkv:window_size=32:kernel_size=7,chunkkv:chunk_length=10"
                                     "\nExit codes: 1 error, 2 usage, 3 some presses could not run on some rows, 130 interrupted.")
    parser.add_argument("-m", "--model", required=True, metavar="GGUF",
                        help="the model windowkv ran; llama, qwen2 or another architecture that transformers reads from GGUF")
    parser.add_argument("--rows", required=True, metavar="FILE", help="prompts and answers: what windowkv compare --reference wrote")
    parser.add_argument("--limit", type=int, default=-1, metavar="N", help="rows, the first; -1: all (default)")
    parser.add_argument("--presses", type=names, default=names(DEFAULT_PRESSES), metavar="NAME,...",
                        help=f"methods (default: {DEFAULT_PRESSES})")
    parser.add_argument("-b", "--budgets", type=budget_names, default=["12%"], metavar="B,...",
                        help="what to keep of a prompt's cache, as windowkv's (default: 12%%)")
    parser.add_argument("--windowkv", metavar="FILE",
                        help="results file of windowkv compare (--out) on the same rows: its policies join the table, and each "
                        "press keeps of a row what --match kept there, in place of the budget itself")
    parser.add_argument("--match", default="windowkv", metavar="POLICY",
                        help="the policy of --windowkv that decides how much is kept (default: windowkv)")
    parser.add_argument("--out", metavar="FILE", help="results as JSON lines; a run that was stopped goes on from it")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there; it is printed in any case")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="of weights and cache; float32 takes 4 bytes a weight, bfloat16 half and less exact (default: float32)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where torch computes: cpu (default), cuda, cuda:1")
    parser.add_argument("-t", "--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    parser.add_argument("--any-answer", action="store_true", help="no warning where an answer is not the model's own")
    args = parser.parse_args()
    if args.threads < 1:
        parser.error("--threads must be at least 1")
    return args


def main():
    args = arguments()
    if not os.path.isfile(args.model):
        raise Failure(f"there is no model {args.model}")
    with contextlib.suppress(OSError):
        os.nice(10)
    import torch

    torch.set_num_threads(args.threads)
    logging.getLogger("kvpress").setLevel(logging.ERROR)
    run = Run(args)
    results = list(run.run())
    text = markdown(table(results, run.windowkv, args.budgets, args.match))
    print(text, end="")
    if args.markdown:
        write_whole(args.markdown, text)
    say(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    return 3 if run.failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except Failure as e:
        say(f"error: {e}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from its --out file")
        sys.exit(130)
