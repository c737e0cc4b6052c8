#!/usr/bin/env python3
"""Chat templates as windowkv renders them, beside Python's Jinja with the settings of transformers.

    python3 -m venv venv && venv/bin/pip install jinja2
    venv/bin/python tools/compare_templates.py FOLDER [--render build/release/tools/windowkv-render-chat] [-v]

FOLDER holds templates, *.jinja. Each is rendered for several conversations. A cell says:

    =   the same text, to the byte
    /   windowkv and Jinja both refuse the conversation
    !   the texts differ (-v shows where)
    x   windowkv fails, Jinja does not (-v says why)
    +   Jinja fails, windowkv does not
"""

import argparse
import datetime
import difflib
import json
import pathlib
import subprocess
import sys

from jinja2 import exceptions, ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(ext.Extension):
    """{% generation %}, which transformers has for training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def tool(name, description, **parameters):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": parameters, "required": list(parameters)[:1]}}}


TOOLS = [
    tool("get_weather", "The weather in a city.", city={"type": "string", "description": "The city's name."},
         unit={"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Of \"temperatures\"."}),
    tool("add", "Adds numbers.", numbers={"type": "array", "items": {"type": "number"}},
         exact={"type": "boolean", "default": False}),
]


def user(text):
    return {"role": "user", "content": text}


def answer(text, calls=(), reasoning=None):
    message = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [{"id": f"call0000{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
                                 for i, (name, arguments) in enumerate(calls)]
    return message


def result(text, i=0):
    return {"role": "tool", "tool_call_id": f"call0000{i}", "content": text}


WEATHER = ("get_weather", {"city": "Zürich", "unit": "celsius"})
SUM = ("add", {"numbers": [1, 2.5], "exact": True})
SYSTEM = {"role": "system", "content": "Be brief."}
CASES = {
    "plain": {"messages": [user("What is 2 + 2? ")]},
    "turns": {"messages": [user("Hi"), answer(" Hello, \"Bob\"!\n"), user("Wie geht's? 😀")]},
    "system": {"messages": [SYSTEM, user("Hi"), answer("Hello."), user("Again")]},
    "tools": {"messages": [SYSTEM, user("The weather?")], "tools": TOOLS},
    "calls": {"messages": [user("The weather?"), answer("", [WEATHER]), result('{"temperature": 21}')], "tools": TOOLS},
    "calls, answer": {"messages": [SYSTEM, user("Both?"), answer("I look.", [WEATHER, SUM]), result("21 °C"), result("3.5", 1),
                                   answer("It is 21 °C."), user("Thanks")], "tools": TOOLS},
    "thought": {"messages": [user("Why?"), answer("Because.", reasoning="The user asks\n\nwhy."), user("Really?")]},
    "thought, call": {"messages": [user("Weather?"), answer("", [WEATHER], "I need\nthe tool."), result("21")], "tools": TOOLS},
    "not thinking": {"messages": [user("Hi")], "variables": {"enable_thinking": False, "thinking": False,
                                                            "reasoning_effort": "low"}},
}


def reference(env, source, context):
    try:
        return env.from_string(source).render(**context), None
    except Exception as e:  # whatever a template may raise
        return None, f"{type(e).__name__}: {e}"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("folder", type=pathlib.Path)
    args.add_argument("--render", default="build/release/tools/windowkv-render-chat")
    args.add_argument("--only", default="", help="templates whose names have this")
    args.add_argument("-v", "--verbose", action="store_true")
    args = args.parse_args()
    env = environment()
    process = subprocess.Popen([args.render], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    print("| template | " + " | ".join(CASES) + " |\n|---|" + ":-:|" * len(CASES))
    counts = {}
    for path in sorted(args.folder.glob("*.jinja")):
        if args.only not in path.name:
            continue
        source = path.read_text()
        row = []
        for name, case in CASES.items():
            process.stdin.write(json.dumps({"template": source, "bos": "<s>", "eos": "</s>", **case}) + "\n")
            process.stdin.flush()
            ours = json.loads(process.stdout.readline())
            # What windowkv made of the messages; where it made nothing, as transformers would take them.
            context = ours.get("context") or {
                "messages": case["messages"], "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>",
                "enable_thinking": True, **({"tools": case["tools"]} if "tools" in case else {}), **case.get("variables", {})}
            text, error = reference(env, source, context)
            if "text" in ours:
                cell = "+" if text is None else "=" if text == ours["text"] else "!"
            else:
                cell = "/" if text is None else "x"
            row.append(cell)
            counts[cell] = counts.get(cell, 0) + 1
            if args.verbose and cell in "x+":
                print(f"    {path.stem}, {name}: {ours.get('error') if cell == 'x' else error}"[:600])
            if args.verbose and cell == "!":
                print(f"    {path.stem}, {name}:")
                for line in difflib.unified_diff(text.splitlines(True), ours["text"].splitlines(True), "Jinja", "windowkv", n=0):
                    print(f"        {line!r}"[:300])
        print(f"| {path.stem} | " + " | ".join(row) + " |", flush=True)
    process.stdin.close()
    process.wait()
    print("\n" + ", ".join(f"{count} {cell}" for cell, count in sorted(counts.items())))
    return 0 if not set(counts) - {"=", "/", "+"} else 1


if __name__ == "__main__":
    sys.exit(main())
