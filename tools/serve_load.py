#!/usr/bin/env python3
"""Load for an OpenAI-compatible server: many requests, so many at a time, and what they had to wait.

    tools/serve_load.py http://127.0.0.1:8080 --requests 500 --parallel 32 [--lengths 100,2000] [--rude 20]

Every request streams. Its prompt is a text with numbers to look up, a question about one of them, and one of a few
documents before it (--documents), so that prefixes can be shared; answers are greedy. `--rude P` has P percent of
the clients leave early, read slowly, or drop the connection while the prompt is read. `--check` asks every
question again, alone, once the load is over, and counts answers that differ. Standard library alone; works with
llama-server too.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.request

TOWNS = ("Lisbon", "Oslo", "Vienna", "Madrid", "Dublin", "Prague", "Athens", "Warsaw", "Helsinki", "Rome")


def document(words, seed):
    numbers = random.Random(seed)
    parts = []
    while len(parts) * 7 < words:
        parts.append(f"The number of {numbers.choice(TOWNS)} is {numbers.randint(1000, 9999)}.")
    return " ".join(parts)


def prompt_of(index, options):
    numbers = random.Random(options.seed * 1_000_003 + index)
    words = numbers.choice(options.lengths)
    text = document(words, f"{options.seed}-{index % options.documents if options.documents else index}-{words}")
    return f"{text}\nWhat is the number of {numbers.choice(TOWNS)}? The number of", numbers


def body_of(prompt, options, tokens):
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}}
    body.update(options.extra)
    return json.dumps(body).encode()


class Result:
    def __init__(self):
        self.first = None      # seconds to the first token
        self.gaps = []         # seconds between tokens
        self.text = ""
        self.status = None
        self.left = False      # the client went away
        self.cached = 0
        self.prompt_tokens = 0
        self.tokens = 0


async def request(index, options, manners="polite"):
    prompt, numbers = prompt_of(index, options)
    tokens = numbers.choice(options.tokens)
    result = Result()
    reader, writer = await asyncio.open_connection(options.host, options.port, limit=1 << 24)
    try:
        body = body_of(prompt, options, tokens)
        key = f"Authorization: Bearer {options.key}\r\n" if options.key else ""
        writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: {options.host}\r\nContent-Type: application/json\r\n{key}"
                     f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        start = last = time.monotonic()
        if manners == "drops":
            await asyncio.sleep(numbers.random() * 0.3)
            result.left = True
            return result
        result.status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        if result.status != 200:
            return result
        while line := await reader.readline():
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if usage := event.get("usage"):
                result.prompt_tokens = usage["prompt_tokens"]
                result.tokens = usage["completion_tokens"]
                result.cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            if not event.get("choices"):
                continue
            text = event["choices"][0].get("text", "")
            now = time.monotonic()
            if result.first is None:
                result.first = now - start
            else:
                result.gaps.append(now - last)
            last = now
            result.text += text
            if manners == "leaves" and len(result.gaps) > 2:
                result.left = True
                return result
            if manners == "slow":
                await asyncio.sleep(0.05)
        return result
    finally:
        writer.close()


async def retried(index, options, manners):
    for attempt in range(1000):
        try:
            result = await request(index, options, manners)
        except (ConnectionError, asyncio.IncompleteReadError):
            result = Result()
        if result.status not in (429, 503, None) or result.left:
            return result
        await asyncio.sleep(min(0.05 * (attempt + 1), 1))
    return result


async def load(options):
    numbers = random.Random(options.seed)
    waiting = asyncio.Queue()
    for index in range(options.requests):
        manners = numbers.choice(("leaves", "drops", "slow")) if numbers.random() * 100 < options.rude else "polite"
        waiting.put_nowait((index, manners))
    results = [None] * options.requests
    samples = []

    async def client():
        while not waiting.empty():
            index, manners = waiting.get_nowait()
            results[index] = await retried(index, options, manners)
            if options.pid and index % max(1, options.requests // 100) == 0:
                samples.append(resident(options.pid))

    start = time.monotonic()
    await asyncio.gather(*(client() for _ in range(options.parallel)))
    return results, time.monotonic() - start, samples


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=32, help="requests under way at once")
    parser.add_argument("--lengths", type=numbers, default=[30, 150, 600], help="words of the documents")
    parser.add_argument("--tokens", type=numbers, default=[8, 24], help="tokens of the answers")
    parser.add_argument("--documents", type=int, default=0, help="different documents; 0: one a request")
    parser.add_argument("--rude", type=float, default=0, help="percent of clients that leave, drop or read slowly")
    parser.add_argument("--check", type=int, default=0, help="questions to ask again alone")
    parser.add_argument("--pid", type=int, help="of the server, whose memory is watched")
    parser.add_argument("--key", default="")
    parser.add_argument("--extra", type=json.loads, default={}, help="JSON, added to every body")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    address = options.url.removeprefix("http://").rstrip("/")
    options.host, _, port = address.partition(":")
    options.port = int(port or 80)

    results, seconds, memory = asyncio.run(load(options))
    done = [r for r in results if not r.left and r.status == 200 and r.first is not None]
    failed = [r for r in results if not r.left and (r.status != 200 or r.first is None)]
    gaps = [gap for r in done for gap in r.gaps]
    tokens = sum(r.tokens for r in done)
    report = {
        "requests": len(results), "answered": len(done), "left": sum(r.left for r in results), "failed": len(failed),
        "seconds": round(seconds, 2), "tokens_per_s": round(tokens / seconds, 1),
        "requests_per_s": round(len(done) / seconds, 2),
        "prompt_tokens": round(statistics.mean(r.prompt_tokens for r in done), 1) if done else 0,
        "cached_share": round(sum(r.cached for r in done) / max(1, sum(r.prompt_tokens for r in done)), 3),
        "first_token_p50_s": round(percentile([r.first for r in done], 0.5), 3),
        "first_token_p99_s": round(percentile([r.first for r in done], 0.99), 3),
        "inter_token_p50_s": round(percentile(gaps, 0.5), 4), "inter_token_p99_s": round(percentile(gaps, 0.99), 4),
    }
    if len(memory) > 3:
        report["rss_mib"] = {"after_a_quarter": round(memory[len(memory) // 4], 1), "end": round(memory[-1], 1),
                             "most": round(max(memory), 1)}
    if options.check:
        wrong = []
        for index in [i for i, r in enumerate(results) if r in done][:options.check]:
            alone = asyncio.run(request(index, options))
            if alone.text != results[index].text:
                wrong.append(index)
        report["checked"], report["differ"] = min(options.check, len(done)), wrong
    print(json.dumps(report, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
