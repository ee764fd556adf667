"""Budgets and rate limits: plan (pure) -> ledger (the nouns) -> redis (the shell) -> outage (when it is away).

windows   which calendar day and month a moment belongs to
ledger    what is asked of the ledger and what it answers; the protocols
plan      settings + estimate -> Reservation; the answer -> headers, max_tokens or an error
redis     the ledger on Valkey or Redis: one Lua call each (lua/*.lua)
outage    what holds while the ledger cannot be reached
reserve   the walk's step: all of these for one request
estimate  how long answers are, learnt from earlier ones; `learnt`: shared between processes
"""
