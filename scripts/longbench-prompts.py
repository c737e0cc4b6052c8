#!/usr/bin/env python3
"""Rows in LongBench's format for its 16 English datasets, over texts that are at hand, to judge the task classifier on
LongBench's prompts without LongBench's data:

  scripts/longbench-prompts.py OUT-FOLDER [--rows 40] [--multi-news FILE]
  windowkv classify --data OUT-FOLDER

A row has the fields (context, input) in the form that the benchmark's own rows have: numbered passages, dialogues,
examples with their labels, source files. windowkv puts its prompts around them, as it does for the real files. Contexts
come from the haystack, from the source tree (code) and from --multi-news (LongBench's own rows of that set).
Questions are made from the texts. Nothing here is used in training.
"""
import argparse
import glob
import json
import os
import random
import re

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLASSES = ["Abbreviation", "Animal", "City", "Color", "Country", "Date", "Description of a person", "Equivalent term",
           "Individual", "Manner of an action", "Number of something", "Other location", "Reason", "Sport"]
FIRST = "Amanda Ben Carla Dmitri Elena Farid Gwen Hugo Ines Jamal Kira Luis Mona Nils Olga".split()


def words(text):
    return [w for w in re.findall(r"[A-Z][a-z]{3,}", text)] or ["Holmes"]


class Maker:
    def __init__(self, text, code, seed):
        self.random = random.Random(seed)
        self.paragraphs = [p.strip() for p in text.split("\n\n") if len(p) > 80]
        self.code = code

    def story(self, size):
        start = self.random.randrange(len(self.paragraphs))
        out = ""
        while len(out) < size:
            out += self.paragraphs[start % len(self.paragraphs)] + "\n\n"
            start += 1
        return out.strip()

    def passages(self, count, name="Passage"):
        parts = []
        for i in range(count):
            body = self.story(self.random.randrange(300, 1500)).replace("\n\n", " ")
            parts.append(f"{name} {i + 1}:\n{self.random.choice(words(body))}\n{body}" if name == "Passage"
                         else f"{name} {i + 1}: {body}")
        return parts

    def question(self, text):
        a, b = self.random.choice(words(text)), self.random.choice(words(text))
        return self.random.choice([
            f"Who was the brother of {a}?", f"Where was the director of {a} born?", f"Which came first, {a} or {b}?",
            f"What did {a} take from the room?", f"In what year was {a} founded?", f"Why does {a} distrust {b}?",
            f"Are {a} and {b} of the same nationality?", f"When did {a}'s wife die?",
            f"What is the occupation of the man who visited {a}?", f"How many letters did {a} receive?"])

    def dialogue(self):
        who = self.random.sample(FIRST, 2)
        lines = []
        for i in range(self.random.randrange(4, 11)):
            sentence = self.random.choice(re.split(r"(?<=[.!?]) ", self.random.choice(self.paragraphs)))
            lines.append(f"{who[i % 2]}: {sentence[:120].strip()}")
        return "\r\n".join(lines)

    def row(self, dataset):
        r = self.random
        size = r.randrange(4000, 30000)
        if dataset in ("narrativeqa", "multifieldqa_en"):
            text = self.story(size)
            return text, self.question(text)
        if dataset == "qasper":
            text = "Introduction\n" + self.story(size)
            return text, r.choice(["What baselines do they compare with?", "Which datasets are used?", "Do they release code?",
                                   "How large is the corpus?", "What language is studied?", self.question(text)])
        if dataset in ("hotpotqa", "2wikimqa", "musique"):
            text = "\n\n".join(self.passages(r.randrange(6, 12)))
            return text, self.question(text)
        if dataset == "gov_report":
            return "Background\n" + self.story(size), ""
        if dataset == "qmsum":
            turns = "\n".join(f"{r.choice(['Project Manager', 'Marketing', 'Grad C', 'Professor A'])}: "
                              f"{r.choice(self.paragraphs)[:300]}" for _ in range(r.randrange(30, 90)))
            a = r.choice(words(turns))
            return turns, r.choice([f"What did the group discuss about {a}?", f"Summarize the discussion about {a}.",
                                    f"What did Marketing think of {a}?", f"Why did the Project Manager object to {a}?",
                                    "Summarize the whole meeting."])
        if dataset == "trec":
            shots = "".join(f"Question: {self.question(r.choice(self.paragraphs))}\nType: {r.choice(CLASSES)}\n"
                            for _ in range(r.randrange(100, 400)))
            return shots.rstrip("\n"), f"Question: {self.question(r.choice(self.paragraphs))}\nType:"
        if dataset == "triviaqa":
            def example(last):
                body = self.story(r.randrange(800, 4000)).replace("\n\n", "\n")
                answer = "" if last else " " + r.choice(words(body)) + "\n\n"
                return f"Passage:\n{body}\nQuestion:\n{self.question(body)}\nAnswer:{answer}"
            return "".join(example(False) for _ in range(r.randrange(2, 12))).strip(), example(True)
        if dataset == "samsum":
            shots = "\n\n".join(f"Dialogue: {self.dialogue()}\nSummary: {r.choice(self.paragraphs)[:120]}"
                                for _ in range(r.randrange(15, 80)))
            return shots, f"Dialogue: {self.dialogue()}\nSummary: "
        if dataset == "passage_count":
            parts = self.passages(r.randrange(10, 30), "Paragraph")
            return "\n\n".join(parts), ""
        if dataset == "passage_retrieval_en":
            return "\n\n".join(self.passages(30, "Paragraph")), self.story(400)[:500]
        code = r.choice(self.code)
        cut = code.rfind("\n", 0, r.randrange(len(code) // 2, len(code)))
        if dataset == "lcc":
            return code[:cut + 1], ""
        other = r.choice(self.code)
        return f"Path: {r.choice(['lib', 'src/app'])}/module.py\n{other}\n", f"Path: main.py\n{code[:cut + 1]}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--rows", type=int, default=40)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--multi-news", help="LongBench's own multi_news.jsonl")
    args = p.parse_args()
    text = "".join(open(f, encoding="utf-8").read() for f in sorted(glob.glob(f"{ROOT}/data/haystack/*.txt")))
    code = [open(f, encoding="utf-8").read() for f in
            sorted(glob.glob(f"{ROOT}/src/**/*.cpp", recursive=True) + glob.glob(f"{ROOT}/scripts/*.py"))]
    code = [c for c in code if len(c) > 2000]
    os.makedirs(args.out, exist_ok=True)
    names = ["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "gov_report", "qmsum",
             "multi_news", "trec", "triviaqa", "samsum", "passage_count", "passage_retrieval_en", "lcc", "repobench-p"]
    for name in names:
        maker = Maker(text, code, f"{args.seed} {name}")
        rows = []
        if name == "multi_news" and args.multi_news:
            rows = [json.loads(line) for line in open(args.multi_news, encoding="utf-8")][:args.rows]
        for i in range(len(rows), args.rows):
            context, question = maker.row("gov_report" if name == "multi_news" else name)
            rows.append({"context": context, "input": question, "answers": ["1" if name == "passage_count" else "Paragraph 1"],
                         "all_classes": CLASSES, "dataset": name, "_id": f"{name}-{i}"})
        with open(f"{args.out}/{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
