"""Answers kept and given again.

key        a request -> what it is known by; every difference that may change the answer is a difference of keys
policy     may this request be answered from the cache, and may its answer be kept
entry      what is kept of an answer
recording  what passed to a client -> an entry, or why it is not kept
replay     an entry -> a whole answer or an event stream
answers    the walk's step: look up, wait for the same request in flight, hand out tickets
recorder   tickets and what passed -> the store, behind the reply
redis      the store: entries, locks, least recently used first, one script a call
counts     what happened, for the statistics and metrics
"""
