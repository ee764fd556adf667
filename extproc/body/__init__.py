"""Bodies as bytes: reading and changing them without decoding more than must be. Pure; imports nothing but `errors`.

members     where the members of a JSON object lie in its text; `splice` changes them there
values      whether a JSON text has too many of them
surrogates  half characters in JSON text, mended
pieces      bytes in several places that are joined once, or never
sse         an event stream, split anywhere -> events
encoding    compressed bytes -> plain ones
"""
