"""The demo provider: one process that speaks OpenAI's, Anthropic's, Google's and Bedrock's wire formats, with faults on
demand.

    base       what a wire format is to the server
    text       what is said: the answer, its token counts, generated tool arguments (pure)
    openai · anthropic · google · bedrock   how it is asked and said: a wire format each, strict as its provider (pure)
    faults     what goes wrong: latency and faults by default, rule, model name or marker in the prompt (pure)
    wire       the bytes: HTTP heads in, a timed plan of writes out (pure)
    stats      what was seen: counters and the last requests
    server     sockets, control endpoints, `main`

It is written from the providers' public references and shares no code with the gateway's adapters, so that each can
find the other's mistakes.
"""
