"""Answers kept and given again.

the walk's step
  step       one call: is there an answer, and if not, which tape goes along
  answers    look up, wait for the same request in flight, hand out tickets
  key        a request -> what it is known by; every difference that may change the answer is a difference of keys
  policy     may this request be answered from the cache, and may its answer be kept
  flights    requests that wait for the answer to the same one
  hit        what a look-up comes to; `served`: what its client gets

keeping
  ticket     the right to have an answer kept; `tape`: what of a passing answer is to be
  recording  what passed to a client -> an entry, or why it is not kept
  recorder   tickets and what passed -> the store, behind the reply
  entry      what is kept of an answer; `replay`: an entry -> a whole answer or an event stream
  redis      the store: entries, locks, least recently used first, one script a call
  counts     what happened, for the statistics and metrics

similar questions (ADR 16)
  semantic   the step: a kept answer to a similar question, if it is near enough for its partition
  cascade    which kept text asks the same: `index` (the nearest), `guards` (what rules it out), `confirm` (the network)
  facts      what guards compare, read with `words`, `numbers` and the tables of `lexicon`
  vectors    a kept text's, beside its entry
  sampler    asks the provider too; `agree` compares, `calibrate` moves the threshold, `checks` runs and shares it

setup puts the parts of a process together; `ports` is what the steps wait for.
"""
