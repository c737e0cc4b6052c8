#!/usr/bin/env python3
"""Makes rows of the MiniLong families over a text and a seed of your own, in the suite's format.

    scripts/minilong-rows.py TEXT... --seed 1 --rows 40 --out DIR      one DIR/FAMILY.jsonl a family

For choosing settings on rows that the shipped suite (data/minilong-suite) does not hold. Families, forms of
prompts and metrics are the suite's; names, words and facts are drawn by the seed, filler from the text: plain
text, or the prose paragraphs of prompts (data/task-prompts/*.jsonl.xz). Lengths are about 500, 1,000 and 1,900
tokens in turn, by an estimate of characters a token.
"""
import argparse
import json
import lzma
import pathlib
import random
import re
import sys

CHARS_PER_TOKEN = 3.3
MOST_TEXT = 700000  # characters
FIRST = "Nora Ivan Clara Hugo Mona Felix Celia Umar Paula Noah Elsa Oscar Vera Kofi Thea Adam Rosa Leo Julia Frank".split()
LAST = "Haddad Gibson Ellis Torres Keller Lawson Weber Novak Price Larsen Holm Okafor Ito Reed Varga Kim Moreau".split()
CITIES = "Lisbon Oslo Kyoto Havana Denver Rome Perth Cardiff Taipei Bergen Delhi Quito Riga Lyon Porto Basel Cairo Leeds".split()
JOBS = "lawyer baker nurse engineer pilot sailor geologist carpenter teacher painter dentist farmer".split()
ANIMALS = "turtle fox lynx eagle owl dolphin panda tiger bear wolf sparrow otter".split()
COLOURS = "pink green turquoise purple golden yellow red blue white orange silver brown".split()
STUDIES = "economics history philosophy medicine music law chemistry botany".split()
FOODS = "mint honey sesame cumin saffron ginger basil garlic".split()
DISHES = "soup cake pie omelette bread stew".split()
ACTS = ["fly a kite", "play chess", "ride the tram", "drink hot chocolate", "paint a landscape", "watch the sunset",
        "visit the old library", "listen to live jazz", "look for street art"]
WHERE = ["in the old town", "in the main square", "in the night market", "by the harbour", "in the lighthouse"]
WHEN = ["at dusk", "in the spring", "on a sunny day", "in late autumn", "after the rain", "in the early morning"]
HEADS = ["", "Context:\n", "Read the following text and answer the question.\n\n",
         "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it.\n\n",
         "You are given an article and a question. Answer the question as concisely as you can.\n\nArticle: "]


