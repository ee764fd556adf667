"""Traces of requests.

steps          how long each step of a decision took
trace_context  which trace a request belongs to
content        what was said, bounded and without secrets
spans          rows -> a trace
tracing        the thread that reads rows and tells the collector, by `otlp`
"""
