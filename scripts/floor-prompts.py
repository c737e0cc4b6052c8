#!/usr/bin/env python3
"""Writes prompts of many lengths, from one line to 4,096 tokens, for choosing the least budget (docs/selection.md).

    scripts/floor-prompts.py data/haystack/adventures-of-sherlock-holmes.txt --rows 6 -o floor.jsonl

Rows as `windowkv compare --data` takes them, in ChatML. The dataset is the length in tokens, by an estimate of four
characters a token: a passage of the text with a question about it or an order; the shortest are questions alone.
"""
import argparse
import json
import random

SHORT = ["What is the capital of Australia?", "Write a haiku about rain.", "How many legs does a spider have?",
         "Translate to French: Where is the station?", "Name three primary colours.", "What does HTTP stand for?",
         "Write a Python function that reverses a string.", "Who wrote Pride and Prejudice?",
         "Is 91 a prime number?", "Give one tip for a job interview.", "What is the boiling point of water?",
         "Explain recursion in one sentence."]
ASK = ["Summarize the text above in three sentences.", "Who speaks in the text above, and about what?",
       "What happens in the last paragraph of the text above?", "List the people named in the text above.",
       "Where does the scene above take place?", "Which object in the text above matters most, and why?"]
SYSTEM = "You are a careful assistant. Always answer in one short paragraph and address the user as Captain."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="plain text that passages are cut from")
    parser.add_argument("--rows", type=int, default=6, help="prompts a length (default: %(default)s)")
    parser.add_argument("--answer", type=int, default=48, help="longest answer, tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("-o", "--out", required=True)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with open(args.text, encoding="utf-8") as file:
        text = file.read()
    with open(args.out, "w", encoding="utf-8") as out:
        for length in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            for i in range(args.rows):
                system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if length >= 64 and i % 2 else ""
                if length == 32:
                    user = SHORT[i % len(SHORT)]
                else:
                    ask = ASK[i % len(ASK)]
                    room = max(40, 4 * length - len(system) - len(ask) - 60)
                    at = rng.randrange(len(text) - room)
                    at = text.index(" ", at) + 1
                    user = text[at:at + room].strip() + "\n\n" + ask
                out.write(json.dumps({
                    "_id": f"{length}-{i}", "dataset": f"tokens_{length:04}", "metric": "exact", "task": "localization",
                    "prompt": f"{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n",
                    "answers": [""], "max_new_tokens": args.answer}) + "\n")


if __name__ == "__main__":
    main()