class Maker:
    def __init__(self, text, seed):
        self.text = text
        self.words = sorted({w for w in re.findall(r"\b[a-z]{4,9}\b", text)})
        self.r = random.Random(seed)

    def word(self):
        return self.r.choice(self.words)

    def name(self):
        return f"{self.r.choice(FIRST)} {self.r.choice(LAST)}"

    def filler(self, tokens):
        size = max(40, int(tokens * CHARS_PER_TOKEN))
        at = self.r.randrange(len(self.text) - size - 400)
        at = self.text.find(". ", at) + 1
        return self.text[at:at + size]

    def hide(self, tokens, facts):
        """Filler with the facts at sentence ends, in order."""
        body = self.filler(tokens - sum(len(f) for f in facts) / CHARS_PER_TOKEN)
        ends = [m.end() for m in re.finditer(r"[.!?] ", body)] or [len(body)]
        places = sorted(self.r.choice(ends) for _ in facts)
        out, last = [], 0
        for place, fact in zip(places, facts):
            out += [body[last:place], fact, " "]
            last = place
        return "".join(out) + body[last:]

    def ask(self, body, question):
        if self.r.random() < 0.5:
            return f"<|im_start|>user\n{body}\n\nQuestion: {question}<|im_end|>\n<|im_start|>assistant\n"
        return f"{body}\n\nQuestion: {question}\nAnswer:"

    def fact(self):
        """(statement, question, answer)"""
        r, w, name, city = self.r, self.word(), self.name(), self.r.choice(CITIES)
        number = str(r.randrange(10 ** r.randrange(2, 6), 10 ** 6))
        two = f"{w}-{self.word()}"
        kind = r.randrange(11)
        if kind == 0:
            act, where, when = r.choice(ACTS), r.choice(WHERE), r.choice(WHEN)
            return (f"The best thing to do in {city} is {act} and sit {where} {when}.",
                    f"What is the best thing to do in {city}?", f"{act} and sit {where} {when}.".capitalize())
        if kind in (1, 2):
            return (f"One of the special magic numbers for {two} is: {number}.",
                    f"What is the special magic number for {two} mentioned in the provided text?", number)
        if kind == 3:
            words = " ".join(self.word() for _ in range(r.randrange(5, 9)))
            return f'The motto of the {w} society is "{words}".', f"What is the motto of the {w} society?", words
        if kind == 4:
            food, dish = r.choice(FOODS), f"{r.choice(COLOURS)} {r.choice(DISHES)}"
            return f"The secret ingredient of the {dish} is {food}.", f"What is the secret ingredient of the {dish}?", food
        if kind == 5:
            return f"{name} was born in {city}.", f"Where was {name} born?", city
        if kind == 6:
            word = f"{self.word()} {self.word()} {r.randrange(10, 99)}"
            return f'The password of the {w} is "{word}".', f"What is the password of the {w}?", word
        if kind == 7:
            job = r.choice(JOBS)
            return f"{name} works as a {job}.", f"What is the profession of {name}?", job
        if kind == 8:
            animal = r.choice(ANIMALS)
            return f"{name} keeps a {animal} at home.", f"Which animal does {name} keep at home?", animal
        if kind == 9:
            return f"The magic number for {w} is {number}.", f"What is the magic number for {w}?", number
        colour = r.choice(COLOURS)
        return f"{name}'s favorite color is {colour}.", f"What is {name}'s favorite color?", colour

    def needles(self, tokens):
        facts = [self.fact() for _ in range(self.r.randrange(1, 4))]
        statement, question, answer = self.r.choice(facts)
        body = self.r.choice(HEADS) + self.hide(tokens, [f[0] for f in facts])
        return dict(prompt=self.ask(body, question), answers=[answer], metric="qa_f1", max_new_tokens=40,
                    task="localization")

    def keyvalue(self, tokens):
        forms = [("One of the special magic numbers for {k} is: {v}.", "What is the special magic number for {k}?", 20),
                 ("line {w}: REGISTER_CONTENT is <{v}>", "What is the REGISTER_CONTENT in line {w}?", 13),
                 ("{k}: {v}", "What is the value of {k}?", 11)]
        form, question, size = self.r.choice(forms)
        records = [dict(k=f"{self.word()}-{self.word()}", w=self.word(), v=self.r.randrange(100000, 999999))
                   for _ in range(max(4, int(tokens / size / 1.15)))]
        target = self.r.choice(records)
        head = self.r.choice(["Memorize the following records.\n\n", "Below is a list of keys and values.\n"])
        body = head + "\n".join(form.format(**x) for x in records) + "\n"
        return dict(prompt=self.ask(body, question.format(**target)), answers=[str(target["v"])], metric="exact",
                    max_new_tokens=16, task="localization")

    def bios(self, tokens):
        people, passages, size = [], [], 0
        while size < tokens * CHARS_PER_TOKEN - 300:
            name, first = self.name(), None
            if any(p["name"] == name for p in people):
                continue
            first = name.split()[0]
            p = dict(name=name, city=self.r.choice(CITIES), year=self.r.randrange(1850, 2000), now=self.r.choice(CITIES),
                     job=self.r.choice(JOBS), study=self.r.choice(STUDIES), animal=self.r.choice(ANIMALS))
            lines = [f"Today {name} lives in {p['now']}.", f"At home there is a {self.r.choice(COLOURS)} {p['animal']}.",
                     f"{first} studied {p['study']} and became a {p['job']}."]
            self.r.shuffle(lines)
            passage = f"{name}\n{name} was born in {p['city']} in {p['year']}. " + " ".join(lines)
            if self.r.random() < 0.5:
                passage += self.filler(self.r.randrange(20, 60))
            people.append(p)
            passages.append(passage)
            size += len(passage) + 15
        p = self.r.choice(people)
        question, answer = self.r.choice([
            (f"In which year was {p['name']} born?", p["year"]), (f"Where was {p['name']} born?", p["city"]),
            (f"Where does {p['name']} live today?", p["now"]), (f"What is the job of {p['name']}?", p["job"]),
            (f"What did {p['name']} study?", p["study"]),
            (f"Which animal lives at the home of {p['name']}?", p["animal"])])
        body = ("Answer the question based on the given passages. Only give me the answer and do not output any other "
                "words.\n\nThe following are given passages.\n" +
                "\n\n".join(f"Passage {i + 1}:\n{x}" for i, x in enumerate(passages)) + "\n\n")
        return dict(prompt=self.ask(body, question), answers=[str(answer)], metric="qa_f1", max_new_tokens=16,
                    task="localization")

    def cloze(self, tokens):
        body = self.filler(tokens)
        sentences = [s for s in re.findall(r"(?<=[.!?”]) ([A-Z“][^.!?]{40,110}[.!?])", body)]
        sentence = self.r.choice(sentences) if sentences else body[100:180]
        cut = self.r.randrange(14, 30)
        prompt = (f"<|im_start|>user\n{body}\n\nHow does the sentence that begins as follows continue in the text?\n"
                  f" {sentence[:cut]}<|im_end|>\n<|im_start|>assistant\n")
        return dict(prompt=prompt, answers=[sentence[cut:].strip()], metric="rouge_l", max_new_tokens=56,
                    task="localization")

    def multivalue(self, tokens):
        keys = [self.word() for _ in range(3)]
        facts = [(k, self.r.randrange(10000, 99999)) for k in keys[1:]]
        facts += [(keys[0], self.r.randrange(10000, 99999)) for _ in range(self.r.randrange(2, 5))]
        self.r.shuffle(facts)
        body = self.r.choice(HEADS) + self.hide(
            tokens, [f"One of the special magic numbers for {k} is: {v}." for k, v in facts])
        question = f"What are all the special magic numbers for {keys[0]} mentioned in the provided text?"
        return dict(prompt=self.ask(body, question), answers=[", ".join(str(v) for k, v in facts if k == keys[0])],
                    metric="list_recall", max_new_tokens=48, task="localization")

    def fewshot(self, tokens):
        forms = {"Definition": ["What is the meaning of {w}?", "Define the word {w}.", "What does {w} mean?"],
                 "Animal": ["What animal eats {w}?", "What pet does {n} keep?", "Which {c} animal lives near {t}?"],
                 "Color": ["What color is the {w}?", "Which color does {n} like?", "What is the color of a {c} {w}?"],
                 "Reason": ["Why is the {w} {c}?", "What causes a {w}?", "Why did {n} leave {t}?"],
                 "Person": ["Who is {n}?", "Who was the first {j} of {t}?", "Who invented the {w}?"],
                 "Location": ["Where did {n} go?", "What country is {t} in?", "What city has the largest {w}?"]}
        kinds = self.r.sample(sorted(forms), self.r.randrange(3, 6))
        label = {k: k for k in kinds} if self.r.random() < 0.5 else {k: self.word() for k in kinds}

        def question():
            kind = self.r.choice(kinds)
            return kind, self.r.choice(forms[kind]).format(
                w=self.word(), n=self.name(), c=self.r.choice(COLOURS), t=self.r.choice(CITIES), j=self.r.choice(JOBS))

        shots, size = [], 0
        while size < tokens * CHARS_PER_TOKEN - 150:
            kind, q = question()
            shots.append(f"Question: {q}\nType: {label[kind]}\n")
            size += len(shots[-1])
        kind, q = question()
        prompt = ("Please determine the type of the question below. Here are some examples of questions.\n\n" +
                  "".join(shots) + f"Question: {q}\nType:")
        return dict(prompt=prompt, answers=[label[kind]], all_classes=sorted(label.values()), metric="classification",
                    max_new_tokens=12, task="aggregation")

    def keypoints(self, tokens):
        def point():
            w, n, t = self.word(), self.name(), self.r.choice(CITIES)
            return self.r.choice([f"{n} asked for a review of the {w} plan.", f"{n} will lead the {w} project.",
                                  f"The {w} program was moved to {t}.", f"The committee decided to rename the {w} in {t}.",
                                  f"Spending on {w} rose by {self.r.randrange(5, 70)} percent in {t}."])
        points = [point() for _ in range(self.r.randrange(1, 5))]
        body = ("You are given a report. Write a summary of the report that lists its key points.\n\nReport:\n\nSection 1\n" +
                self.hide(tokens, ["Key point: " + p for p in points]) + "\n\nNow, write a summary of the report.")
        prompt = (f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n" if self.r.random() < 0.5
                  else f"{body}\nAnswer:")
        return dict(prompt=prompt, answers=[" ".join(points)], metric="rouge_l", max_new_tokens=120, task="aggregation")

    def common(self, tokens):
        count = max(20, int(tokens / 7.2))
        top = self.r.choice([1, 2, 3, 5])
        frequent = self.r.sample(self.words, top)
        words = [self.r.choice(frequent) for _ in range(count // 2)]
        words += self.r.sample(self.words, count - len(words))
        self.r.shuffle(words)
        listed = " ".join(f"{i + 1}. {w}" for i, w in enumerate(words))
        prompt = ("Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
                  f"ones that appear most often.\n{listed} \nQuestion: What are the {top} most common words in the above "
                  "list?\nAnswer:")
        return dict(prompt=prompt, answers=[", ".join(sorted(frequent))], metric="list_recall", max_new_tokens=64,
                    task="aggregation")


FAMILIES = ["bios", "cloze", "common", "fewshot", "keypoints", "keyvalue", "multivalue", "needles"]


def prose(path):
    """The text of a file; of prompts, its paragraphs that read as prose, each once."""
    if path.suffix != ".xz":
        return path.read_text(encoding="utf-8").split("\n\n")
    paragraphs = {}
    with lzma.open(path, "rt", encoding="utf-8") as rows:
        for row in rows:
            for text in json.loads(row)["text"].split("\n\n"):
                text = text.replace("\n", " ").strip()
                marks = re.findall(r"[{}<>|_=#@\[\]\\/*]", text)
                if (250 <= len(text) <= 3000 and len(marks) <= 2 and sum(c.isdigit() for c in text) <= 6 and
                        len(re.findall(r"[.!?] ", text)) >= 3 and ":" not in text[:40]):
                    paragraphs[text] = None
    return list(paragraphs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="+", type=pathlib.Path, help="plain text the filler is taken from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60, help="a family")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder; made if absent")
    args = parser.parse_args()
    text = "\n\n".join(p for path in args.text for p in prose(path))[:MOST_TEXT]
    if len(text) < 20000:
        sys.exit(f"minilong-rows: {len(text)} characters of text are too few; give 20,000 or more")
    args.out.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        maker = Maker(text, f"{args.seed} {family}")
        with open(args.out / f"{family}.jsonl", "w", encoding="utf-8") as out:
            for i in range(args.rows):
                tokens = (420, 900, 1750)[i % 3]
                row = dict(_id=f"{family}-{args.seed}-{i}", dataset=f"minilong_{family}", language="en", length=tokens)
                row.update(getattr(maker, family)(tokens))
                row.setdefault("all_classes", None)
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
