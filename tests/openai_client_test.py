#!/usr/bin/env python3
"""windowkv serve, used with OpenAI's own Python client.   tests/openai_client_test.py WINDOWKV MODEL

Exits with 77, which ctest takes for skipped, where the client is not installed (scripts/openai-client.sh).
"""

import json
import re
import subprocess
import sys

try:
    import openai
except ImportError:
    print("skipped: needs the openai package (scripts/openai-client.sh)")
    sys.exit(77)


class Server:
    def __init__(self, windowkv, model, *flags):
        self.process = subprocess.Popen([windowkv, "serve", "-m", model, "--port", "0", "--chat-template", "chatml", *flags],
                                        stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found[1]
            if "ready after" in line:
                return
        raise SystemExit("the server did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.stderr.read()
        assert self.process.wait(30) == 0, "no clean end"


def expect(holds, what):
    if not holds:
        raise SystemExit(f"FAILED: {what}")


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise SystemExit(f"FAILED: no {kind.__name__}")


def test_chat(client, model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The number of Oslo is 4711. What is it?"}]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0)
    expect(answer.choices[0].message.role == "assistant", "a role")
    expect(answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, "a sum")
    expect(answer.usage.model_extra["kv"]["policy"] == "windowkv", "what the cache kept")
    again = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=8, temperature=0, logprobs=True,
                                           top_logprobs=3, extra_body={"kv": {"budget": "50%", "policy": "snapkv"}})
    expect(again.usage.prompt_tokens_details.cached_tokens > 0, "the prompt's beginning is stored")
    expect(again.usage.model_extra["kv"]["policy"] == "snapkv", "the policy that was asked for")
    expect(len(again.choices[0].logprobs.content[0].top_logprobs) == 3, "three logprobs")

    stream = client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, stream=True,
                                            stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0)
    expect(text == whole.choices[0].message.content, f"the same streamed: {text!r}, {whole.choices[0].message.content!r}")
    expect(chunks[-1].usage.completion_tokens > 0, "usage at the end")
    expect(chunks[-2].choices[0].finish_reason in ("stop", "length"), "a reason to finish")

    parts = [{"type": "text", "text": "Hello"}]
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}], max_tokens=1)


def test_completions(client, model):
    answer = client.completions.create(model=model, prompt=["one two", "three"], max_tokens=3, n=2, seed=1, temperature=1, stop="\n\n\n")
    expect([c.index for c in answer.choices] == [0, 1, 2, 3], "four choices")
    scored = client.completions.create(model=model, prompt="one two three", max_tokens=0, echo=True, logprobs=1)
    logprobs = scored.choices[0].logprobs
    expect(scored.choices[0].text == "one two three" and logprobs.token_logprobs[0] is None, "the prompt, scored")
    expect(all(x < 0 for x in logprobs.token_logprobs[1:]), "logarithms of probabilities")
    biased = client.completions.create(model=model, prompt="one", max_tokens=2, temperature=0, logit_bias={"65": 100})
    expect(biased.choices[0].text, "a biased answer")
    sum_streamed = sum(len(c.choices[0].text) for c in client.completions.create(model=model, prompt="one two", max_tokens=5, stream=True))
    expect(sum_streamed > 0, "streamed text")


def test_responses(client, model):
    answer = client.responses.create(model=model, input="The number of Oslo is", instructions="Be brief.", max_output_tokens=6, temperature=0)
    expect(answer.status in ("completed", "incomplete") and answer.output_text, "a text")
    events = list(client.responses.create(model=model, input=[{"role": "user", "content": "The number of Oslo is"}], instructions="Be brief.",
                                          max_output_tokens=6, temperature=0, stream=True))
    expect("".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text, "the same streamed")
    expect(events[0].type == "response.created" and events[-1].response.usage.output_tokens == answer.usage.output_tokens, "first and last")
    refused(openai.BadRequestError, lambda: client.responses.create(model=model, input="x", previous_response_id="resp_1"))


def test_json(client, model):
    # No integer: a model this small may write digits until its tokens are used up.
    schema = {"type": "object", "properties": {"town": {"enum": ["Oslo", "Rome"]}, "number": {"enum": [1, 22]}},
              "required": ["town", "number"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "x"}], max_tokens=60, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}})
    parsed = json.loads(answer.choices[0].message.content)
    expect(parsed["town"] in ("Oslo", "Rome") and parsed["number"] in (1, 22), "what the schema allows")


