"""The settler: Envoy's word on how each request ended -> audit rows -> the ledger.

an entry's way
  als        the access log service; `follow` reads from Envoy's file (`logfile`) what that did not bring, and skips
             what is `recent`
  intake     what becomes of each entry
  entries    what an entry holds
  settle     a request's entry -> its audit row; `attempts`: an attempt's -> its row; `rows` has both;
             `estimate`: tokens of an answer that was cut
  verdicts   the last word on an attempt, once its request's entry is there
  orphans    requests that nobody told Envoy the team of
  recordings what of a passing answer is to be kept

the journal
  writer     a thread: rows -> `journal`, the SQLite file; `migrations` has its tables
  sums       what a row adds to the sums; `histograms`
  marks      how far each reader of the journal has come
  retention  what is forgotten

what is owed
  dues       what a row owes; `outbox`: what of it is not done yet
  charge     rows -> the ledger
  expiry     holds that nobody settled
  alerts     of budgets and providers, by `webhook`

  health     attempts -> circuits and figures
  main       puts the parts together and ends them
"""
