"""Providers' formats: OpenAI's request -> theirs, their answer -> OpenAI's chunks. Sans-I/O.

base       the contract; `registry`: which adapter speaks which format
openai     passes through; also Azure
anthropic  with `anthropic_request`; `bedrock`: the same in AWS's frames (`eventstream`)
google     with `google_request`

of a request  `parts` (content), `tools`, `params`, `toolids`, `schema`: read once for all who translate
of an answer  `reader` (what all share), `toolcalls`, `usage`, `failures`; then `emit` (chunks -> the client's
              stream) or `fold` (-> one body)
"""