WEATHER = {"name": "get_weather", "description": "The weather of a city",
           "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": False}}


def test_tools(client, model):
    """A model of 6 million parameters calls what it must, and what it writes by itself is whatever it is."""
    tools = [{"type": "function", "function": WEATHER}]
    messages = [{"role": "user", "content": "How is the weather in Oslo? " + "The number of Oslo is 4711. " * 40}]
    ask = lambda **more: client.chat.completions.create(model=model, messages=messages, tools=tools, max_tokens=60, temperature=0, **more)
    first = ask(tool_choice="required", parallel_tool_calls=False)
    choice = first.choices[0]
    expect(choice.finish_reason == "tool_calls" and choice.message.content is None, "a call alone")
    call = choice.message.tool_calls[0]
    expect(call.function.name == "get_weather" and json.loads(call.function.arguments)["city"] in ("Oslo", "Rome"), "a call")

    name, arguments, reasons = "", "", set()
    for chunk in ask(tool_choice={"type": "function", "function": {"name": "get_weather"}}, parallel_tool_calls=False, stream=True):
        for part in chunk.choices[0].delta.tool_calls or ():
            name += part.function.name or ""
            arguments += part.function.arguments or ""
        reasons.add(chunk.choices[0].finish_reason)
    expect((name, arguments) == (call.function.name, call.function.arguments), f"the same streamed: {name} {arguments}")
    expect(reasons == {None, "tool_calls"}, "a reason to finish")
    with client.chat.completions.stream(model=model, messages=messages, tools=tools, tool_choice="required", parallel_tool_calls=False,
                                        max_tokens=60, temperature=0) as stream:
        expect(stream.get_final_completion().choices[0].message.tool_calls[0].function.arguments == arguments, "the client's own sum")

    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "4 degrees, rain"}]
    second = ask()
    cached = second.usage.prompt_tokens_details.cached_tokens
    expect(0.9 * first.usage.prompt_tokens < cached < second.usage.prompt_tokens, f"a turn goes on from the last: {cached} tokens")
    expect(ask(tool_choice="none").choices[0].message.tool_calls is None, "no calls where none are wanted")
    error = refused(openai.BadRequestError, lambda: ask(tool_choice={"type": "function", "function": {"name": "other"}}))
    expect(error.param == "tool_choice", "a tool that is not there")

    items = [{"role": "user", "content": "How is the weather in Oslo?"}]
    respond = lambda **more: client.responses.create(model=model, input=items, tools=[{"type": "function", **WEATHER, "strict": True}],
                                                     max_output_tokens=60, temperature=0, **more)
    answer = respond(tool_choice="required", parallel_tool_calls=False)
    expect([item.type for item in answer.output] == ["function_call"] and answer.output[0].name == "get_weather", "a call as an item")
    events = list(respond(tool_choice={"type": "function", "name": "get_weather"}, parallel_tool_calls=False, stream=True))
    expect([e.arguments for e in events if e.type == "response.function_call_arguments.done"] == [answer.output[0].arguments], "the same streamed")
    items += answer.output + [{"type": "function_call_output", "call_id": answer.output[0].call_id, "output": "4 degrees, rain"}]
    expect(respond().usage.input_tokens_details.cached_tokens > 0, "a turn goes on from the last")


def test_errors(client, model):
    expect(refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-9")).code == "model_not_found", "a code")
    error = refused(openai.BadRequestError, lambda: client.completions.create(model=model, prompt="x", temperature=-1))
    expect(error.param == "temperature", "the field that is wrong")
    long = refused(openai.BadRequestError, lambda: client.completions.create(model=model, prompt="word " * 40000))
    expect(long.code == "context_length_exceeded", "a prompt too long")
    refused(openai.AuthenticationError, lambda: client.with_options(api_key="wrong").completions.create(model=model, prompt="x"))


def main():
    windowkv, model_path = sys.argv[1:3]
    with Server(windowkv, model_path, "--api-key", "secret", "--alias", "mini", "-c", "8192") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0)
        model = client.models.list().data[0].id
        expect(model == "mini", "the alias")
        for test in (test_chat, test_completions, test_responses, test_json, test_tools, test_errors):
            test(client, model)
    print("ok")


if __name__ == "__main__":
    main()
