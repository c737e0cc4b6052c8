#!/usr/bin/env python3
"""tools/kvpress_compare.py: its files and table with any Python; against kvpress's own way of decoding where
kvpress is installed (scripts/kvpress.sh --help installs it)."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("kvpress_compare", ROOT / "tools" / "kvpress_compare.py")
tool = importlib.util.module_from_spec(spec)
sys.modules["kvpress_compare"] = tool
spec.loader.exec_module(tool)


def measures(kl, top1=0.5, steps=4, **more):
    return {"mean_kl": kl, "top1_agreement": top1, "same_answer": top1 == 1, "steps": steps, "kept_share": 0.12,
            "kept_bytes": 2**20, **more}


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, text):
        path = os.path.join(self.folder.name, "file.jsonl")
        pathlib.Path(path).write_text(text)
        return path

    def test_a_line_that_was_cut_off_is_run_again(self):
        path = self.write('{"key": "a"}\n{"key": "b"}\n{"key": "c", "mea')
        log = tool.Log(path)
        self.assertEqual(sorted(log.rows), ["a", "b"])
        log.append({"key": "c"})
        log.file.close()
        self.assertEqual(pathlib.Path(path).read_text(), '{"key": "a"}\n{"key": "b"}\n{"key": "c"}\n')

    def test_rows_say_what_is_wrong_with_them(self):
        good = {"key": "a", "prompt": [1], "answer": [2]}
        self.assertEqual(tool.read_rows(self.write(json.dumps(good)), -1), [good])
        for text, error in (("", "no rows"), (json.dumps({**good, "model": 1}) + "\n" + json.dumps({**good, "key": "b", "model": 2}), "several models"),
                            ("nonsense\n", "line 1: not JSON"), ('{"key": "a"}\n', "needs"),
                            (2 * (json.dumps(good) + "\n"), "the same key")):
            with self.assertRaisesRegex(tool.Failure, error):
                tool.read_rows(self.write(text), -1)

    def test_windowkvs_results_are_found_by_their_sample(self):
        row = {"key": "follow niah/1 tova 12% 0123", "dataset": "niah", "_id": "1", "policy": "tova 12%", **measures(1, 1)}
        scored = {**row, "key": "niah/1 tova 12% 0123", "score": 3}
        read = lambda *rows: tool.read_windowkv(self.write("".join(json.dumps(r) + "\n" for r in rows)))
        reference = {"key": "niah/1 4567", "dataset": "niah", "_id": "1", "prompt": [1], "answer": [2]}
        self.assertTrue(read(row, scored)[tool.sample_of(reference)]["tova 12%"]["same_answer"])
        with self.assertRaisesRegex(tool.Failure, "several runs"):
            read(row, {**row, "key": "niah/1 tova 12% 89ab"})
        with self.assertRaisesRegex(tool.Failure, "line 1: not a result"):
            read(reference)


class Table(unittest.TestCase):
    def test_policies_are_compared_on_the_rows_that_all_have(self):
        windowkv = {key: {"windowkv 12%": measures(kl)} for key, kl in (("a", 1), ("b", 2), ("c", 50))}
        results = [{"row": key, "policy": "snapkv", "budget": "12%", **measures(kl, 1)} for key, kl in (("a", 2), ("b", 4))]
        head, own, rival = tool.table(results, windowkv, ["12%"], "windowkv")
        self.assertEqual(own[:2] + own[4:5], ["windowkv 12%", "2", "1.500"])
        self.assertEqual(rival[:2] + rival[4:5], ["kvpress snapkv 12%", "2", "3.000"])
        self.assertEqual(rival[head.index("same")], "100.0 %")
        self.assertEqual(rival[-1], "1.500 [1.000, 2.000]")
        self.assertEqual(own[-1], "")
        self.assertEqual(tool.markdown([head, own]).count("|--:"), len(head) - 1)

    def test_budgets_are_windowkvs(self):
        for budget, n, tokens in (("12%", 1000, 120), ("12%", 589, 70), ("12%:1024", 4000, 1024), ("12%:1024", 20000, 2400),
                                  ("12%:1024", 500, 500), ("512", 4000, 512), ("512", 100, 100), ("0.5%", 100, 1)):
            self.assertEqual(tool.tokens_of(budget, n), tokens, budget)

    def test_the_ratio_keeps_as_many_tokens_as_asked_for(self):
        for n in (10, 589, 1000, 32768):
            for keep in {1, n // 8, n // 3, n - 1}:
                self.assertEqual(int(n * (1 - tool.ratio_for(keep, n))), keep)


try:
    import kvpress
    import torch
    import transformers
except ImportError:
    kvpress = None


@unittest.skipIf(kvpress is None, "kvpress is not installed here; scripts/kvpress.sh --help installs it")
class AgainstKvpress(unittest.TestCase):
    """MiniLong, 400 tokens of prompt: the distributions along an answer as kvpress's own hooks, sdpa and fake
    keys give them, a token at a time."""

    def setUp(self):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.path = str(ROOT / "models" / "minilong-6m-f16.gguf")
        self.model = tool.load_model(self.path, "float32", "cpu")
        ids = torch.randint(10, 4000, (160,)).tolist()
        self.prompt, self.answer = ids + ids[20:140] + ids[:120], torch.randint(10, 4000, (6,)).tolist()

    def theirs(self, press):
        self.model.set_attn_implementation("sdpa")
        cache = transformers.DynamicCache()
        with torch.inference_mode():
            with press(self.model):
                self.model.model(input_ids=torch.tensor([self.prompt]), past_key_values=cache)
            log_probs = []
            for i, token in enumerate(self.answer[:-1]):
                at = torch.tensor([[len(self.prompt) + i]])
                out = self.model(input_ids=torch.tensor([[token]]), past_key_values=cache, position_ids=at)
                log_probs.append(out.logits[0, -1].log_softmax(-1))
        for module in tool.layers_of(self.model):
            module.masked_key_indices = None
        self.model.set_attn_implementation("evicting")
        return torch.stack(log_probs)

    def test_every_press(self):
        tool.use_tokenizer_of(self.path)
        n = len(self.prompt)
        make = lambda name: tool.make_press(kvpress, name, tool.ratio_for(100, n))
        together = {name: make(name) for name in tool.PRESSES if name != "kvzip"}
        with torch.inference_mode():
            full, chosen = tool.prefill(self.model, self.prompt, together)
            chosen["kvzip"] = tool.prefill_alone(self.model, self.prompt, make("kvzip"))
            uncut = tool.distributions(self.model, full, n, self.answer)
            ours = {name: tool.distributions(self.model, layers, n, self.answer) for name, layers in chosen.items()}
        for name in tool.PRESSES:
            with self.subTest(press=name):
                torch.testing.assert_close(ours[name], self.theirs(make(name)), atol=2e-3, rtol=0)
                self.assertGreater(tool.measure(uncut, ours[name])[0], 0.01)  # it did drop something
                pairs = sum(layer.pairs() for layer in chosen[name]) / (len(full) * full[0].keys.shape[1])
                self.assertLessEqual(pairs, 100 + 1)
                self.assertGreater(pairs, 75)  # ChunkKV keeps whole chunks

    def test_the_full_cache_is_the_model(self):
        with torch.inference_mode():
            full, _ = tool.prefill(self.model, self.prompt, {})
            ours = tool.distributions(self.model, full, len(self.prompt), self.answer)
            self.model.set_attn_implementation("eager")
            logits = self.model(input_ids=torch.tensor([self.prompt + self.answer[:-1]])).logits[0]
        torch.testing.assert_close(ours, logits[len(self.prompt) :].log_softmax(-1), atol=1e-3, rtol=0)

    def test_windowkv_keeps_the_same_tokens(self):
        """The methods that both define alike, given the same numbers: windowkv's positions from its trace."""
        command = os.environ.get("WINDOWKV")
        if not command:
            self.skipTest("WINDOWKV does not name the command")
        n, keep = len(self.prompt), 100
        presses = {"snapkv": "snapkv:window_size=32:kernel_size=7", "tova": "tova", "streaming-llm": "streaming-llm"}
        made = {name: tool.make_press(kvpress, text, tool.ratio_for(keep, n)) for name, text in presses.items()}
        # windowkv pools by the maximum, as SnapKV's own code does by default; kvpress by the mean.
        with torch.inference_mode(), unittest.mock.patch("torch.nn.functional.avg_pool1d", torch.nn.functional.max_pool1d):
            full, chosen = tool.prefill(self.model, self.prompt, made)
        for name in presses:
            with self.subTest(policy=name):
                with tempfile.TemporaryDirectory() as folder:
                    path = pathlib.Path(folder) / "trace.json"
                    subprocess.run([command, "run", "-m", self.path, "-t", "1", "--no-chat", "--tokens", "-", "--kv", name,
                                    "--kv-budget", str(keep), "-n", "1", "--trace", path],
                                   input=json.dumps(self.prompt), capture_output=True, text=True, check=True)
                    trace = json.loads(path.read_text())
                self.assertEqual(trace["tokens"], self.prompt)
                same = total = 0
                for group in trace["groups"]:
                    for layer in range(group["first_layer"], group["last_layer"] + 1):
                        for head in range(full[layer].keys.shape[1]):
                            runs = group["kept_by_head"][head] if group.get("kept_by_head") else group["kept"]
                            ours = {at for start, end in runs for at in range(start, end)}
                            kept = chosen[name][layer].keys[0, head]
                            theirs = set(torch.cdist(kept, full[layer].keys[0, head]).argmin(-1).tolist())
                            self.assertEqual(len(ours), keep)
                            self.assertEqual(len(theirs), keep)
                            same, total = same + len(ours & theirs), total + keep
                # K is F16 here and float32 there, and pooling makes ties.
                self.assertGreater(same / total, 0.98)


if __name__ == "__main__":
    unittest.main()
